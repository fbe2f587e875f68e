"""Running: an engine runs what is left of a job; receipts are counted, and end in a summary and ``_SUCCESS``."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

from pipeline.config.settings import RunConfig
from pipeline.engines.workload import Engine, Workload
from pipeline.errors import EngineError, OutputError, PublishError, StorageError
from pipeline.inputs.units import read_units
from pipeline.job.claim import replaced_jobs
from pipeline.job.description import Job
from pipeline.job.metering import JobMeter
from pipeline.job.pending import PendingWork
from pipeline.job.progress import Reporter
from pipeline.job.retrying import end_retry
from pipeline.job.runs import note_end
from pipeline.job.settling import settle_unfinished
from pipeline.job.stopping import stop_on_signals
from pipeline.job.success import write_success
from pipeline.job.summary import Budget, LabelSummary, sum_up
from pipeline.job.totals import count_output
from pipeline.job.tracking import Tracker
from pipeline.job.unread import find_unread
from pipeline.output.ledger import SUCCESS, UNITS, Ledger
from pipeline.output.parts import Progress
from pipeline.records import Omitted, Receipt
from pipeline.storage import Storage
from pipeline.text import fmt

Planned = TypeVar("Planned")


@dataclass(frozen=True, slots=True)
class JobRun:
    """One run of a job, and what it needs.

    Attributes:
        config: The options of the run.
        job: The job.
        ledger: Of its output.
        storage: How to reach it.
        engine: Runs the labelers.
        reporter: Shows the progress.
        started: Set once the engine is started.
        begun_at: When the command was started, Unix seconds.
    """

    config: RunConfig
    job: Job
    ledger: Ledger
    storage: Storage
    engine: Engine
    reporter: Reporter
    started: threading.Event = field(default_factory=threading.Event)
    begun_at: float = field(default_factory=time.time)

    def prepare(self, plan: Callable[[], Planned]) -> Planned:
        """Plan in a thread while the engine starts, unless there may be nothing to start it for."""
        if self.ledger.read_json(SUCCESS) is not None:
            return plan()
        planned: Future[Planned] = Future()

        def run() -> None:
            try:
                planned.set_result(plan())
            except BaseException as error:  # noqa: BLE001 - raised again below
                planned.set_exception(error)

        # not an executor's thread: Ctrl-C would wait for it
        threading.Thread(target=run, name="plan", daemon=True).start()
        self.engine.start()
        self.started.set()
        return planned.result()

    def complete(self, work: PendingWork, make_workload: Callable[[], Workload]) -> LabelSummary:
        """Run what is pending, and sum it up.

        Args:
            work: What is pending.
            make_workload: Makes what the engine is to run; called if anything is pending.

        Raises:
            EngineError: The engine failed for good, or units came back unfinished.
            PublishError: OUT could no longer be written.
        """
        num_units, num_pending = len(work.plan.units), len(work.units)
        if num_done := num_units - num_pending + len(work.patched):
            self.reporter.note(f"resuming: {num_done} of {fmt.plural(num_units, 'unit is', 'units are')} done")
        tracker = Tracker(work.left())
        budget = Budget(self.config.max_bad_rate, self.config.max_failed_units, num_units)
        self.reporter.update(tracker.snapshot())
        if num_pending:
            self.ledger.remove_success()
            self.engine.start()
        with stop_on_signals(self.reporter) as stop:
            if num_pending:
                workload = make_workload()
                metered = JobMeter(self.engine.meter(workload), budget.max_bad_rate, budget.max_failed_units)
                for item in self.engine.run(workload, stop.event):
                    if item is not None:
                        tracker.take(Receipt.from_dict(item))
                    snapshot = tracker.snapshot()
                    self.reporter.update(snapshot)
                    metered.update(snapshot)
                    if budget.exceeded_by(tracker) or tracker.unwritable:
                        stop.event.set()
        try:
            self.ledger.check_owner(self.job.fingerprint)
        except StorageError as error:
            raise PublishError(f"OUT cannot be used: {error}") from error
        try:
            if tracker.unwritable:
                raise PublishError(tracker.unwritable)
            summary = self._conclude(work, tracker, budget, interrupted=stop.by_signal)
            note_end(self.ledger, self.job.fingerprint, self.job.run, summary)
            return self._timed(summary, tracker)
        except (StorageError, OutputError, PublishError) as error:
            raise PublishError(f"{error}; what was published stays, the same command goes on from there") from error

    def _conclude(self, work: PendingWork, tracker: Tracker, budget: Budget, *, interrupted: bool) -> LabelSummary:
        """Sum the run up, and declare the job finished if it is.

        Raises:
            EngineError: A unit came back neither complete nor failed, and no stop was requested.
        """
        units, ledger = work.plan.units, self.ledger
        progress = ledger.progress(self.job.fingerprint)
        done = {unit.id for unit in units if progress.get(unit.id, Progress()).complete}
        again = {unit_id for unit_id in work.retried if not self._is_finished(tracker, unit_id)}
        done -= again
        if work.reasons and not again:
            end_retry(ledger)
        finished = len(done) == len(units)
        settle_unfinished(tracker, work, ledger, self.job.fingerprint, progress)
        if tracker.receipts:
            self.reporter.update(tracker.snapshot(final=True))
        summary = sum_up(ledger.out, units, len(done), tracker, budget, interrupted=interrupted and not finished)
        lost = len(units) - len(done) - summary.failed_units
        if lost > 0 and not (interrupted or budget.exceeded):
            raise EngineError(f"{fmt.plural(lost, 'unit')} came back unfinished; run the same command again")
        if tracker.receipts:
            ledger.remove_unreadable(done)
            ledger.remove_attempts()
            own = [receipt for unit_id, receipt in tracker.receipts.items() if unit_id not in work.retried]
            counted = count_output(ledger, self.job.fingerprint, units, progress, own)
            if counted is not None:
                summary = dataclasses.replace(summary, labelled_in_out=counted[0], quarantined_in_out=counted[1])
        if finished:
            omitted = self._declare_finished(work, tracker, progress)
            summary = dataclasses.replace(summary, **({} if omitted is None else omitted.to_dict()))
            if not summary.images:
                summary = dataclasses.replace(summary, unread=tuple(find_unread(ledger, units).values()))
        return summary

    @staticmethod
    def _is_finished(tracker: Tracker, unit_id: str) -> bool:
        receipt = tracker.receipts.get(unit_id)
        return receipt is not None and receipt.finished

    def _timed(self, summary: LabelSummary, tracker: Tracker) -> LabelSummary:
        """Add the time since the command was started."""
        now = time.time()
        started = min((receipt.started_at for receipt in tracker.receipts.values()), default=now)
        return dataclasses.replace(
            summary, wall_s=max(0.0, now - self.begun_at), starting_s=max(0.0, started - self.begun_at)
        )

    def _declare_finished(
        self, work: PendingWork, tracker: Tracker, progress: Mapping[str, Progress]
    ) -> Omitted | None:
        """Write ``_SUCCESS``, unless another run of the job has added to the plan and is at work on that.

        Returns:
            What of all inputs has no row, as far as ``_SUCCESS`` tells.
        """
        ledger, fingerprint = self.ledger, self.job.fingerprint
        version = ledger.version(UNITS)
        units = work.plan.units if version == work.plan.version else read_units(ledger, self.storage, fingerprint)
        if not all(progress.get(unit.id, Progress()).complete for unit in units):
            return None
        ledger.remove_jobs(replaced_jobs(ledger.job()))
        ledger.remove_unreadable({unit.id for unit in units})
        omitted = write_success(ledger, fingerprint, units, progress, tracker.receipts.values())
        if ledger.version(UNITS) != version:
            ledger.remove_success()
        return omitted
