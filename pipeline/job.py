"""The label job: plan, minus what is done, run by an engine, summed up. The whole job on one screen.

:func:`run_label` is the spine; what each line of it means is below.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, overload

from pipeline.commission import Job, claim, describe_job, fit_memory, replaced_jobs
from pipeline.config import LabelConfig, RunConfig, label_config
from pipeline.engines import InlineEngine, RayEngine
from pipeline.errors import EngineError, InputError, OutputError, PublishError, StorageError
from pipeline.inputs import Inputs, find_inputs
from pipeline.labeler import UNITS_AT_ONCE, Labeler
from pipeline.labeler_config import LabelerConfig
from pipeline.ledger import JOB, PREDICTIONS, QUARANTINE, SUCCESS, UNITS, Ledger
from pipeline.metering import JobMeter
from pipeline.metrics import Meter, job_labels
from pipeline.models.anatomy import of_member
from pipeline.models.tuning import is_long
from pipeline.models.weights import ResolvedMember, resolve
from pipeline.outcome import Budget, LabelSummary, sum_up
from pipeline.parts import Progress
from pipeline.planning import Plan, count_samples, read_units
from pipeline.progress import Reporter, Tracker, make_reporter
from pipeline.records import UNAVAILABLE, Receipt, Unit
from pipeline.replay import Replayer
from pipeline.reuse import Shared, open_older, shared_with
from pipeline.stopping import stop_on_signals
from pipeline.storage import Storage
from pipeline.workload import Engine, Item, Workload

_COUNT_BUDGET_S = 2.0
_USUAL_IMAGE_BYTES = 100_000


def label(
    inputs: str | os.PathLike[str] | Sequence[str],
    out: str | os.PathLike[str],
    **options: Any,  # noqa: ANN401 - the words of LabelConfig, which checks them
) -> LabelSummary:
    """Label images; the same words as ``shardlabel label``, with underscores.

    Args:
        inputs: One INPUT or several.
        out: Directory or ``s3://`` prefix.
        **options: See ``shardlabel label --help``.

    Raises:
        RequestError: The request is wrong; nothing was written.
        EngineError: The engine failed for good; what was published stays.
    """
    config_file = options.pop("config", None)
    options.setdefault("progress", "none")
    return run_label(label_config({"inputs": inputs, "out": out, **options}, config_file))


def run_label(config: LabelConfig, reporter: Reporter | None = None) -> LabelSummary:
    """Run a labelling job, or what is left of it.

    Raises:
        RequestError: The request is wrong; nothing was written.
        EngineError: The engine failed for good; what was published stays.
    """
    storage = Storage(config.storage)
    ledger = Ledger(config.out, storage)
    earlier = ledger.read_json(JOB)
    requested = config.members
    older = None if config.reuse is None else open_older(config.reuse, ledger, storage)
    inputs = find_inputs(config.inputs, storage)
    with (
        contextlib.closing(make_engine(config)) as engine,
        contextlib.closing(reporter or make_reporter(config.progress)) as shown,
    ):
        members = [resolve(member, config.weights_dir, storage, shown.download) for member in requested]
        job = describe_job(config, members, engine, storage, earlier, older.job if older else None)
        fitting = fit_memory(config, members, job, engine)
        config = config.model_copy(update={"batch_size": fitting.batch_size or "auto"})
        claim(ledger, job, overwrite=config.overwrite)
        ledger.sweep()
        notes = (*inputs.notes, *([fitting.note] if fitting.note else []))
        for note in notes:
            shown.note(note)
        prepare = functools.partial(_agenda, config, ledger, storage, inputs, job.fingerprint)
        agenda = _while_starting(engine, ledger, prepare)
        del inputs  # of a million tars, 300 MB
        shared = None
        if older is not None:
            shared = shared_with(older, job.content["results"])
            stored = shared.stored(older.ledger, agenda.pending)
            agenda = dataclasses.replace(agenda, stored=stored)
            shown.note(shared.note(len(stored), len(agenda.pending)))
        left = _left_to_do(agenda, job, storage)

        def workload() -> Workload:
            trying = job.device == "cpu" and _is_long(left.values(), members, engine)
            return _workload(config, ledger.out, job, members, agenda, shared, trying=trying)

        summary = carry_out(config, agenda, left, job, workload, engine, ledger, storage, shown)
        summary = dataclasses.replace(summary, notes=notes)
        shown.finish(summary.to_dict())
    return summary


def carry_out(
    config: RunConfig,
    agenda: Agenda,
    left: Mapping[str, tuple[Unit, int | None]],
    job: Job,
    workload: Callable[[], Workload],
    engine: Engine,
    ledger: Ledger,
    storage: Storage,
    reporter: Reporter,
) -> LabelSummary:
    """Have an engine do what there is to do, and sum it up.

    Args:
        config: How it is to be run.
        agenda: What there is to do.
        left: For each pending unit, how many samples it still has, where that is known.
        job: Whose parts they are.
        workload: Makes what the engine is to run, if there is anything to do.
        engine: Runs it.
        ledger: Of the output.
        storage: How to reach it.
        reporter: Shows how far it is.

    Raises:
        EngineError: The engine failed for good, or units came back unfinished.
        PublishError: OUT could no longer be written.
    """
    num_units, num_pending = len(agenda.plan.units), len(agenda.pending)
    if num_pending < num_units:
        reporter.note(f"resuming: {num_units - num_pending} of {num_units} units are done")
    tracker = Tracker(left)
    budget = Budget(config.max_bad_rate, config.max_failed_units, num_units)
    reporter.update(tracker.snapshot())
    if num_pending:
        ledger.withdraw_success()
        engine.start()
    with stop_on_signals(reporter) as stop:
        if num_pending:
            work = workload()
            metered = JobMeter(engine.meter(work), budget.max_bad_rate, budget.max_failed_units)
            for item in engine.run(work, stop.event):
                if item is not None:
                    tracker.take(Receipt.from_dict(item))
                snapshot = tracker.snapshot()
                reporter.update(snapshot)
                metered.update(snapshot)
                if budget.exceeded_by(tracker) or tracker.unwritable:
                    stop.event.set()
    try:
        ledger.check_owner(job.fingerprint)
    except StorageError as error:
        raise PublishError(f"OUT cannot be used: {error}") from error
    try:
        if tracker.unwritable:
            raise PublishError(tracker.unwritable)
        return _conclude(agenda.plan, job, tracker, budget, ledger, storage, interrupted=stop.by_signal)
    except (StorageError, OutputError, PublishError) as error:
        raise PublishError(f"{error}; what was published stays, the same command goes on from there") from error


def _conclude(
    plan: Plan,
    job: Job,
    tracker: Tracker,
    budget: Budget,
    ledger: Ledger,
    storage: Storage,
    *,
    interrupted: bool,
) -> LabelSummary:
    """Sum a run up, and declare the job finished if it is.

    Raises:
        EngineError: A unit came back neither complete nor failed, and nobody had asked for a stop.
    """
    progress = ledger.progress(job.fingerprint)
    done = {unit.id for unit in plan.units if progress.get(unit.id, Progress()).complete}
    finished = len(done) == len(plan.units)
    summary = sum_up(ledger.out, plan.units, len(done), tracker, budget, interrupted=interrupted and not finished)
    lost = len(plan.units) - len(done) - summary.failed_units
    if lost > 0 and not (interrupted or budget.exceeded):
        raise EngineError(f"{lost} units came back unfinished; the same command takes them up again")
    if tracker.receipts:
        ledger.remove_unreadable(done)
        ledger.remove_attempts()
    if finished:
        _declare_finished(ledger, storage, plan, job.fingerprint, tracker, progress)
    return summary


def make_engine(config: RunConfig) -> Engine:
    """The engine that is asked for."""
    if config.engine == "inline":
        return InlineEngine()
    return RayEngine(config.ray_address, verbose=config.verbose)


# -- what is to be done -----------------------------------------------------------------------------------


def _plan(config: LabelConfig, ledger: Ledger, storage: Storage, inputs: Inputs, mark: str) -> Plan:
    while True:
        plan = Plan(ledger, storage, mark)
        try:
            ledger.check_owner(mark)
        except StorageError as error:
            raise OutputError(f"OUT cannot be used: {error}") from error
        try:
            plan.add(inputs, config.limit)
        except StorageError as error:
            raise InputError(f"the inputs cannot be listed: {error}") from error
        if not plan.units:
            raise InputError("no samples were found in the inputs")
        if plan.replaced:
            # before the plan forgets them: a kill in between leaves nothing behind that no plan knows
            ledger.withdraw_success()
            ledger.remove_units(plan.replaced)
        if plan.write():
            return plan
        # another run of this job has added to the plan: its units are no less to be labelled than ours
        inputs = find_inputs(config.inputs, storage)


@dataclass(frozen=True, slots=True)
class Agenda:
    """What there is to do.

    Attributes:
        plan: All units.
        pending: Those that are not complete.
        parts_done: How many parts of a pending unit are published, by its id, where there are any.
        stored: What an older output has of the units whose probabilities are used again, by id.
    """

    plan: Plan
    pending: list[Unit]
    parts_done: dict[str, int]
    stored: Mapping[str, Progress] = field(default_factory=dict)


def _agenda(config: LabelConfig, ledger: Ledger, storage: Storage, inputs: Inputs, mark: str) -> Agenda:
    return agenda_of(_plan(config, ledger, storage, inputs, mark), ledger, mark)


def agenda_of(plan: Plan, ledger: Ledger, mark: str) -> Agenda:
    """What of a plan is left to do."""
    progress = ledger.progress(mark)
    pending = [unit for unit in plan.units if not progress.get(unit.id, Progress()).complete]
    return Agenda(plan, pending, {unit.id: progress[unit.id].num_parts for unit in pending if unit.id in progress})


def _while_starting(engine: Engine, ledger: Ledger, prepare: Callable[[], Agenda]) -> Agenda:
    """Prepare in a thread while the engine starts, unless there may be nothing to start it for."""
    if ledger.read_json(SUCCESS) is not None:
        return prepare()
    prepared: Future[Agenda] = Future()

    def run() -> None:
        try:
            prepared.set_result(prepare())
        except BaseException as error:  # noqa: BLE001 - raised again below
            prepared.set_exception(error)

    # not an executor's thread: Ctrl-C would wait for it
    threading.Thread(target=run, name="plan", daemon=True).start()
    engine.start()
    return prepared.result()


def _left_to_do(agenda: Agenda, job: Job, storage: Storage) -> dict[str, tuple[Unit, int | None]]:
    """For each pending unit, how many samples it still has, where that can be known quickly."""
    counts = count_samples(agenda.pending, storage, _COUNT_BUDGET_S)
    left: dict[str, tuple[Unit, int | None]] = {}
    for unit in agenda.pending:
        done = agenda.parts_done.get(unit.id, 0) * job.rows_per_part
        count = counts.get(unit.id)
        left[unit.id] = (unit, None if count is None else max(0, count - done))
    return left


def _is_long(left: Iterable[tuple[Unit, int | None]], members: Sequence[ResolvedMember], engine: Engine) -> bool:
    """Whether so much is left to compute on CPUs that it pays to find out first what suits each member."""
    images = sum(max(0, unit.size_bytes) // _USUAL_IMAGE_BYTES if count is None else count for unit, count in left)
    anatomies = [of_member(member.spec) for member in members]
    macs = sum(anatomy.macs for anatomy in anatomies if anatomy is not None)
    return is_long(macs, images, engine.share(on_gpu=False, num_workers=None).num_cpus)


def _workload(
    config: LabelConfig,
    out: str,
    job: Job,
    members: list[ResolvedMember],
    agenda: Agenda,
    shared: Shared | None,
    *,
    trying: bool,
) -> Workload:
    settings = {
        "out": out,
        "fingerprint": job.fingerprint,
        "run": uuid.uuid4().hex,
        "members": job.weighted([member.spec for member in members]),
        "class_names": job.class_names,
        "rule": job.rule,
        "top_k": config.top_k,
        "temperature": job.temperature,
        "keep_probs": config.keep_probs,
        "precision": job.precision,
        "compiled": job.compiled,
        "device": job.device,
        "batch_size": None if config.batch_size == "auto" else config.batch_size,
        "trying": trying,
        "decode": config.decode,
        "rows_per_part": job.rows_per_part,
        "keep": config.keep,
        "storage": config.storage,
    }
    if shared is not None and shared.aliases:
        settings |= {"reused": shared.aliases, "reused_from": shared.source, "replayed": shared.whole}
    return Workload(
        factory=functools.partial(LabelerWorker, settings),
        blobs={member.spec.alias: member.blob for member in members},
        items=Items(agenda),
        items_at_once=UNITS_AT_ONCE,
        on_gpu=job.device == "cuda",
        num_workers=None if config.workers == "auto" else config.workers,
        num_threads=None if config.decode_threads == "auto" else config.decode_threads,
        is_progress=is_progress,
        labels=job_labels(job.fingerprint),
    )


def is_progress(item: Item) -> bool:
    """Whether a receipt tells of something that need not be done again, should its labeler die now."""
    receipt = Receipt.from_dict(item)
    return bool(receipt.parts) or receipt.finished or receipt.failure is not None


class Items(Sequence[Item]):
    """What labelers are called with, made when it is asked for: a million at once take most of a gigabyte."""

    def __init__(self, agenda: Agenda) -> None:
        self._agenda = agenda

    def __len__(self) -> int:
        return len(self._agenda.pending)

    @overload
    def __getitem__(self, at: int) -> Item: ...

    @overload
    def __getitem__(self, at: slice) -> list[Item]: ...

    def __getitem__(self, at: int | slice) -> Item | list[Item]:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(len(self)))]
        unit = self._agenda.pending[at]
        item = {"unit": unit.to_dict(), "parts_done": self._agenda.parts_done.get(unit.id, 0)}
        stored = self._agenda.stored.get(unit.id)
        return item if stored is None else item | {"stored": dataclasses.asdict(stored)}


class LabelerWorker:
    """A labeler as engines want it: dicts in, dicts out."""

    def __init__(self, settings: Mapping[str, Any], blobs: Mapping[str, bytes], num_threads: int, meter: Meter) -> None:
        config = LabelerConfig(num_threads=num_threads, **settings)
        self._labeler = Labeler(config, blobs, meter=meter)
        self._replayer = Replayer(config, meter) if config.replayed else None

    def __call__(self, item: Item, stopping: Callable[[], bool]) -> Iterator[Item]:
        """Label the unit of an item, or publish again what is stored of it."""
        unit, done = Unit.from_dict(item["unit"]), item["parts_done"]
        stored = Progress(**item["stored"]) if "stored" in item else None
        if self._replayer is not None and stored is not None:
            receipt = None
            for receipt in self._replayer(unit, done, stored, stopping):
                if receipt.failure != UNAVAILABLE:
                    yield receipt.to_dict()
            if receipt is None or receipt.failure != UNAVAILABLE:
                return
        for receipt in self._labeler(unit, done, stopping, stored):
            yield receipt.to_dict()

    def close(self) -> None:
        """Let go of threads."""
        self._labeler.close()
        if self._replayer is not None:
            self._replayer.close()


# -- while it runs, and after -----------------------------------------------------------------------------


def _declare_finished(
    ledger: Ledger, storage: Storage, plan: Plan, mark: str, tracker: Tracker, progress: Mapping[str, Progress]
) -> None:
    """Write ``_SUCCESS``, unless another run of the job has added to the plan and is at work on that."""
    version = ledger.version(UNITS)
    units = plan.units if version == plan.version else read_units(ledger, storage, mark)
    if not all(progress.get(unit.id, Progress()).complete for unit in units):
        return
    ledger.remove_jobs(replaced_jobs(ledger.job()))
    predictions = [name for unit in units for name in progress[unit.id].names(mark, unit.id)]
    older = ledger.read_json(SUCCESS)
    if older is None or older.get(PREDICTIONS, {}).keys() != set(predictions):
        _write_success(ledger, len(units), mark, tracker, predictions)
    if ledger.version(UNITS) != version:
        ledger.withdraw_success()


def _write_success(ledger: Ledger, num_units: int, mark: str, tracker: Tracker, predictions: list[str]) -> None:
    """The exact list of parts with row counts; counts not seen in this run are read from the footers."""
    seen = {name: counts for receipt in tracker.receipts.values() for name, counts in receipt.parts.items()}
    content: dict[str, Any] = {"fingerprint": mark, "finished_at": int(time.time()), "units": num_units}
    for folder, position, names in (
        (PREDICTIONS, 0, predictions),
        (QUARANTINE, 1, sorted(set(ledger.names(QUARANTINE)) & set(predictions))),
    ):
        known = {name: seen[name][position] for name in names if name in seen}
        known |= ledger.row_counts(folder, [name for name in names if name not in known])
        content[folder] = {name: known[name] for name in names}
    ledger.write_json(SUCCESS, content, indent=None)
