"""Plan: from what was found to units.

Tars become one unit each. Loose images are listed in order and cut into slices of at most
``SLICE_KEYS`` keys; each slice's keys go to a file of their own, so neither driver nor worker ever
holds the whole listing. A plan only grows: units of earlier runs stay, a shard that changed replaces
its older version, and loose keys that are already planned keep their slice.
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import io
import itertools
import json
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ObjectMissing, OutputError, StorageError
from pipeline.inputs.find import Inputs
from pipeline.output.ledger import UNITS, Ledger
from pipeline.records import Sample, Unit, UnitKind
from pipeline.stages.read import UnitReader, slice_entries
from pipeline.storage import Entry, Storage

SLICE_KEYS = 2048
_PARALLEL_READS = 32

_FINGERPRINT = b"fingerprint"
_KEYS_SCHEMA = pa.schema([("key", pa.binary()), ("size_bytes", pa.int64()), ("etag", pa.string())])
_UNITS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("kind", pa.string()),
        ("uri", pa.string()),
        ("size_bytes", pa.int64()),
        ("etag", pa.string()),
        ("keys_uri", pa.string()),
        ("num_samples", pa.int64()),
        ("max_samples", pa.int64()),
    ]
)


def _unit_id(*words: object) -> str:
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]


def tar_unit(entry: Entry, max_samples: int | None = None) -> Unit:
    """The unit of one tar."""
    unit_id = _unit_id("tar", entry.uri, entry.size_bytes, entry.etag, max_samples)
    return Unit(unit_id, UnitKind.TAR, entry.uri, entry.size_bytes, entry.etag, max_samples=max_samples)


def _covers(older: Unit, unit: Unit) -> bool:
    """Whether a tar's older unit holds all that a newer one asks for."""
    if older.id == unit.id:
        return True
    same = (older.size_bytes, older.etag) == (unit.size_bytes, unit.etag)
    enough = older.max_samples is None or (unit.max_samples is not None and older.max_samples >= unit.max_samples)
    return same and enough


@dataclass(slots=True)
class _Passing:
    """A known slice that a listing is passing through.

    Attributes:
        unit: The slice.
        planned: Its entries as planned, in order.
        found: Those that the listing holds, as they are now, by URI.
        changed: Whether one of them is no longer as planned.
    """

    unit: Unit
    planned: list[Entry]
    found: dict[str, Entry] = field(default_factory=dict)
    changed: bool = False
    _position: int = 0

    def step(self, entry: Entry | None) -> str | None:
        """Go on to the next planned entry, this one being found or not; its URI, None at the end."""
        planned = self.planned[self._position]
        if entry is not None:
            self.found[entry.uri] = entry
            self.changed |= (planned.size_bytes, planned.etag) != (entry.size_bytes, entry.etag)
        self._position += 1
        return self.planned[self._position].uri if self._position < len(self.planned) else None


class Plan:
    """The units of an output, old and new, and the key lists of its slices.

    Args:
        ledger: Of the output.
        storage: How to reach it and the inputs.
        fingerprint: Of the job; what another job had planned, before this one took OUT over, is passed by.

    Attributes:
        units: What there is to label.
        replaced: Ids of units that are no longer in the plan.
        version: Of ``plan/units.parquet`` as this plan knows it; None while there is none.
    """

    def __init__(self, ledger: Ledger, storage: Storage, fingerprint: str = "") -> None:
        self._ledger = ledger
        self._storage = storage
        self._fingerprint = fingerprint
        self.version = ledger.version(UNITS)
        self.units: list[Unit] = read_units(ledger, storage, fingerprint)
        self.replaced: set[str] = set()
        self._by_id: dict[str, Unit] = {}

    def add(self, inputs: Inputs, limit: int | None = None) -> None:
        """Take inputs in: what is new is added, what changed replaces its older version.

        Raises:
            OutputError: OUT cannot be written.
        """
        self._by_id = {unit.id: unit for unit in self.units}
        tars = {unit.uri: unit for unit in self.units if unit.kind == UnitKind.TAR}
        candidates: Iterator[Unit] = itertools.chain(self._tars(inputs, tars), self._slices(inputs))
        if limit is not None:
            candidates = self._limited(candidates, limit)
        for unit in candidates:
            older = tars.get(unit.uri) if unit.kind == UnitKind.TAR else None
            if older is not None and _covers(older, unit):
                continue
            if older is not None:
                self._retire(older)
            self._by_id[unit.id] = unit
        self.units = list(self._by_id.values())
        self._by_id = {}

    def adopt(self, units: Iterable[Unit]) -> None:
        """Take the units of another output in, and its key lists.

        Raises:
            StorageError: A key list cannot be read or written.
        """
        by_id = {unit.id: unit for unit in self.units}
        tars = {unit.uri: unit.id for unit in self.units if unit.kind == UnitKind.TAR}
        for unit in units:
            if unit.id in by_id:
                continue
            if unit.kind == UnitKind.TAR and unit.uri in tars:
                self.replaced.add(tars[unit.uri])
                del by_id[tars[unit.uri]]
            keys_uri = None
            if unit.keys_uri is not None:
                keys_uri = self._ledger.uri("plan", f"keys-{unit.id}.parquet")
                self._storage.replace(keys_uri, self._storage.read(unit.keys_uri))
            by_id[unit.id] = dataclasses.replace(unit, keys_uri=keys_uri)
        self.units = list(by_id.values())

    def _tars(self, inputs: Inputs, known: dict[str, Unit]) -> Iterator[Unit]:
        for entry in inputs.tars.values():
            unit = tar_unit(entry)
            # One that cannot be looked at just now: what is known of it stays.
            yield known.get(unit.uri, unit) if unit.size_bytes < 0 else unit

    def _retire(self, unit: Unit) -> None:
        del self._by_id[unit.id]
        self.replaced.add(unit.id)

    def write(self) -> bool:
        """Publish ``plan/units.parquet``; False when another run of the job has, since this plan was read.

        Raises:
            OutputError: OUT cannot be written.
        """
        columns = {
            name: pa.array([getattr(unit, name) for unit in self.units], _UNITS_SCHEMA.field(name).type)
            for name in _UNITS_SCHEMA.names
        }
        schema = _UNITS_SCHEMA.with_metadata({_FINGERPRINT: self._fingerprint})
        if not self._ledger.write_over(UNITS, _parquet(pa.table(columns, schema=schema)), self.version):
            return False
        self.version = self._ledger.version(UNITS)
        return True

    # -- slices -------------------------------------------------------------------------------------------

    def _slices(self, inputs: Inputs) -> Iterator[Unit]:
        for prefix, listing in inputs.loose:
            units = [unit for unit in self._by_id.values() if unit.kind == UnitKind.SLICE]
            known = [unit for unit in units if unit.uri.startswith(prefix) or prefix.startswith(unit.uri)]
            yield from self._cut(prefix, self._compared(known, listing) if known else listing)

    def _compared(self, known: list[Unit], listing: Iterable[Entry]) -> Iterator[Entry | Unit]:
        """What a listing holds, both sides in order: entries that no slice holds yet, and slices.

        A slice with a changed entry is replaced by one with the entries as they are now. Of the known
        slices only those that the listing is passing through are held.
        """
        with ThreadPoolExecutor(_PARALLEL_READS) as pool:
            starts = zip(pool.map(lambda unit: self._planned(unit)[0].uri, known), known, strict=True)
            waiting = deque(sorted(starts, key=lambda start: start[0]))
        passing: list[tuple[str, str, _Passing]] = []
        for entry in listing:
            while waiting and waiting[0][0] <= entry.uri:
                start, unit = waiting.popleft()
                heapq.heappush(passing, (start, unit.id, _Passing(unit, self._planned(unit))))
            is_known = False
            while passing and passing[0][0] <= entry.uri:
                uri, unit_id, piece = passing[0]
                is_known |= uri == entry.uri
                following = piece.step(entry if uri == entry.uri else None)
                if following is None:
                    heapq.heappop(passing)
                    yield from self._settled(piece)
                else:
                    heapq.heapreplace(passing, (following, unit_id, piece))
            if not is_known:
                yield entry
        for _, _, piece in sorted(passing, key=lambda item: item[0]):
            yield from self._settled(piece)

    def _settled(self, piece: _Passing) -> Iterator[Unit]:
        """A slice that the listing has passed, or what takes its place."""
        unit = piece.unit
        if piece.changed:
            now = (piece.found.get(entry.uri) or self._looked_up(entry) for entry in piece.planned)
            self._retire(unit)
            unit = self._slice(unit.uri, [entry for entry in now if entry is not None])
            self._by_id[unit.id] = unit
        if piece.found:
            yield unit

    def _looked_up(self, entry: Entry) -> Entry | None:
        """An entry as it is now; None when it is gone, itself when it cannot be seen."""
        try:
            return self._storage.stat(entry.uri)
        except ObjectMissing:
            return None
        except StorageError:
            return entry

    def _planned(self, unit: Unit) -> list[Entry]:
        assert unit.keys_uri is not None
        try:
            return [entry for _, entry in slice_entries(unit, self._storage.read(unit.keys_uri))]
        except StorageError as error:
            raise OutputError(f"the plan in OUT is damaged: {error}") from error

    def _cut(self, prefix: str, found: Iterable[Entry | Unit]) -> Iterator[Unit]:
        """Cut entries into slices; slices that are found pass through."""
        batch: list[Entry] = []
        for item in found:
            if isinstance(item, Unit):
                yield item
                continue
            batch.append(item)
            if len(batch) == SLICE_KEYS:
                yield self._slice(prefix, batch)
                batch = []
        if batch:
            yield self._slice(prefix, batch)

    def _slice(self, prefix: str, batch: list[Entry]) -> Unit:
        keys = [os.fsencode(entry.uri[len(prefix) :]) for entry in batch]
        sizes = [entry.size_bytes for entry in batch]
        etags = [entry.etag for entry in batch]
        content = hashlib.sha256(b"\0".join(keys) + repr((sizes, etags)).encode()).hexdigest()
        unit_id = _unit_id("slice", prefix, content)
        keys_uri = self._ledger.uri("plan", f"keys-{unit_id}.parquet")
        table = pa.table({"key": keys, "size_bytes": sizes, "etag": etags}, schema=_KEYS_SCHEMA)
        try:
            self._storage.replace(keys_uri, _parquet(table))
        except StorageError as error:
            raise OutputError(f"OUT cannot be written: {error}") from error
        return Unit(unit_id, UnitKind.SLICE, prefix, sum(sizes), "", keys_uri, len(batch))

    # -- limit --------------------------------------------------------------------------------------------

    def _limited(self, units: Iterable[Unit], limit: int) -> Iterator[Unit]:
        """The units that hold the first ``limit`` samples, the last one cut to fit unless it is planned already."""
        left = limit
        for unit in units:
            num_samples = self._count(unit, left)
            yield unit if num_samples <= left or unit.id in self._by_id else self._cut_to(unit, left)
            left -= num_samples
            if left <= 0:
                return

    def _count(self, unit: Unit, enough: int) -> int:
        """Samples of a unit; counting stops at one more than enough."""
        if unit.num_samples is not None:
            return unit.num_samples
        if unit.size_bytes < 0:
            return 0
        reader = UnitReader(unit, self._storage, payloads=False)
        try:
            return sum(1 for _ in itertools.islice((s for s in reader if isinstance(s, Sample)), enough + 1))
        except StorageError:
            return 0

    def _cut_to(self, unit: Unit, num_samples: int) -> Unit:
        if unit.kind == UnitKind.TAR:
            return tar_unit(Entry(unit.uri, unit.size_bytes, unit.etag), num_samples)
        return self._slice(unit.uri, self._planned(unit)[:num_samples])


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def read_units(ledger: Ledger, storage: Storage, fingerprint: str = "") -> list[Unit]:
    """The units that an output was planned with; none where there is no plan yet.

    Args:
        ledger: Of the output.
        storage: How to reach it.
        fingerprint: Of the job that asks; a plan that another one made is none. Empty for whatever there is.

    Raises:
        OutputError: The plan cannot be read.
    """
    try:
        data = storage.read(ledger.uri(UNITS))
    except ObjectMissing:
        return []
    except StorageError as error:
        raise OutputError(str(error)) from error
    names = {item.name for item in dataclasses.fields(Unit)}
    units: list[Unit] = []
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        planner = (file.schema_arrow.metadata or {}).get(_FINGERPRINT, b"").decode()
        if planner and fingerprint and planner != fingerprint:
            return []
        # batch by batch: rows as dicts take several times the memory of units
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                known = {name: value for name, value in row.items() if name in names}
                units.append(Unit(**known | {"kind": UnitKind(row["kind"])}))  # one string for all units
    except (TypeError, KeyError, ValueError, OSError) as error:
        raise OutputError(f"{ledger.uri(UNITS)}: damaged: {error}") from error
    return units


def count_samples(units: Sequence[Unit], storage: Storage, budget_s: float) -> dict[str, int]:
    """Sample counts that are known or quickly found: local tars are counted header by header.

    Args:
        units: The units.
        storage: How to reach them.
        budget_s: Counting stops after so many seconds.
    """
    counts = {unit.id: unit.num_samples for unit in units if unit.num_samples is not None}
    deadline = time.monotonic() + budget_s
    for unit in units:
        if time.monotonic() > deadline:
            break
        if unit.id in counts or unit.uri.startswith("s3://") or unit.size_bytes < 0:
            continue
        number = _count_until(unit, storage, deadline)
        if number is None:
            break
        counts[unit.id] = number
    return counts


def _count_until(unit: Unit, storage: Storage, deadline: float) -> int | None:
    number = 0
    try:
        for item in UnitReader(unit, storage, payloads=False):
            number += isinstance(item, Sample)
            if time.monotonic() > deadline:
                return None
    except StorageError:
        return 0
    return number
