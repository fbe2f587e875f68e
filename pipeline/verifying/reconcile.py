"""Reconciliation: the samples that one unit's input holds against the rows that its parts hold.

Both sides are read in order and side by side, so that no more than one part's rows and one image are held, however
large the shard is. What does not balance is named, together with what to do about it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pipeline.errors import ObjectChanged, ObjectDamaged, ObjectMissing, StorageError
from pipeline.output.ledger import PREDICTIONS, QUARANTINE, Ledger
from pipeline.output.parts import PartName
from pipeline.output.probabilities import read_probabilities
from pipeline.records import Reason, Sample, Unit, UnitKind
from pipeline.stages.read import MAX_IMAGE_BYTES, UnitReader, slice_entries
from pipeline.storage import Entry, Storage

AGAIN = "run the same label command again"
_MAX_NAMED = 3
_MAX_ALTERED = 100
_PARALLEL_READS = 32
_LISTING_SLACK = 4  # a listing may pass so many times the keys of a slice before each is looked at instead
_NOT_SEEN = (Reason.SHARD_MISSING, Reason.SHARD_FORBIDDEN)  # the image was there, but could not be read then


@dataclass(frozen=True, slots=True)
class Claim:
    """A unit, and the files that account for it. Inert, so that it travels.

    Attributes:
        unit: The unit.
        parts: Its predictions parts, in order.
        quarantine: Names of its quarantine parts.
    """

    unit: Unit
    parts: tuple[PartName, ...]
    quarantine: frozenset[str]


@dataclass(slots=True)
class Reconciliation:
    """What came of balancing a unit.

    Attributes:
        samples: In the input.
        predictions, quarantined: Rows that account for them.
        num_rows: Of each part that can be read, by its folder and name.
        discrepancies: One line each.
    """

    samples: int = 0
    predictions: int = 0
    quarantined: int = 0
    num_rows: dict[str, int] = field(default_factory=dict)
    discrepancies: list[str] = field(default_factory=list)


class _Row(NamedTuple):
    """What a row says of a sample."""

    key: str
    sha256: str | None
    reason: str | None


@dataclass(slots=True)
class _PartRows:
    """The rows of one part by the index of their sample, and the range of indices that it accounts for."""

    start: int
    stop: int | None
    rows: dict[int, list[_Row]]


class _Named:
    """A number of samples, the first few of them by name."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[str] = []

    def add(self, index: int, key: str) -> None:
        self.count += 1
        if len(self._first) < _MAX_NAMED:
            self._first.append(_name(index, key))

    def __str__(self) -> str:
        return ", ".join(self._first) + (f" and {self.count - _MAX_NAMED} more" if self.count > _MAX_NAMED else "")


class _Inputs:
    """A unit's samples as the input holds them now, taken step by step."""

    def __init__(self, unit: Unit, storage: Storage, *, deep: bool) -> None:
        self.events: Counter[str] = Counter()
        self.failure: StorageError | None = None
        self.position = 0
        self._items = iter(UnitReader(unit, storage, payloads=deep and unit.kind == UnitKind.TAR))
        self._held: Sample | None = None

    def up_to(self, stop: int | None) -> Iterator[Sample]:
        """The samples before an index; all that are left without one."""
        while (sample := self._next()) is not None:
            if stop is not None and sample.index >= stop:
                self._held = sample
                return
            self.position = sample.index + 1
            yield sample

    def _next(self) -> Sample | None:
        sample, self._held = self._held, None
        while sample is None and self.failure is None:
            try:
                item = next(self._items, None)
            except StorageError as error:
                self.failure = error
                break
            if item is None:
                break
            if isinstance(item, Sample):
                sample = item
            else:
                self.events[item.reason] += 1
        return sample


class _Comparison:
    """Samples beside their rows.

    Args:
        unit: Theirs.
        hashes: Of loose images as they are now, by index; None where samples come with their images.
        deep: Whether images are compared, too.

    Attributes:
        altered: One line for each image that is not the one that was labelled, up to a limit.
    """

    def __init__(self, unit: Unit, hashes: Mapping[int, str] | None, *, deep: bool) -> None:
        self._unit = unit
        self._hashes = hashes
        self._deep = deep
        self._missing, self._unexpected, self._doubled = _Named(), _Named(), _Named()
        self.altered: list[str] = []

    def take(self, sample: Sample, rows: Iterable[_Row]) -> None:
        """Compare a sample with the rows that have its index."""
        own = []
        for row in rows:
            if row.key == sample.key:
                own.append(row)
            else:
                self._unexpected.add(sample.index, row.key)
        if not own:
            self._missing.add(sample.index, sample.key)
        elif len(own) > 1:
            self._doubled.add(sample.index, sample.key)
        if own and self._deep:
            self._compare_images(sample, own[0])

    def _compare_images(self, sample: Sample, row: _Row) -> None:
        if self._hashes is not None:
            now = self._hashes.get(sample.index)
        else:
            now = None if sample.image is None else hashlib.sha256(sample.image).hexdigest()
        if row.sha256 == now or row.reason in _NOT_SEEN or len(self.altered) > _MAX_ALTERED:
            return
        if len(self.altered) == _MAX_ALTERED:
            self.altered.append(f"{self._unit.uri}: and more images that are not those that were labelled")
            return
        hashes = f"sha256 {now or 'of nothing that can be read'}, not {row.sha256 or 'of nothing'}"
        self.altered.append(
            f"{self._unit.uri}: {_name(sample.index, sample.key)} is not the image that was labelled: {hashes}; "
            f"restore it, or {_relabel(self._unit)}"
        )

    def left_over(self, rows: Mapping[int, Iterable[_Row]]) -> None:
        """Note the rows of a part for which there was no sample."""
        for index in sorted(rows):
            for row in rows[index]:
                self._unexpected.add(index, row.key)

    def lines(self, unnoted: Mapping[str, int]) -> Iterator[str]:
        """What does not balance, damage to the shard included that quarantine does not note."""
        uri, mend = self._unit.uri, _relabel(self._unit)
        for what, samples in (
            ("in the input, but not in the output", self._missing),
            ("in the output, but not in the input", self._unexpected),
            ("more than once in the output", self._doubled),
        ):
            if samples.count:
                yield f"{uri}: {samples.count} samples {what}: {samples}; {mend}"
        for reason, count in unnoted.items():
            yield f"{uri}: {count} x {reason} in the shard that quarantine does not note; {mend}"


class Reconciler:
    """Balances units, one after another or several at once.

    Args:
        ledger: Of the output.
        storage: How to reach inputs and output.
        deep: Whether images are read and hashed again.
        kept: Aliases of the members whose probabilities are stored.
        num_classes: How many of them each image has.
    """

    def __init__(
        self, ledger: Ledger, storage: Storage, *, deep: bool, kept: Sequence[str] = (), num_classes: int = 0
    ) -> None:
        self._ledger = ledger
        self._storage = storage
        self._deep = deep
        self._kept = tuple(kept)
        self._num_classes = num_classes

    def __call__(self, claim: Claim) -> Reconciliation:
        """Reconcile one unit."""
        unit, found = claim.unit, Reconciliation()
        found.discrepancies += _chain_faults(claim)
        loose = unit.kind == UnitKind.SLICE
        hashes = self._loose_images(unit, found) if loose else None
        inputs = _Inputs(unit, self._storage, deep=self._deep)
        compared = _Comparison(unit, hashes, deep=self._deep and not (loose and hashes is None))
        events: Counter[str] = Counter()
        for part in claim.parts:
            try:
                account = self._read(part, claim, found, events)
            except StorageError as error:
                found.discrepancies.append(f"{error}; delete it and {AGAIN}")
                continue
            for sample in inputs.up_to(account.start):
                compared.take(sample, ())
            for sample in inputs.up_to(account.stop):
                compared.take(sample, account.rows.pop(sample.index, ()))
            if inputs.failure is None:
                compared.left_over(account.rows)
        for sample in inputs.up_to(None):
            compared.take(sample, ())
        found.samples = inputs.position
        found.discrepancies += compared.altered
        if inputs.failure is not None:
            found.discrepancies.append(_unread(unit, inputs.failure))
        else:
            found.discrepancies += compared.lines(inputs.events - events)
        return found

    def _read(self, part: PartName, claim: Claim, found: Reconciliation, events: Counter[str]) -> _PartRows:
        """Take a part's rows in."""
        account = _PartRows(0, None, {})
        for folder in (PREDICTIONS, QUARANTINE):
            if folder == QUARANTINE and str(part) not in claim.quarantine:
                break
            name = f"{folder}/{part}"
            footer = self._ledger.footer(folder, str(part))
            if (footer.unit_id, footer.part, footer.last) != (part.unit_id, part.part, part.last):
                raise ObjectDamaged(f"{name}: holds another part under this name")
            table = self._ledger.read_part(folder, str(part))  # every column: a damaged byte may be anywhere
            shards = set(table.column("shard").to_pylist()) - {claim.unit.uri}
            if shards:
                raise ObjectDamaged(f"{name}: rows of another shard: {', '.join(sorted(map(str, shards)))}")
            reasons = table.column("reason").to_pylist() if folder == QUARANTINE else [None] * len(table)
            columns = (table.column(column).to_pylist() for column in ("index", "key", "sha256"))
            account.start, account.stop = footer.first_index, None if footer.last else footer.next.index
            found.num_rows[name] = footer.num_rows
            if folder == PREDICTIONS:
                found.discrepancies += self._wrong_probabilities(part, table["index"].to_numpy())
            for index, key, sha256, reason in zip(*columns, reasons, strict=True):
                if key is None:
                    events[reason] += 1
                    continue
                account.rows.setdefault(index, []).append(_Row(key, sha256, reason))
                found.predictions += folder == PREDICTIONS
                found.quarantined += folder == QUARANTINE
        return account

    def _wrong_probabilities(self, part: PartName, index_N: np.ndarray) -> Iterator[str]:
        """What is wrong with the stored probabilities of a part; it can be made again with the part only."""
        for alias in self._kept:
            try:
                read_probabilities(self._ledger, alias, part, self._num_classes, index_N)
            except StorageError as error:
                gone = "" if isinstance(error, ObjectMissing) else "it and "
                yield f"{error}; delete {gone}{PREDICTIONS}/{part}, and {AGAIN}"

    def _loose_images(self, unit: Unit, found: Reconciliation) -> dict[int, str] | None:
        """Name the images of a slice that are not as planned; hash the others, by index, where that is asked for.

        Returns:
            The hashes; None where they were not asked for, or cannot be had.
        """
        assert unit.keys_uri is not None
        try:
            planned = slice_entries(unit, self._storage.read(unit.keys_uri))
        except StorageError:
            return None  # reading the slice fails as well, and says so
        try:
            now = as_now([entry for _, entry in planned], unit.uri, self._storage)
        except StorageError as error:
            found.discrepancies.append(f"{unit.uri}: its images cannot be checked: {error}; verify again")
            return None
        changed, gone = _Named(), _Named()
        same: dict[int, Entry] = {}
        for index, (key, entry) in enumerate(planned):
            there = now.get(entry.uri)
            if there is None:
                gone.add(index, key)
            elif (there.size_bytes, there.etag) != (entry.size_bytes, entry.etag):
                changed.add(index, key)
            elif 0 < entry.size_bytes <= MAX_IMAGE_BYTES:  # others are not read when they are labelled, either
                same[index] = entry
        if changed.count:
            found.discrepancies.append(
                f"{unit.uri}: {changed.count} images changed since they were planned: {changed}; {AGAIN}"
            )
        if gone.count:
            found.discrepancies.append(
                f"{unit.uri}: {gone.count} images are missing: {gone}; put them back, or {AGAIN} on what is there"
            )
        if not self._deep:
            return None
        with ThreadPoolExecutor(_PARALLEL_READS) as pool:
            hashes = zip(same, pool.map(self._hash, same.values()), strict=True)
            return {index: sha256 for index, sha256 in hashes if sha256 is not None}

    def _hash(self, entry: Entry) -> str | None:
        try:
            image = self._storage.fetch(entry)
        except StorageError:
            return None
        return hashlib.sha256(image).hexdigest()


def as_now(planned: list[Entry], prefix: str, storage: Storage) -> dict[str, Entry]:
    """Those of some sorted objects that are there, as they are now."""
    wanted = {entry.uri for entry in planned}
    found: dict[str, Entry] = {}
    if prefix.startswith("s3://") and planned:
        found |= {entry.uri: entry for entry in [_stat(planned[0].uri, storage)] if entry is not None}
        listing = storage.list(prefix, planned[0].uri)
        for number, entry in enumerate(listing):
            if entry.uri > planned[-1].uri:
                return found
            if number > _LISTING_SLACK * len(planned):
                break  # its keys lie far apart
            if entry.uri in wanted:
                found[entry.uri] = entry
        else:
            return found
    left = [entry.uri for entry in planned if entry.uri not in found]
    with ThreadPoolExecutor(_PARALLEL_READS) as pool:
        looked_at = pool.map(lambda uri: _stat(uri, storage), left)
        return found | {entry.uri: entry for entry in looked_at if entry is not None}


def _stat(uri: str, storage: Storage) -> Entry | None:
    try:
        return storage.stat(uri)
    except ObjectMissing:
        return None


def _relabel(unit: Unit) -> str:
    return f"delete what is called part-*-{unit.id}-* in {PREDICTIONS} and {QUARANTINE}, and {AGAIN}"


def _name(index: int, key: str) -> str:
    return f"{key!r} (index {index})"


def _unread(unit: Unit, error: StorageError) -> str:
    if isinstance(error, ObjectChanged):
        return f"{error}; {AGAIN}, which labels it anew"
    if isinstance(error, ObjectMissing):
        return f"{error}; put the shard back: what was labelled of it cannot be proved"
    return f"{unit.uri}: cannot be checked: {error}"


def _chain_faults(claim: Claim) -> Iterator[str]:
    """Parts that are missing or doubled."""
    uri, parts = claim.unit.uri, claim.parts
    numbers = Counter(part.part for part in parts)
    for number, count in numbers.items():
        if count > 1:
            names = ", ".join(f"{PREDICTIONS}/{part}" for part in parts if part.part == number)
            yield f"{uri}: part {number} is there {count} times: {names}; delete them and {AGAIN}"
    lasts = [part.part for part in parts if part.last]
    expected = max(lasts) if lasts else max(numbers, default=-1)
    for number in range(expected + 1):
        if number not in numbers:
            name = str(PartName(parts[0].fingerprint, claim.unit.id, number, last=False))
            yield f"{uri}: part {number} is missing, {PREDICTIONS}/{name}; {AGAIN}"
    if not parts:
        yield f"{uri}: not labelled; {AGAIN}"
    elif not lasts:
        yield f"{uri}: not complete, its last part is missing; {AGAIN}"
