"""The label job: plan, minus what is done, run by an engine, summed up. The whole job on one screen.

:func:`run_label` is the spine; what each line of it means is below.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config import LabelConfig, fingerprint
from pipeline.engines import Engine, InlineEngine, RayEngine, Workload
from pipeline.errors import BudgetError, InputError, OutputError, StorageError
from pipeline.labeler import UNITS_AT_ONCE, Labeler, LabelerConfig, num_chunk_images
from pipeline.labels import names_for, parse_names
from pipeline.ledger import JOB, PREDICTIONS, QUARANTINE, SUCCESS, Ledger, Progress
from pipeline.models.weights import ResolvedMember, check_one_label_space, resolve
from pipeline.planning import Inputs, Plan, count_samples, find_inputs
from pipeline.progress import Reporter, Tracker, make_reporter
from pipeline.records import Receipt, Unit
from pipeline.storage import Storage, absolute_uri

DEFAULT_ROWS_PER_PART = 10_000
_MIN_SAMPLES_FOR_BUDGET = 1_000
_COUNT_BUDGET_S = 2.0


@dataclass(frozen=True, slots=True)
class FailedUnit:
    """A unit that could not be read to its end."""

    uri: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class LabelSummary:
    """What one run of a job did.

    Attributes:
        out: Where the output is.
        images: Samples this run went through.
        labelled: Of these, labelled.
        quarantined: Of these, not labelled, by reason.
        events: Damage to shards that belongs to no single sample, by reason.
        seconds: From the first read to the last commit.
        images_per_s: ``images / seconds``.
        parts: Parts published by this run.
        units_done, units_total: Of the whole plan.
        failed_units: Units that could not be read to their end.
        interrupted: Whether the run was stopped by a signal.
        bad_rate_exceeded: Whether it stopped because too many samples were bad.
        stage_s: Seconds per stage, summed over threads.
    """

    out: str
    images: int
    labelled: int
    quarantined: dict[str, int]
    events: dict[str, int]
    seconds: float
    images_per_s: float
    parts: int
    units_done: int
    units_total: int
    failed_units: tuple[FailedUnit, ...]
    interrupted: bool = False
    bad_rate_exceeded: bool = False
    stage_s: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """What the command line exits with."""
        if self.bad_rate_exceeded:
            return BudgetError.exit_code
        if self.interrupted:
            return 130
        return 4 if self.failed_units else 0

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form."""
        values = dataclasses.asdict(self)
        return {name: round(v, 3) if isinstance(v, float) else v for name, v in values.items()}


def run_label(config: LabelConfig, reporter: Reporter | None = None) -> LabelSummary:
    """Run a labelling job, or what is left of it.

    Raises:
        RequestError: The request is wrong; nothing was written.
        EngineError: The engine failed for good; what was published stays.
    """
    storage = Storage(config.storage)
    ledger = Ledger(_out_uri(config.out), storage)
    earlier = ledger.read_json(JOB)
    requested = config.members
    inputs = find_inputs(config.inputs, storage)
    with contextlib.closing(_engine(config)) as engine:
        members = [resolve(member, config.weights_dir, storage) for member in requested]
        job = _describe_job(config, members, engine, storage, earlier)
        _claim(ledger, job, earlier, overwrite=config.overwrite)
        reporter = reporter or make_reporter(config.progress)
        for note in inputs.notes:
            reporter.note(note)
        plan = _plan(ledger, storage, inputs, job, config.limit)
        return _run(config, plan, job, members, engine, ledger, storage, reporter)


def _run(
    config: LabelConfig,
    plan: Plan,
    job: _Job,
    members: list[ResolvedMember],
    engine: Engine,
    ledger: Ledger,
    storage: Storage,
    reporter: Reporter,
) -> LabelSummary:
    progress = ledger.progress()
    pending = [unit for unit in plan.units if not progress.get(unit.id, Progress()).complete]
    if len(pending) < len(plan.units):
        reporter.note(f"resuming: {len(plan.units) - len(pending)} of {len(plan.units)} units are done")
    tracker = Tracker(_left_to_do(pending, progress, job, storage))
    over_budget = False
    with _stop_on_signals(reporter) as stop:
        if pending:
            workload = _workload(config, job, members, pending, progress)
            for item in engine.run(workload, stop.event):
                if item is not None:
                    tracker.take(Receipt.from_dict(item))
                reporter.update(tracker.snapshot())
                if not over_budget and _bad_rate(tracker) > config.max_bad_rate:
                    over_budget = True
                    stop.event.set()
    summary = _summary(plan, tracker, ledger, interrupted=stop.by_signal, bad_rate_exceeded=over_budget)
    if summary.units_done == summary.units_total:
        _write_success(ledger, plan, job.fingerprint, tracker)
    reporter.close(summary.to_dict())
    return summary


# -- what is asked for ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Job:
    """The job in full: what ``job.json`` holds, and what the labelers need."""

    content: dict[str, Any]
    fingerprint: str
    class_names: tuple[str, ...]
    device: str
    precision: Any
    compiled: bool
    rows_per_part: int


def _out_uri(out: str) -> str:
    try:
        return absolute_uri(out)
    except StorageError as error:
        raise OutputError(f"OUT {error}") from error


def _engine(config: LabelConfig) -> Engine:
    if config.engine == "inline":
        return InlineEngine()
    return RayEngine(config.ray_address, verbose=config.verbose)


def _describe_job(
    config: LabelConfig,
    members: list[ResolvedMember],
    engine: Engine,
    storage: Storage,
    earlier: Mapping[str, Any] | None,
) -> _Job:
    specs = [member.spec for member in members]
    num_classes = check_one_label_space(specs)
    class_names = names_for(num_classes, _given_names(config.labels, storage))
    kept = {} if earlier is None or config.overwrite else earlier.get("results", {})
    device = _device(config, engine)
    precision = config.precision if config.precision != "auto" else kept.get("precision") or _auto_precision(device)
    rows_per_part = config.rows_per_part or kept.get("rows_per_part") or DEFAULT_ROWS_PER_PART
    results = {
        "members": [dataclasses.asdict(spec) for spec in specs],
        "labels_sha256": hashlib.sha256("\n".join(class_names).encode()).hexdigest(),
        "combine": config.combine,
        "top_k": config.top_k,
        "precision": precision,
        "decode": config.decode,
        "keep": list(config.keep),
        "rows_per_part": rows_per_part,
    }
    mark = fingerprint(results)
    content = {
        "shardlabel": _version("shardlabel"),
        "fingerprint": mark,
        "results": results,
        "class_names": list(class_names),
        "inputs": _merged((earlier or {}).get("inputs", []), config.inputs),
        "device": device,
        "versions": {name: _version(name) for name in ("torch", "torchvision", "torchcodec", "pillow", "pyarrow", "ray")},
    }
    return _Job(content, mark, class_names, device, precision, bool(config.compile), rows_per_part)


def _given_names(path: str | None, storage: Storage) -> tuple[str, ...] | None:
    if path is None:
        return None
    try:
        return parse_names(storage.read(absolute_uri(path)).decode("utf-8-sig"), path)
    except StorageError as error:
        raise InputError(f"--labels {error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--labels {path}: not UTF-8 text") from error


def _device(config: LabelConfig, engine: Engine) -> str:
    if config.device == "cpu":
        return "cpu"
    num_gpus = engine.num_gpus()
    if config.device == "cuda" and not num_gpus:
        raise InputError("--device cuda: no GPU was found; leave the option out to label on the CPU")
    return "cuda" if num_gpus else "cpu"


def _auto_precision(device: str) -> str:
    """fp32 on a CPU; on a GPU fp16 with fp32 for near ties, which keeps fp32's labels."""
    return "mixed" if device == "cuda" else "fp32"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _merged(older: list[str], newer: tuple[str, ...]) -> list[str]:
    words = [word if word.startswith(("@", "s3://")) else os.path.abspath(os.path.expanduser(word)) for word in newer]
    return list(dict.fromkeys([*older, *words]))


def _claim(ledger: Ledger, job: _Job, earlier: Mapping[str, Any] | None, *, overwrite: bool) -> None:
    """Make sure that OUT is this job's, or make it so."""
    if earlier is None:
        if ledger.names(PREDICTIONS):
            raise OutputError(f"{ledger.out}: holds predictions of something else (no {JOB}); choose another --out")
    elif earlier.get("fingerprint") != job.fingerprint:
        if not overwrite:
            differing = _differences(earlier.get("results", {}), job.content["results"])
            raise OutputError(
                f"{ledger.out} was made by a different job; it differs in {', '.join(differing)}. "
                "Choose another --out, or pass --overwrite to replace it"
            )
        ledger.clear()
    ledger.write_json(JOB, job.content)


def _differences(older: Mapping[str, Any], newer: Mapping[str, Any]) -> list[str]:
    found = []
    for name in newer:
        if older.get(name) == newer[name]:
            continue
        if name == "members":
            found.append(f"members ({_aliases(older.get(name, []))} then, {_aliases(newer[name])} now)")
        elif isinstance(newer[name], str | int) and not name.endswith("sha256"):
            found.append(f"{name} ({older.get(name)} then, {newer[name]} now)")
        else:
            found.append(name)
    return found


def _aliases(members: list[dict[str, Any]]) -> str:
    return ", ".join(f"{member['alias']}@{member['weights_sha256'][:8]}" for member in members)


# -- what is to be done -----------------------------------------------------------------------------------


def _plan(ledger: Ledger, storage: Storage, inputs: Inputs, job: _Job, limit: int | None) -> Plan:
    plan = Plan(ledger, storage)
    plan.add(inputs, limit)
    if not plan.units:
        raise InputError("no samples were found in the inputs")
    plan.write()
    if plan.replaced:
        ledger.withdraw_success()
        ledger.remove_units(plan.replaced)
    return plan


def _left_to_do(
    pending: list[Unit], progress: Mapping[str, Progress], job: _Job, storage: Storage
) -> dict[str, tuple[Unit, int | None]]:
    """For each pending unit, how many samples it still has, where that can be known quickly."""
    counts = count_samples(pending, storage, _COUNT_BUDGET_S)
    left: dict[str, tuple[Unit, int | None]] = {}
    for unit in pending:
        done = len(progress.get(unit.id, Progress()).parts) * job.rows_per_part
        count = counts.get(unit.id)
        left[unit.id] = (unit, None if count is None else max(0, count - done))
    return left


def _workload(
    config: LabelConfig,
    job: _Job,
    members: list[ResolvedMember],
    pending: list[Unit],
    progress: Mapping[str, Progress],
) -> Workload:
    settings = {
        "out": _out_uri(config.out),
        "fingerprint": job.fingerprint,
        "members": tuple(member.spec for member in members),
        "class_names": job.class_names,
        "rule": config.combine,
        "top_k": config.top_k,
        "precision": job.precision,
        "compiled": job.compiled,
        "device": job.device,
        "batch_size": num_chunk_images(config.batch_size, job.device),
        "fast_decode": config.decode == "fast",
        "rows_per_part": job.rows_per_part,
        "keep": config.keep,
        "storage": config.storage,
    }
    return Workload(
        factory=functools.partial(make_worker, settings),
        blobs={member.spec.alias: member.blob for member in members},
        items=[
            {"unit": unit.to_dict(), "parts_done": len(progress.get(unit.id, Progress()).parts)} for unit in pending
        ],
        items_at_once=UNITS_AT_ONCE,
        on_gpu=job.device == "cuda",
        num_workers=None if config.workers == "auto" else config.workers,
        num_threads=None if config.decode_threads == "auto" else config.decode_threads,
    )


def make_worker(
    settings: Mapping[str, Any], blobs: Mapping[str, bytes], num_threads: int
) -> Callable[[dict[str, Any], Callable[[], bool]], Iterator[dict[str, Any]]]:
    """A labeler as engines want it: dicts in, dicts out."""
    labeler = Labeler(LabelerConfig(num_threads=num_threads, **settings), blobs)

    def work(item: dict[str, Any], stopping: Callable[[], bool]) -> Iterator[dict[str, Any]]:
        for receipt in labeler(Unit.from_dict(item["unit"]), item["parts_done"], stopping):
            yield receipt.to_dict()

    return work


# -- while it runs, and after -----------------------------------------------------------------------------


class _Stop:
    """Set by a signal or by the failure budget."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.by_signal = False


@contextlib.contextmanager
def _stop_on_signals(reporter: Reporter) -> Iterator[_Stop]:
    """SIGINT and SIGTERM ask for a stop; a second SIGINT leaves at once. A no-op off the main thread."""
    stop = _Stop()

    def ask(number: int, _frame: object) -> None:
        if stop.by_signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.by_signal = True
        stop.event.set()
        reporter.note("stopping: finishing the parts in flight where that takes less than 10 s (again to leave now)")

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    older = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in older.items():
            signal.signal(number, handler)


def _bad_rate(tracker: Tracker) -> float:
    """Share of quarantined samples, once there are enough to judge."""
    images = sum(receipt.num_samples for receipt in tracker.receipts.values())
    if images < _MIN_SAMPLES_FOR_BUDGET:
        return 0.0
    return sum(tracker.quarantined().values()) / images


def _summary(
    plan: Plan, tracker: Tracker, ledger: Ledger, *, interrupted: bool, bad_rate_exceeded: bool
) -> LabelSummary:
    receipts = list(tracker.receipts.values())
    uris = {unit.id: unit.uri for unit in plan.units}
    progress = ledger.progress()
    images = sum(receipt.num_samples for receipt in receipts)
    started = min((receipt.started_at for receipt in receipts), default=0.0)
    committed = max((receipt.committed_at for receipt in receipts), default=0.0)
    seconds = max(0.0, committed - started)
    events: dict[str, int] = {}
    stage_s: dict[str, float] = {}
    for receipt in receipts:
        for reason, count in receipt.num_events.items():
            events[reason] = events.get(reason, 0) + count
        for stage, spent in receipt.stage_s.items():
            stage_s[stage] = round(stage_s.get(stage, 0.0) + spent, 3)
    return LabelSummary(
        out=ledger.out,
        images=images,
        labelled=sum(receipt.num_labelled for receipt in receipts),
        quarantined=dict(tracker.quarantined()),
        events=events,
        seconds=seconds,
        images_per_s=images / seconds if seconds else 0.0,
        parts=sum(len(receipt.parts) for receipt in receipts),
        units_done=sum(progress.get(unit.id, Progress()).complete for unit in plan.units),
        units_total=len(plan.units),
        failed_units=tuple(
            FailedUnit(uris[receipt.unit_id], receipt.failure, receipt.message) for receipt in receipts if receipt.failure
        ),
        interrupted=interrupted,
        bad_rate_exceeded=bad_rate_exceeded,
        stage_s=stage_s,
    )


def _write_success(ledger: Ledger, plan: Plan, mark: str, tracker: Tracker) -> None:
    """The exact list of parts with row counts; counts not seen in this run are read from the footers."""
    units = {unit.id for unit in plan.units}
    ledger.remove_unreadable(units)
    seen = {name: counts for receipt in tracker.receipts.values() for name, counts in receipt.parts.items()}
    progress = ledger.progress()
    predictions = [str(part) for unit in plan.units for part in progress[unit.id].parts]
    content: dict[str, Any] = {"fingerprint": mark, "finished_at": int(time.time()), "units": len(units)}
    for folder, position, names in (
        (PREDICTIONS, 0, predictions),
        (QUARANTINE, 1, sorted(set(ledger.names(QUARANTINE)) & set(predictions))),
    ):
        known = {name: seen[name][position] for name in names if name in seen}
        known |= ledger.row_counts(folder, [name for name in names if name not in known])
        content[folder] = {name: known[name] for name in names}
    ledger.write_json(SUCCESS, content)
