"""The summary of an export."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import Interrupted
from pipeline.exporting.default_readers import describe_readers
from pipeline.exporting.finishing import Totals
from pipeline.exporting.selection import ClassCount
from pipeline.exporting.source import Source
from pipeline.exporting.target import Target
from pipeline.job.summary import FailedUnit
from pipeline.job.tracking import Tracker
from pipeline.text.result import Result
from pipeline.trust.promise import Level, Promise
from pipeline.trust.truth import TruthCounts

_UNITS_FAILED = 4


@dataclass(frozen=True, slots=True, repr=False)
class ExportSummary(Result):
    """The state of an export, and what this run of it did.

    Attributes:
        out: The output that it was made from.
        to: Where the dataset is.
        format: Of the dataset.
        labelled: Labelled images of the output.
        rejected: Of these, rejected, by the first filter that rejected them, in the order of the filters.
        selected: Of these, accepted by all filters.
        exported: Of the selected images, in the dataset by now.
        omitted: Of the selected images, left out because the original is ``changed`` or ``missing``.
        classes: Selected images of each class that has any.
        num_classes: K; with own classes the names that there are.
        levels: With own classes, the selected images of each level of names; ``class`` for a class of the networks.
        bits: With ``--back-off`` what the names tell, a mean over all images that the other filters leave: log2 of all
            classes over those of the name, 0 for an image without a name.
        groups_from: With own classes, where the sums of their groups come from: the ``columns`` of the output, stored
            ``probabilities``, or the ``top-k``, which leaves out all other classes; else empty.
        threshold: Lowest score for the promised precision; None where none was requested.
        promise: The promised precision and its evidence; None where none was requested.
        truth: The truth behind it, and how it was counted; None where no precision was requested.
        calibrated: Whether the scores are calibrated.
        complete: Whether the output was finished.
        images: Images that this run exported.
        seconds: From the first read of this run to its last commit.
        images_per_s: ``images / seconds``.
        parts_done, parts_total: Parts with selected images: exported by now, and in all.
        failures: Units that could not be read.
        interrupted: Whether the run was stopped by a signal.
        failed_units_exceeded: Whether it stopped because too many units could not be read.
        reader_notes: What the usual readers leave out of the dataset, one line each.
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
    reader_notes: tuple[str, ...] = ()
    truth: TruthCounts | None = None
    levels: dict[str, int] = dataclasses.field(default_factory=dict)
    bits: float | None = None
    groups_from: str = ""

    def _headline(self) -> Mapping[str, object]:
        """What was promised comes first: a line has no room for all."""
        fields = dict(Result._headline(self))
        if self.promise is not None:
            fields["promise"] = self.promise.in_words
        first = ("promise", "exported", "format", "to")
        return {name: fields[name] for name in dict.fromkeys([*first, *fields]) if name in fields}

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


def summarize(
    source: Source,
    target: Target,
    plan: Mapping[str, int],
    description: Mapping[str, Any],
    tracker: Tracker,
    totals: Totals,
    num_done: int,
) -> ExportSummary:
    """Summarize an export and one run of it.

    Args:
        source: The output.
        target: Where it is exported to.
        plan: Selected images of each part, by name.
        description: Contents of ``export.json``.
        tracker: The receipts of this run.
        totals: Over all parts that are exported by now.
        num_done: Number of these parts.
    """
    receipts = list(tracker.receipts.values())
    uris = {unit.id: unit.uri for unit in source.units}
    selection, promise = description["selection"], description["promise"]
    images = sum(receipt.num_labelled for receipt in receipts)
    started = min((receipt.started_at for receipt in receipts), default=0.0)
    seconds = max(0.0, max((receipt.committed_at for receipt in receipts), default=0.0) - started)
    return ExportSummary(
        out=source.ledger.out,
        to=target.ledger.out,
        format=description["asked"]["format"],
        labelled=selection["labelled"],
        rejected=dict(selection["rejected"]),
        selected=selection["selected"],
        exported=totals.images,
        omitted=dict(totals.omitted),
        classes=tuple(ClassCount(row["label"], row["images"], row["copies"]) for row in selection["classes"]),
        num_classes=selection["num_classes"],
        levels=_count_levels(selection["classes"]),
        bits=selection.get("bits"),
        groups_from=description.get("classes", {}).get("groups_from", ""),
        threshold=promise["threshold"] if promise else None,
        promise=_read_promise(promise) if promise else None,
        calibrated=description["source"]["calibrated"],
        complete=description["source"]["complete"],
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
        truth=_read_counts(description.get("truth")),
        reader_notes=describe_readers(description["asked"]["format"], totals.extensions, totals.unread_classes),
    )


def _count_levels(classes: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Selected images by level of their names, most first; none without own classes."""
    found: Counter[str] = Counter()
    for row in classes:
        if "level" in row:
            found[row["level"]] += row["images"]
    return dict(found.most_common())


def _read_counts(content: Mapping[str, Any] | None) -> TruthCounts | None:
    """Counts of truths as ``export.json`` holds them."""
    if content is None:
        return None
    fields = {field.name for field in dataclasses.fields(TruthCounts)}
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content.items() if name in fields
    }
    return TruthCounts(**values)


def _read_promise(content: Mapping[str, Any]) -> Promise:
    """A promise as ``export.json`` holds it."""
    return Promise(**{**content, "levels": tuple(Level(**level) for level in content["levels"])})
