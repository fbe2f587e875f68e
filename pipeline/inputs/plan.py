"""Plan: from found inputs to units.

Each tar becomes one unit. Loose images are listed in order and cut into slices of at most ``SLICE_KEYS`` keys. The keys
of each slice go to a file of their own, so neither driver nor worker ever holds the whole listing. A plan only grows:
units of earlier runs stay, a shard that changed replaces its older version, and loose keys that are already planned
keep their slice. Labelled units whose input has another version are left to :mod:`pipeline.inputs.changes`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import heapq
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa

from pipeline.config.option_types import Images
from pipeline.errors import ObjectDamaged, ObjectMissing, OutputError, StorageError
from pipeline.inputs.find import Inputs
from pipeline.inputs.listings import is_tar_name
from pipeline.inputs.same_content import Touched
from pipeline.inputs.units import held_entries, read_as_labelled, read_plan, tar_unit, to_parquet, unit_id, write_units
from pipeline.output.ledger import UNITS, Ledger
from pipeline.output.parts import Progress
from pipeline.records import Sample, Unit, UnitKind
from pipeline.stages.read import UnitReader
from pipeline.storage import LISTED, Entry, Storage, is_settled, look_at

SLICE_KEYS = 2048
_PARALLEL_READS = 32
_UNREADABLE = -2  # the size, in a key list, of an image that is missing or forbidden

_KEYS_SCHEMA = pa.schema([("key", pa.binary()), ("size_bytes", pa.int64()), ("etag", pa.string())])


def _is_version(older: Unit, unit: Unit) -> bool:
    """Whether a tar is the version that was planned. Its id does not tell: a tar that was touched keeps it."""
    return (older.size_bytes, older.etag) == (unit.size_bytes, unit.etag)


def _is_enough(older: Unit, unit: Unit) -> bool:
    """Whether a tar's older unit goes as far as a newer one."""
    return older.max_samples is None or (unit.max_samples is not None and older.max_samples >= unit.max_samples)


def _is_over(unit: Unit) -> bool:
    """Whether a unit stands for a link that led nowhere and is gone, or for a folder that can be listed by now."""
    if unit.size_bytes >= 0 or unit.etag != LISTED:
        return False
    return look_at(unit.uri) is None if is_tar_name(unit.uri) else is_settled(unit.uri)


@dataclass(slots=True)
class _OpenSlice:
    """A planned slice that is being compared with a listing, entry by entry.

    Attributes:
        unit: The slice.
        planned: Its entries as planned, by index, in order.
        found: How many of them the listing holds.
        changed: Those that have another size or version than planned, as they are now, by index.
    """

    unit: Unit
    planned: list[tuple[int, Entry]]
    found: int = 0
    changed: dict[int, Entry] = field(default_factory=dict)
    _position: int = 0

    def advance(self, entry: Entry | None) -> str | None:
        """Go on to the next planned entry, the current one as listed (None: not found); its URI, None at the end."""
        index, planned = self.planned[self._position]
        if entry is not None:
            self.found += 1
            readable = entry.size_bytes >= 0  # what is not stays as planned, until it is
            if readable and (planned.size_bytes, planned.etag) != (entry.size_bytes, entry.etag):
                self.changed[index] = entry
        self._position += 1
        return self.planned[self._position][1].uri if self._position < len(self.planned) else None


class Plan:
    """The units of an output, old and new, and the key lists of its slices.

    Args:
        ledger: The output.
        storage: How to reach it and the inputs.
        fingerprint: Fingerprint of the job; the plan of a job that owned OUT before is ignored.

    Attributes:
        units: The units to label.
        replaced: Ids of units that are no longer in the plan.
        left_out_of: Number of files that each INPUT leaves out for their names, by extension.
        touched: Units with labels whose input has another version now; they stay in the plan as they are.
        unlisted: Units of which the inputs do not hold everything: it may be gone, or this run does not name it.
        version: Version of ``plan/units.parquet`` that this plan was read from; None if there is none.
    """

    def __init__(self, ledger: Ledger, storage: Storage, fingerprint: str = "") -> None:
        self._ledger = ledger
        self._storage = storage
        self._fingerprint = fingerprint
        self.version = ledger.version(UNITS)
        self.units, self.left_out_of = read_plan(ledger, storage, fingerprint)
        self.replaced: set[str] = set()
        self._planned = frozenset(unit.id for unit in self.units)
        self.touched: list[Touched] = []
        self.unlisted: list[Unit] = []
        self._whole: set[str] = set()
        self._by_id: dict[str, Unit] = {}

    @functools.cached_property
    def progress(self) -> dict[str, Progress]:
        """How much of each unit is published; listed on first use."""
        return self._ledger.progress(self._fingerprint)

    def add(self, inputs: Inputs, limit: int | None = None, images: Images = "auto") -> None:
        """Add inputs: new ones become units, and changed ones replace their older version.

        Args:
            inputs: The inputs.
            limit: Number of samples; None for all.
            images: Which images of a sample count: the first, or all.

        Raises:
            OutputError: OUT cannot be written.
        """
        self._by_id = {unit.id: unit for unit in self.units}
        before = frozenset(self._by_id)
        tars = {unit.uri: unit for unit in self.units if unit.kind == UnitKind.TAR}
        self.left_out_of |= inputs.left_out_of
        for unit in tars.values():
            if unit.uri not in inputs.tars and _is_over(unit):
                self._drop(unit)
        candidates: Iterator[Unit] = itertools.chain(self._tar_units(inputs, tars), self._slice_units(inputs))
        if limit is not None:
            candidates = self._limit(candidates, limit, images)
        for unit in candidates:
            older = tars.get(unit.uri) if unit.kind == UnitKind.TAR else None
            if older is not None and _is_enough(older, unit):
                if _is_version(older, unit):
                    continue
                if older.size_bytes == unit.size_bytes and self._has_labels(older):
                    self._touch(older, {0: Entry(unit.uri, unit.size_bytes, unit.etag)})
                    continue
            if older is not None:
                self._drop(older)
            self._by_id[unit.id] = unit
        self.units = list(self._by_id.values())
        self._by_id = {}
        listed = {uri for uri, entry in inputs.tars.items() if entry.size_bytes >= 0} | self._whole
        self.unlisted = [unit for unit in self.units if unit.id in before and not {unit.id, unit.uri} & listed]

    def change(
        self,
        *,
        kept: Iterable[Unit] = (),
        dropped: Iterable[Unit] = (),
        added: Iterable[Unit] = (),
        images: Iterable[tuple[str, Sequence[Entry]]] = (),
    ) -> None:
        """Change what is planned already.

        Args:
            kept: Units in the place of those of the same id, whose parts stay.
            dropped: Units to drop, with their parts.
            added: New units.
            images: Loose images that no unit holds any more, by their prefix; they get slices of their own.
        """
        self._by_id = {unit.id: unit for unit in self.units} | {unit.id: unit for unit in kept}
        for unit in dropped:
            self._drop(unit)
        slices = (unit for prefix, entries in images for unit in self._cut_slices(prefix, entries))
        self._by_id |= {unit.id: unit for unit in (*added, *slices)}
        self.units = list(self._by_id.values())
        self._by_id = {}

    def new_units(self) -> list[Unit]:
        """Units that no plan held before."""
        return [unit for unit in self.units if unit.id not in self._planned]

    def cut_parts(self, rows_of: Callable[[Unit], int | None]) -> None:
        """Choose the size of parts for units that no plan held before; what was planned keeps its size for good.

        Args:
            rows_of: Gives the samples in a part of a unit at most, None for the job's.
        """
        self.units = [
            unit if unit.id in self._planned else dataclasses.replace(unit, rows_per_part=rows_of(unit))
            for unit in self.units
        ]

    def _touch(self, unit: Unit, entries: Mapping[int, Entry]) -> None:
        self.touched.append(Touched(unit, entries, self.progress[unit.id]))

    def _has_labels(self, unit: Unit) -> bool:
        return self.progress.get(unit.id, Progress()).num_parts > 0

    def _tar_units(self, inputs: Inputs, known: dict[str, Unit]) -> Iterator[Unit]:
        for entry in inputs.tars.values():
            unit = tar_unit(entry)
            # a tar that cannot be reached now keeps its planned unit
            yield known.get(unit.uri, unit) if unit.size_bytes < 0 else unit

    def _drop(self, unit: Unit) -> None:
        del self._by_id[unit.id]
        self.replaced.add(unit.id)

    def write(self) -> bool:
        """Publish ``plan/units.parquet``; False if another run of the job did so since this plan was read.

        Raises:
            OutputError: OUT cannot be written.
        """
        if not self._ledger.write_if_unchanged(
            UNITS, write_units(self.units, self._fingerprint, self.left_out_of), self.version
        ):
            return False
        self.version = self._ledger.version(UNITS)
        return True

    # -- slices -------------------------------------------------------------------------------------------

    def _slice_units(self, inputs: Inputs) -> Iterator[Unit]:
        for prefix, listing in inputs.loose:
            units = [unit for unit in self._by_id.values() if unit.kind == UnitKind.SLICE]
            known = [unit for unit in units if unit.uri.startswith(prefix) or prefix.startswith(unit.uri)]
            yield from self._cut_slices(prefix, self._match(known, listing) if known else listing)

    def _match(self, known: list[Unit], listing: Iterable[Entry]) -> Iterator[Entry | Unit]:
        """Match a listing with the planned slices: yield entries that are in no slice yet, and slices that are in it.

        Both sides are in order, as in a merge sort. A slice with a changed entry is replaced by one with the entries as
        they are now. Only slices that overlap the current place of the listing are in memory.
        """
        with ThreadPoolExecutor(_PARALLEL_READS) as pool:
            firsts = zip(pool.map(self._first_key, known), known, strict=True)
            waiting: deque[tuple[str, Unit]] = deque()
            for first, unit in sorted(firsts, key=lambda item: item[0]):
                if first:
                    waiting.append((first, unit))
                else:  # nobody knows what was in it: its images are new
                    self._drop(unit)
        open_slices: list[tuple[str, str, _OpenSlice]] = []
        for entry in listing:
            while waiting and waiting[0][0] <= entry.uri:
                start, unit = waiting.popleft()
                heapq.heappush(open_slices, (start, unit.id, _OpenSlice(unit, self._read_keys(unit))))
            is_known = False
            while open_slices and open_slices[0][0] <= entry.uri:
                uri, own_id, piece = open_slices[0]
                is_known |= uri == entry.uri
                following = piece.advance(entry if uri == entry.uri else None)
                if following is None:
                    heapq.heappop(open_slices)
                    yield from self._close(piece)
                else:
                    heapq.heapreplace(open_slices, (following, own_id, piece))
            if not is_known:
                yield entry
        for _, _, piece in sorted(open_slices, key=lambda item: item[0]):
            while piece.advance(None) is not None:
                pass
            yield from self._close(piece)

    def _close(self, piece: _OpenSlice) -> Iterator[Unit]:
        """Yield a slice that has been compared, or the slice that replaces it; nothing if it is gone."""
        unit = piece.unit
        if piece.changed and self._has_labels(unit):
            self._touch(unit, piece.changed)
        elif piece.changed:
            now = (piece.changed.get(index) or self._stat_again(entry) for index, entry in piece.planned)
            left = [entry for entry in now if entry is not None]
            self._drop(unit)
            if not left:
                return
            unit = self._make_slice(unit.uri, left)
            self._by_id[unit.id] = unit
        if piece.found == len(piece.planned):
            self._whole.add(unit.id)
        if piece.found:
            yield unit

    def _stat_again(self, entry: Entry) -> Entry | None:
        """Look an entry up again: None if it is gone, unchanged if it cannot be reached."""
        if entry.etag == LISTED:
            return look_at(entry.uri)
        try:
            return self._storage.stat(entry.uri)
        except ObjectMissing:
            return None
        except StorageError:
            return entry

    def _first_key(self, unit: Unit) -> str:
        """URI of the first entry of a slice; empty if its key list is lost."""
        try:
            return min(entry.uri for _, entry in held_entries(unit, self._storage))
        except (ObjectMissing, ObjectDamaged):
            return ""
        except StorageError as error:
            raise OutputError(f"the plan in OUT cannot be read: {error}") from error

    def _read_keys(self, unit: Unit) -> list[tuple[int, Entry]]:
        """Read the entries that a slice holds, each with its index, in order: that of older plans is their store's."""
        try:
            return sorted(held_entries(unit, self._storage), key=lambda item: item[1].uri)
        except StorageError as error:
            raise OutputError(f"the plan in OUT is damaged: {error}") from error

    def _cut_slices(self, prefix: str, found: Iterable[Entry | Unit]) -> Iterator[Unit]:
        """Cut entries into slices; units among them pass through."""
        batch: list[Entry] = []
        for item in found:
            if isinstance(item, Unit):
                yield item
                continue
            batch.append(item)
            if len(batch) == SLICE_KEYS:
                yield self._make_slice(prefix, batch)
                batch = []
        if batch:
            yield self._make_slice(prefix, batch)

    def _make_slice(self, prefix: str, batch: list[Entry]) -> Unit:
        """Write the key list of a slice, and make its unit."""
        keys = [os.fsencode(entry.uri[len(prefix) :]) for entry in batch]
        sizes = [entry.size_bytes if entry.size_bytes >= 0 else _UNREADABLE for entry in batch]
        etags = [entry.etag for entry in batch]
        content = hashlib.sha256(b"\0".join(keys) + repr((sizes, etags)).encode()).hexdigest()
        own_id = unit_id("slice", prefix, content)
        keys_uri = self._ledger.uri("plan", f"keys-{own_id}.parquet")
        table = pa.table({"key": keys, "size_bytes": sizes, "etag": etags}, schema=_KEYS_SCHEMA)
        try:
            self._storage.replace(keys_uri, to_parquet(table))
        except StorageError as error:
            raise OutputError(f"OUT cannot be written: {error}") from error
        return Unit(own_id, UnitKind.SLICE, prefix, sum(max(0, size) for size in sizes), "", keys_uri, len(batch))

    # -- limit --------------------------------------------------------------------------------------------

    def _limit(self, units: Iterable[Unit], limit: int, images: Images) -> Iterator[Unit]:
        """Yield the units of the first ``limit`` samples; the last one is cut to fit unless it is planned already."""
        left = limit
        for unit in units:
            num_samples = self._count(unit, left, images)
            yield unit if num_samples <= left or unit.id in self._by_id else self._truncate(unit, left)
            left -= num_samples
            if left <= 0:
                return

    def _count(self, unit: Unit, enough: int, images: Images) -> int:
        """Count the samples of a unit, up to one more than enough; 0 if it cannot be read."""
        if unit.num_samples is not None:
            return unit.num_samples
        if unit.size_bytes < 0:
            return 0

        def count(reader: UnitReader) -> int:
            return sum(1 for _ in itertools.islice((s for s in reader if isinstance(s, Sample)), enough + 1))

        try:
            return read_as_labelled(unit, self._storage, images, count)
        except StorageError:
            return 0

    def _truncate(self, unit: Unit, num_samples: int) -> Unit:
        if unit.kind == UnitKind.TAR:
            return tar_unit(Entry(unit.uri, unit.size_bytes, unit.etag), num_samples)
        return self._make_slice(unit.uri, [entry for _, entry in self._read_keys(unit)[:num_samples]])
