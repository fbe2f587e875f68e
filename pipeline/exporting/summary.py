"""What one run of an export did."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import Interrupted
from pipeline.exporting.finishing import Totals
from pipeline.exporting.selection import ClassCount
from pipeline.exporting.source import Source
from pipeline.exporting.target import Target
from pipeline.job.summary import FailedUnit
from pipeline.job.tracking import Tracker
from pipeline.trust.promise import Level, Promise

_UNITS_FAILED = 4


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """What there is of an export, and what this run of it did.

    Attributes:
        out: The output that it is made of.
        to: Where it is.
        format: Of the dataset.
        labelled: Images of the output.
        rejected: Of these, not accepted, by the first filter that rejected them, in the order of the filters.
        selected: Of these, accepted.
        exported: Of these, in the dataset by now.
        omitted: Of these, left out because they are no longer what was labelled: ``changed`` or ``missing``.
        classes: What is selected of each class that has any.
        num_classes: How many classes there are.
        threshold: Score from which on a precision is promised; None where none was asked for.
        promise: What it rests on.
        calibrated: Whether scores say how often labels are right.
        complete: Whether the output was finished.
        images: Images that this run exported.
        seconds: From its first read to its last commit.
        images_per_s: ``images / seconds``.
        parts_done, parts_total: Parts of the output of which something is selected.
        failures: Units that could not be read.
        interrupted: Whether the run was stopped by a signal.
        failed_units_exceeded: Whether it stopped because too many units could not be read.
    """

    out: str
    to: str
    format: str
    labelled: int
    rejected: dict[str, int]
    selected: int
    exported: int
    omitted: dict[str, int]
    classes: tuple[ClassCount, ...]
    num_classes: int
    threshold: float | None
    promise: Promise | None
    calibrated: bool
    complete: bool
    images: int
    seconds: float
    images_per_s: float
    parts_done: int
    parts_total: int
    failures: tuple[FailedUnit, ...] = ()
    interrupted: bool = False
    failed_units_exceeded: bool = False

    @property
    def exit_code(self) -> int:
        """What the command line exits with."""
        if self.failed_units_exceeded:
            return _UNITS_FAILED
        if self.interrupted:
            return Interrupted.exit_code
        return _UNITS_FAILED if self.failures else 0

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form."""
        values = dataclasses.asdict(self) | {"failed_units": len(self.failures)}
        return {name: round(v, 3) if name in {"seconds", "images_per_s"} else v for name, v in values.items()}


def sum_up(
    source: Source,
    target: Target,
    plan: Mapping[str, int],
    about: Mapping[str, Any],
    tracker: Tracker,
    found: Totals,
    num_done: int,
) -> ExportSummary:
    """Add up what there is of an export, and what a run of it did.

    Args:
        source: What it is made of.
        target: Where it goes.
        plan: How many images are selected of each part.
        about: What ``export.json`` holds.
        tracker: The receipts of this run.
        found: What is exported by now.
        num_done: How many parts that is.
    """
    receipts = list(tracker.receipts.values())
    uris = {unit.id: unit.uri for unit in source.units}
    selection, promise = about["selection"], about["promise"]
    images = sum(receipt.num_labelled for receipt in receipts)
    started = min((receipt.started_at for receipt in receipts), default=0.0)
    seconds = max(0.0, max((receipt.committed_at for receipt in receipts), default=0.0) - started)
    return ExportSummary(
        out=source.ledger.out,
        to=target.ledger.out,
        format=about["asked"]["format"],
        labelled=selection["labelled"],
        rejected=dict(selection["rejected"]),
        selected=selection["selected"],
        exported=found.images,
        omitted=dict(found.omitted),
        classes=tuple(ClassCount(row["label"], row["images"], row["copies"]) for row in selection["classes"]),
        num_classes=selection["num_classes"],
        threshold=promise["threshold"] if promise else None,
        promise=_read_promise(promise) if promise else None,
        calibrated=about["source"]["calibrated"],
        complete=about["source"]["complete"],
        images=images,
        seconds=seconds,
        images_per_s=images / seconds if seconds else 0.0,
        parts_done=num_done,
        parts_total=len(plan),
        failures=tuple(
            FailedUnit(uris[receipt.unit_id], receipt.failure, receipt.message)
            for receipt in receipts
            if receipt.failure
        ),
    )


def _read_promise(content: Mapping[str, Any]) -> Promise:
    """A promise as ``export.json`` holds it."""
    return Promise(**{**content, "levels": tuple(Level(**level) for level in content["levels"])})
