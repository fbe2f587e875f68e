"""Reconciliation: the samples in a unit's input against the rows in its parts.

Both sides are read in order and side by side, so memory holds the rows of one part and one image, however large the
shard is. Every discrepancy is named, with what to do about it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.config.option_types import Images
from pipeline.errors import ObjectDamaged, ObjectMissing, StorageError
from pipeline.output.ledger import PREDICTIONS, QUARANTINE, Ledger
from pipeline.output.parts import PartName
from pipeline.output.probabilities import read_probabilities
from pipeline.output.schemas import check_groups
from pipeline.records import UNREAD_REASONS, Counted, Omitted, UnitKind
from pipeline.storage import Storage
from pipeline.verifying.comparison import Comparison, SampleRow
from pipeline.verifying.input_samples import InputSamples
from pipeline.verifying.loose_images import check_loose_images
from pipeline.verifying.messages import RERUN, describe_bad_part, describe_other_shards, describe_unread
from pipeline.verifying.unit_files import UnitFiles, find_part_faults


@dataclass(slots=True)
class Reconciliation:
    """The result for a unit.

    Attributes:
        samples: Samples in the input.
        predictions, quarantined: Rows that account for them.
        truths_not_understood: Labelled samples whose ``.cls`` names no class.
        unread_by_reason: Of the quarantined, loose images that could not be read.
        num_rows: Of each part that can be read, by its folder and name.
        discrepancies: One line each.
        omitted: What lies in the input and has no row, or not one of its own.
    """

    samples: int = 0
    predictions: int = 0
    quarantined: int = 0
    truths_not_understood: Counted = field(default_factory=Counted)
    unread_by_reason: Counter[str] = field(default_factory=Counter)
    num_rows: dict[str, int] = field(default_factory=dict)
    discrepancies: list[str] = field(default_factory=list)
    omitted: Omitted = field(default_factory=Omitted)


@dataclass(slots=True)
class _PartRows:
    """The rows of one part by the index of their sample, the range that it accounts for, and how it was read."""

    start: int
    stop: int | None
    unsorted: bool | None
    rows: dict[int, list[SampleRow]]


class _BadPart(Exception):  # noqa: N818 - the part is bad, and the message says what to do about it
    pass


class Reconciler:
    """Reconciles units. Safe to call from several threads.

    Args:
        ledger: Of the output.
        storage: How to reach inputs and output.
        deep: Whether images are read and hashed again.
        kept: Aliases of the members whose probabilities are stored.
        num_classes: K, probabilities of each image.
        images: Which images of a sample are labelled: the first, or all.
        groups: Columns of own classes, with the names of their groups.
    """

    def __init__(
        self,
        ledger: Ledger,
        storage: Storage,
        *,
        deep: bool,
        kept: Sequence[str] = (),
        num_classes: int = 0,
        images: Images = "auto",
        groups: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._ledger = ledger
        self._storage = storage
        self._deep = deep
        self._images = images
        self._kept = tuple(kept)
        self._num_classes = num_classes
        self._groups = groups or {}

    def __call__(self, files: UnitFiles) -> Reconciliation:
        """Reconcile one unit."""
        unit, found = files.unit, Reconciliation()
        loose = unit.kind == UnitKind.SLICE
        hashes = None
        if loose:
            discrepancies, hashes = check_loose_images(unit, self._storage, deep=self._deep)
            found.discrepancies += discrepancies
        inputs = InputSamples(unit, self._storage, deep=self._deep, images=self._images)
        comparison = Comparison(unit, hashes, deep=self._deep and not (loose and hashes is None))
        events: Counter[str] = Counter()
        for part in files.parts:
            try:
                account = self._read_part(part, files, found, events)
            except _BadPart as error:
                found.discrepancies.append(str(error))
                continue
            inputs.unsorted = account.unsorted
            for sample in inputs.up_to(account.start):
                comparison.add(sample, ())
            for sample in inputs.up_to(account.stop):
                comparison.add(sample, account.rows.pop(sample.index, ()))
            if inputs.failure is None:
                comparison.add_unmatched(account.rows)
        for sample in inputs.up_to(None):
            comparison.add(sample, ())
        found.samples = inputs.count
        found.omitted = inputs.omitted
        found.discrepancies += comparison.altered
        if not isinstance(inputs.failure, ObjectMissing):  # nothing can be labelled of what is gone
            found.discrepancies[:0] = find_part_faults(files)
        if inputs.failure is not None:
            found.discrepancies.append(describe_unread(unit, inputs.failure))
        else:
            found.discrepancies += comparison.discrepancies(inputs.events - events)
        return found

    def _read_part(self, part: PartName, files: UnitFiles, found: Reconciliation, events: Counter[str]) -> _PartRows:
        """Read the rows of a part, and count them and the events of its quarantine.

        Raises:
            _BadPart: It cannot be read, or is not what the plan says.
        """
        account = _PartRows(0, None, None, {})
        for folder in (PREDICTIONS, QUARANTINE):
            if folder == QUARANTINE and str(part) not in files.quarantine:
                break
            name = f"{folder}/{part}"
            try:
                footer = self._ledger.footer(folder, str(part))
                if (footer.unit_id, footer.part, footer.last) != (part.unit_id, part.part, part.last):
                    raise ObjectDamaged(f"{name}: holds another part under this name")
                table = self._ledger.read_part(folder, str(part))  # every column: a damaged byte may be anywhere
                if folder == PREDICTIONS:
                    check_groups(self._ledger.uri(folder, str(part)), table, self._groups)
            except StorageError as error:
                raise _BadPart(describe_bad_part(error, folder, str(part))) from error
            shards = sorted(set(map(str, table.column("shard").to_pylist())) - {files.unit.uri})
            if shards:
                raise _BadPart(describe_other_shards(self._ledger.out, files.unit, folder, str(part), shards))
            reasons = table.column("reason").to_pylist() if folder == QUARANTINE else [None] * len(table)
            columns = (table.column(column).to_pylist() for column in ("index", "key", "sha256"))
            account.start, account.stop = footer.first_index, None if footer.last else footer.next.index
            account.unsorted = footer.next.unsorted
            found.num_rows[name] = footer.num_rows
            if folder == PREDICTIONS:
                found.truths_not_understood.merge(footer.truths_not_understood)
                found.discrepancies += self._check_probabilities(part, table["index"].to_numpy())
            for index, key, sha256, reason in zip(*columns, reasons, strict=True):
                if key is None:
                    events[reason] += 1
                    continue
                if reason in UNREAD_REASONS:
                    found.unread_by_reason[reason] += 1
                account.rows.setdefault(index, []).append(SampleRow(key, sha256, reason))
                found.predictions += folder == PREDICTIONS
                found.quarantined += folder == QUARANTINE
        return account

    def _check_probabilities(self, part: PartName, index_N: np.ndarray) -> Iterator[str]:
        """One line for each member whose probabilities are missing or damaged; labelling the part again mends it."""
        for alias in self._kept:
            try:
                read_probabilities(self._ledger, alias, part, self._num_classes, index_N)
            except StorageError as error:
                missing = isinstance(error, ObjectMissing)
                yield f"{error}; delete {'' if missing else 'it and '}{PREDICTIONS}/{part}, and {RERUN}"
