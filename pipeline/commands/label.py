"""The label job: plan, minus what is done, run by an engine, summed up. The whole job on one screen.

:func:`run_label` is the spine; what each line of it means is below.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from pipeline.config.settings import LabelConfig, label_config
from pipeline.engines.workload import Engine, Item, Workload
from pipeline.errors import InputError, OutputError, StorageError
from pipeline.inputs.find import Inputs, find_inputs
from pipeline.inputs.plan import Plan, count_samples
from pipeline.job.description import Job, claim, describe_job, fit_memory
from pipeline.job.pending import Items, PendingWork, pending_work
from pipeline.job.progress import Reporter, make_reporter
from pipeline.job.reuse import SharedMembers, open_older_output, shared_members
from pipeline.job.running import carry_out, is_progress, make_engine
from pipeline.job.summary import LabelSummary
from pipeline.labeler.config import LabelerConfig
from pipeline.labeler.labeler import UNITS_AT_ONCE, Labeler
from pipeline.labeler.replay import Replayer
from pipeline.metrics import Meter, job_labels
from pipeline.models.cost import of_member
from pipeline.models.tuning import is_long
from pipeline.models.weights import ResolvedMember, resolve
from pipeline.output.ledger import SUCCESS, Ledger
from pipeline.output.parts import Progress
from pipeline.records import UNAVAILABLE, Unit
from pipeline.storage import Storage

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
    earlier = ledger.owner()
    requested = config.members
    older = None if config.reuse is None else open_older_output(config.reuse, ledger, storage)
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
            shared = shared_members(older, job.content["results"])
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


def _agenda(config: LabelConfig, ledger: Ledger, storage: Storage, inputs: Inputs, mark: str) -> PendingWork:
    return pending_work(_plan(config, ledger, storage, inputs, mark), ledger, mark)


def _while_starting(engine: Engine, ledger: Ledger, prepare: Callable[[], PendingWork]) -> PendingWork:
    """Prepare in a thread while the engine starts, unless there may be nothing to start it for."""
    if ledger.read_json(SUCCESS) is not None:
        return prepare()
    prepared: Future[PendingWork] = Future()

    def run() -> None:
        try:
            prepared.set_result(prepare())
        except BaseException as error:  # noqa: BLE001 - raised again below
            prepared.set_exception(error)

    # not an executor's thread: Ctrl-C would wait for it
    threading.Thread(target=run, name="plan", daemon=True).start()
    engine.start()
    return prepared.result()


def _left_to_do(agenda: PendingWork, job: Job, storage: Storage) -> dict[str, tuple[Unit, int | None]]:
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
    costs = [of_member(member.spec) for member in members]
    macs = sum(cost.macs for cost in costs if cost is not None)
    return is_long(macs, images, engine.share(on_gpu=False, num_workers=None).num_cpus)


def _workload(
    config: LabelConfig,
    out: str,
    job: Job,
    members: list[ResolvedMember],
    agenda: PendingWork,
    shared: SharedMembers | None,
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
