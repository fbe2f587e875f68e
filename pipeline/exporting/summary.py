"""What one run of an export did."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from pipeline.errors import Interrupted
from pipeline.exporting.selection import ClassCount
from pipeline.outcome import FailedUnit
from pipeline.trust.promise import Promise

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
