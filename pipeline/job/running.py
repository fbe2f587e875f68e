"""Running: what is left of a job goes through an engine, is counted, and ends in a summary and ``_SUCCESS``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.config.settings import EngineConfig, RunConfig
from pipeline.engines.inline import InlineEngine
from pipeline.engines.on_ray import RayEngine
from pipeline.engines.workload import Engine, Item, Workload
from pipeline.errors import EngineError, OutputError, PublishError, StorageError
from pipeline.inputs.plan import Plan, read_units
from pipeline.job.description import Job, replaced_jobs
from pipeline.job.metering import JobMeter
from pipeline.job.pending import PendingWork
from pipeline.job.progress import Reporter
from pipeline.job.stopping import stop_on_signals
from pipeline.job.summary import Budget, LabelSummary, sum_up
from pipeline.job.tracking import Tracker
from pipeline.output.ledger import PREDICTIONS, QUARANTINE, SUCCESS, UNITS, Ledger
from pipeline.output.parts import Progress
from pipeline.records import Receipt, Unit
from pipeline.storage import Storage


def make_engine(config: EngineConfig) -> Engine:
    """The engine that is asked for."""
    if config.engine == "inline":
        return InlineEngine()
    return RayEngine(config.ray_address, verbose=config.verbose)


def carry_out(
    config: RunConfig,
    agenda: PendingWork,
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


def is_progress(item: Item) -> bool:
    """Whether a receipt tells of something that need not be done again, should its labeler die now."""
    receipt = Receipt.from_dict(item)
    return bool(receipt.parts) or receipt.finished or receipt.failure is not None


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
    listed = (ledger.read_json(SUCCESS) or {}).get(PREDICTIONS)
    if not isinstance(listed, dict) or listed.keys() != set(predictions):
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
