"""What one run of a job did: receipts added up."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.errors import BudgetError, Interrupted
from pipeline.inputs.changes import Changes
from pipeline.job.tracking import Tracker
from pipeline.records import UNAVAILABLE, Counted, Omitted, Unit
from pipeline.text.result import Result

_MIN_SAMPLES = 1_000  # before the rate of bad ones is judged
_UNITS_FAILED = 4


@dataclass(frozen=True, slots=True)
class FailedUnit:
    """A unit that could not be read to its end."""

    uri: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True, repr=False)
class LabelSummary(Result):
    """What one run of a job did.

    Attributes:
        out: Where the output is.
        images: Samples this run went through.
        labelled: Of these, labelled.
        quarantined: Of these, not labelled.
        quarantined_by_reason: The same, by reason.
        events: Damage to shards that belongs to no single sample, by reason.
        truths_not_understood: Labelled samples whose ``.cls`` names no class.
        truth_examples: What stands in some of these.
        seconds: From the first read to the last commit.
        images_per_s: ``images / seconds``.
        wall_s: From the start of the command to its end.
        starting_s: Of these, before the first read: libraries, networks, the engine, the plan.
        labelled_in_out, quarantined_in_out: What the whole output holds now, of all runs; None where it has so many
            parts of earlier runs that they were not counted.
        parts: Parts published by this run.
        units_done, units_total: Of the whole plan.
        failed_units: Units that could not be read to their end.
        failures: These units.
        unread: In a job that has no sample at all, the shards that gave nothing, or nothing but damage.
        unread_images: Loose images that could not be read, of the whole plan: missing, forbidden or archived.
        unread_examples: The first few of these.
        interrupted: Whether the run was stopped by a signal.
        bad_rate_exceeded: Whether it stopped because too many samples were bad.
        failed_units_exceeded: Whether it stopped because too many units could not be read.
        stage_s: Seconds per stage, summed over threads.
        left_out: Files of the inputs that are left out for their names: their number by extension.
        notes: Things about the inputs that the user should know.
        other_images, other_images_example, separate_images, passed_over, passed_over_example, repeated_keys,
            repeated_keys_example: See :class:`pipeline.records.Omitted`: of the whole output
            where it is finished, else of this run.
        gone: Planned shards and images that are no longer there.
        pruned: Of these, those that were let go of.
        decoded_on_gpu: Of ``images``, those that a GPU has decoded.
    """

    out: str
    images: int
    labelled: int
    quarantined: int
    quarantined_by_reason: dict[str, int]
    events: dict[str, int]
    seconds: float
    images_per_s: float
    parts: int
    units_done: int
    units_total: int
    failed_units: int
    failures: tuple[FailedUnit, ...]
    unread_images: int = 0
    unread_examples: tuple[FailedUnit, ...] = ()
    interrupted: bool = False
    bad_rate_exceeded: bool = False
    failed_units_exceeded: bool = False
    stage_s: dict[str, float] = dataclasses.field(default_factory=dict)
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unread: tuple[FailedUnit, ...] = ()
    truths_not_understood: int = 0
    truth_examples: tuple[str, ...] = ()
    other_images: int = 0
    other_images_example: str = ""
    separate_images: int = 0
    passed_over: int = 0
    passed_over_example: str = ""
    repeated_keys: int = 0
    repeated_keys_example: str = ""
    gone: int = 0
    pruned: int = 0
    wall_s: float = 0.0
    starting_s: float = 0.0
    labelled_in_out: int | None = None
    quarantined_in_out: int | None = None
    decoded_on_gpu: int = 0

    @property
    def exit_code(self) -> int:
        """What the command line exits with."""
        if self.bad_rate_exceeded:
            return BudgetError.exit_code
        if self.failed_units_exceeded:
            return _UNITS_FAILED
        if self.interrupted:
            return Interrupted.exit_code
        return _UNITS_FAILED if self.failed_units or self.unread or self.unread_images else 0

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form."""
        values = dataclasses.asdict(self)
        return {name: round(v, 3) if isinstance(v, float) else v for name, v in values.items()}


class Budget:
    """How much may go wrong with the data before a run stops by itself.

    Bad samples are counted by rate, and only once there are enough of them. Units that cannot be read are
    counted one by one: what they share (credentials that expired, a store that is down) would fail all that
    follow as well. The default leaves room for those that are really missing.

    Args:
        max_bad_rate: Share of quarantined samples, 0-1.
        max_failed_units: Units that cannot be read; ``auto`` for 1 % of the plan, and at least 100.
        num_units: In the plan.

    Attributes:
        max_bad_rate, max_failed_units: The limits.
        bad_rate_exceeded, failed_units_exceeded: What has been exceeded at any time.
    """

    def __init__(self, max_bad_rate: float, max_failed_units: int | Literal["auto"], num_units: int) -> None:
        self.max_bad_rate = max_bad_rate
        self.max_failed_units = max_failed_units if max_failed_units != "auto" else max(100, num_units // 100)
        self.bad_rate_exceeded = self.failed_units_exceeded = False

    @property
    def exceeded(self) -> bool:
        """Whether the run is to stop."""
        return self.bad_rate_exceeded or self.failed_units_exceeded

    def exceeded_by(self, tracker: Tracker) -> bool:
        """Take note of where things stand; whether the run is to stop."""
        matched = tracker.images >= _MIN_SAMPLES
        self.bad_rate_exceeded |= matched and tracker.bad_rate > self.max_bad_rate
        self.failed_units_exceeded |= tracker.failed_units > self.max_failed_units
        return self.exceeded


def sum_up(
    out: str, units: Sequence[Unit], num_done: int, tracker: Tracker, budget: Budget, *, interrupted: bool
) -> LabelSummary:
    """Add up what a run did.

    Args:
        out: Where the output is.
        units: The whole plan.
        num_done: How many of them are complete now.
        tracker: The receipts of this run.
        budget: What of it was exceeded.
        interrupted: Whether a signal stopped it.
    """
    receipts = list(tracker.receipts.values())
    uris = {unit.id: unit.uri for unit in units}
    images = sum(receipt.num_samples for receipt in receipts)
    started = min((receipt.started_at for receipt in receipts), default=0.0)
    committed = max((receipt.committed_at for receipt in receipts), default=0.0)
    seconds = max(0.0, committed - started)
    events: dict[str, int] = {}
    omitted = Omitted()
    stage_s: dict[str, float] = {}
    truths = Counted()
    for receipt in receipts:
        truths.merge(receipt.truths_not_understood)
        omitted.add(receipt.omitted)
        for reason, count in receipt.num_events.items():
            events[reason] = events.get(reason, 0) + count
        for stage, spent in receipt.stage_s.items():
            stage_s[stage] = round(stage_s.get(stage, 0.0) + spent, 3)
    return LabelSummary(
        out=out,
        images=images,
        labelled=sum(receipt.num_labelled for receipt in receipts),
        quarantined=tracker.quarantined.total(),
        quarantined_by_reason={str(reason): count for reason, count in (+tracker.quarantined).items()},
        events=events,
        seconds=seconds,
        images_per_s=images / seconds if seconds else 0.0,
        parts=sum(len(receipt.parts) for receipt in receipts),
        units_done=num_done,
        units_total=len(units),
        failed_units=sum(receipt.failure is not None for receipt in receipts),
        failures=tuple(
            FailedUnit(uris[receipt.unit_id], receipt.failure, receipt.message)
            for receipt in receipts
            if receipt.failure
        ),
        interrupted=interrupted,
        bad_rate_exceeded=budget.bad_rate_exceeded,
        failed_units_exceeded=budget.failed_units_exceeded,
        stage_s=stage_s,
        truths_not_understood=truths.count,
        truth_examples=tuple(truths.examples),
        decoded_on_gpu=sum(receipt.num_decoded_on_gpu for receipt in receipts),
        **omitted.to_dict(),
    )


def add_changes(summary: LabelSummary, changes: Changes) -> LabelSummary:
    """Add to a summary what has become of inputs that were planned before."""
    failures = tuple(FailedUnit(unit.uri, UNAVAILABLE, message) for unit, message in changes.problems)
    return dataclasses.replace(
        summary,
        failures=summary.failures + failures,
        failed_units=summary.failed_units + len(failures),
        notes=(*summary.notes, *changes.notes),
        gone=changes.gone,
        pruned=changes.pruned,
    )
