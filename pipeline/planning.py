"""Plan: from INPUT words to units.

Tars become one unit each. Loose images are listed in order and cut into slices of at most
``SLICE_KEYS`` keys; each slice's keys go to a file of their own, so neither driver nor worker ever
holds the whole listing. A plan only grows: units of earlier runs stay, a shard that changed replaces
its older version, and loose keys that are already planned keep their slice.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import glob
import hashlib
import heapq
import io
import itertools
import json
import os
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import braceexpand
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError, ObjectForbidden, ObjectMissing, OutputError, StorageError
from pipeline.ledger import UNITS, Ledger
from pipeline.records import Sample, Unit, UnitKind
from pipeline.stages.read import UnitReader, is_image_name, slice_entries
from pipeline.storage import Entry, Storage, absolute_uri

SLICE_KEYS = 2048
_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_WILDCARDS = frozenset("*?[")
_PARALLEL_READS = 32

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


@dataclass(slots=True)
class Inputs:
    """What the INPUT words stand for.

    Attributes:
        tars: Tars found, in order, without doubles. A size of -1 marks one that could not be looked at.
        loose: Prefixes of loose images, each with its listing in order of URI.
        notes: Things the user should know, one line each.
    """

    tars: dict[str, Entry] = field(default_factory=dict)
    loose: list[tuple[str, Iterable[Entry]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def is_tar_name(name: str) -> bool:
    """Whether a name is a shard's."""
    return name.lower().endswith(_TAR_SUFFIXES)


# -- INPUT words ----------------------------------------------------------------------------------------


def find_inputs(words: Sequence[str], storage: Storage) -> Inputs:
    """Look up every INPUT.

    Raises:
        InputError: One is malformed, missing, forbidden, or holds nothing to label.
    """
    inputs = Inputs()
    for word in words:
        found = Inputs()
        try:
            _find(word, storage, found)
        except StorageError as error:
            raise InputError(f"INPUT {error}") from error
        if not found.tars and not found.loose:
            raise InputError("; ".join([f"INPUT {word}: no images found", *found.notes]))
        _check_names(found)
        inputs.tars |= found.tars
        inputs.loose += found.loose
        inputs.notes += found.notes
    if inputs.tars and all(entry.size_bytes < 0 for entry in inputs.tars.values()) and not inputs.loose:
        raise InputError(f"none of the inputs can be read: {_some(list(inputs.tars))}")
    return inputs


def _check_names(inputs: Inputs) -> None:
    """URIs of shards and prefixes go into text columns; the keys below a prefix may be any bytes."""
    for uri in (*inputs.tars, *(prefix for prefix, _ in inputs.loose)):
        try:
            uri.encode()
        except UnicodeEncodeError as error:
            shown = os.fsencode(uri).decode("utf-8", "backslashreplace")
            raise InputError(
                f"INPUT {shown}: the path is not UTF-8; rename it, or label its parent directory"
            ) from error


def _find(word: str, storage: Storage, inputs: Inputs) -> None:
    if word.startswith("@"):
        _find_listed(_lines(word[1:], storage), storage, inputs)
    elif len(names := _expanded(word)) > 1:
        _find_listed(names, storage, inputs)
    else:
        _find_one(absolute_uri(names[0]), storage, inputs)


def _expanded(word: str) -> list[str]:
    """The names that a brace range stands for; a name without one, or of a file with braces in it, as it is."""
    if "{" not in word or (not word.startswith("s3://") and os.path.exists(absolute_uri(word))):
        return [word]
    try:
        return list(braceexpand.braceexpand(word))
    except ValueError as error:  # UnbalancedBracesError is one
        raise InputError(f"INPUT {word}: malformed brace range: {error}") from error


def _lines(path: str, storage: Storage) -> list[str]:
    try:
        text = storage.read(absolute_uri(path)).decode("utf-8-sig")
    except StorageError as error:
        raise InputError(f"INPUT @{path}: {error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"INPUT @{path}: not UTF-8 text") from error
    lines = [line.strip() for line in text.split("\n")]
    listed = [line for line in lines if line and not line.startswith("#")]
    if not listed:
        raise InputError(f"INPUT @{path}: the list is empty")
    return [name for line in listed for name in _expanded(line)]


def _find_listed(names: list[str], storage: Storage, inputs: Inputs) -> None:
    """Names of a list or a range: one that is missing is an event, not a wrong request."""
    uris = [absolute_uri(name) for name in names]
    files = [uri for uri in uris if (is_tar_name(uri) or is_image_name(uri)) and not _is_pattern(uri)]
    loose: dict[str, list[Entry]] = {}
    missing: list[str] = []
    with ThreadPoolExecutor(_PARALLEL_READS) as pool:
        entries = dict(zip(files, pool.map(lambda uri: _entry_if_any(uri, storage), files), strict=True))
    for uri in uris:
        if uri not in entries or os.path.isdir(uri):
            _find_one(uri, storage, inputs)
            continue
        entry = entries[uri]
        if is_tar_name(uri):
            inputs.tars.setdefault(uri, entry or Entry(uri, -1, ""))
        elif entry is None:
            missing.append(uri)
        else:
            loose.setdefault(_root(uri), []).append(entry)
    for found in loose.values():
        unique = sorted({entry.uri: entry for entry in found}.values(), key=lambda entry: entry.uri)
        inputs.loose.append((_common_prefix([entry.uri for entry in unique]), unique))
    if missing:
        inputs.notes.append(f"left out, because missing or forbidden: {_some(missing)}")


def _entry_if_any(uri: str, storage: Storage) -> Entry | None:
    try:
        return storage.stat(uri)
    except (ObjectMissing, ObjectForbidden):
        return None


def _root(uri: str) -> str:
    return uri.split("/", 3)[2] if uri.startswith("s3://") else "/"


def _common_prefix(uris: Sequence[str]) -> str:
    """The directory that all of some sorted URIs are in, with its slash."""
    first, last = uris[0], uris[-1]
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    return first[: first.rindex("/", 0, same) + 1]


def _is_pattern(uri: str) -> bool:
    return not _WILDCARDS.isdisjoint(uri) and (uri.startswith("s3://") or not os.path.exists(uri))


def _find_one(uri: str, storage: Storage, inputs: Inputs) -> None:
    """One path, directory, prefix or pattern that must exist."""
    if uri.startswith("s3://") and not _WILDCARDS.isdisjoint(uri.split("/")[2]):
        raise InputError(f"INPUT {uri}: the name of a bucket holds no wildcards")
    if _is_pattern(uri) and not (uri.startswith("s3://") and storage.exists(uri)):
        _find_pattern(uri, storage, inputs)
    elif _is_directory(uri, storage):
        _find_below(uri.rstrip("/") + "/", storage, inputs)
    elif is_tar_name(uri):
        inputs.tars.setdefault(uri, storage.stat(uri))
    else:
        entry = storage.stat(uri)
        if not is_image_name(uri):
            raise InputError(f"INPUT {uri}: neither a tar nor an image by its name; a list of URIs is given as @{uri}")
        inputs.loose.append((_common_prefix([uri]), [entry]))


def _is_directory(uri: str, storage: Storage) -> bool:
    if not uri.startswith("s3://"):
        return os.path.isdir(uri)
    if is_tar_name(uri) or is_image_name(uri):
        return False
    return next(iter(storage.list(uri.rstrip("/") + "/")), None) is not None or not storage.exists(uri)


def _find_pattern(uri: str, storage: Storage, inputs: Inputs) -> None:
    if uri.startswith("s3://"):
        fixed = uri[: min(uri.index(char) for char in _WILDCARDS if char in uri)]
        listing = _Listing(fixed, storage, uri)
        tars, num_images = listing.survey()
        inputs.tars |= tars
        if num_images:
            inputs.loose.append((fixed[: fixed.rindex("/") + 1], listing))
        elif not tars:
            inputs.notes.append(f"{uri}: nothing matches")
        return
    folders: dict[str, None] = {}
    files: list[Entry] = []
    for name in sorted(glob.glob(uri, recursive=True), key=lambda name: (not os.path.isdir(name), name)):
        path = name.rstrip("/")
        if any(str(parent) in folders for parent in PurePosixPath(path).parents):
            continue  # a part of a directory that matches as well
        if os.path.isdir(path):
            folders[path] = None
            _find_below(path + "/", storage, inputs)
        elif os.path.isfile(path):
            files.append(storage.stat(path))
    images = [entry for entry in files if is_image_name(entry.uri)]
    inputs.tars |= {entry.uri: entry for entry in files if is_tar_name(entry.uri)}
    if images:
        inputs.loose.append((_common_prefix([entry.uri for entry in images]), images))
    if not folders and not files:
        inputs.notes.append(f"{uri}: nothing matches")


def _find_below(folder: str, storage: Storage, inputs: Inputs) -> None:
    """A directory or prefix: shards where it holds tars, otherwise loose images."""
    listing = _Listing(folder, storage)
    tars, num_images = listing.survey()
    inputs.tars |= tars
    if not tars and not num_images:
        inputs.notes.append(f"{folder} holds neither tars nor image files")
    elif not tars:
        inputs.loose.append((folder, listing))
    elif num_images:
        inputs.notes.append(f"{folder} holds tars: its {num_images} loose images are left out")


@dataclass(frozen=True, slots=True)
class _Listing:
    """The images below a prefix, those that match a pattern if there is one; listed anew at each iteration."""

    prefix: str
    storage: Storage
    pattern: str | None = None

    def __iter__(self) -> Iterator[Entry]:
        return (entry for entry in self._entries() if is_image_name(entry.uri))

    def _entries(self) -> Iterator[Entry]:
        entries = self.storage.list(self.prefix)
        if self.pattern is None:
            return entries
        matches = re.compile(fnmatch.translate(self.pattern)).match
        return (entry for entry in entries if matches(entry.uri))

    def survey(self) -> tuple[dict[str, Entry], int]:
        """The tars, and the number of images."""
        tars: dict[str, Entry] = {}
        num_images = 0
        for entry in self._entries():
            if is_tar_name(entry.uri):
                tars[entry.uri] = entry
            else:
                num_images += is_image_name(entry.uri)
        return tars, num_images


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# -- units ------------------------------------------------------------------------------------------------


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
    """The units of an output, old and new, and the key lists of its slices."""

    def __init__(self, ledger: Ledger, storage: Storage) -> None:
        self._ledger = ledger
        self._storage = storage
        self.units: list[Unit] = read_units(ledger, storage)
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

    def _tars(self, inputs: Inputs, known: dict[str, Unit]) -> Iterator[Unit]:
        for entry in inputs.tars.values():
            unit = tar_unit(entry)
            # One that cannot be looked at just now: what is known of it stays.
            yield known.get(unit.uri, unit) if unit.size_bytes < 0 else unit

    def _retire(self, unit: Unit) -> None:
        del self._by_id[unit.id]
        self.replaced.add(unit.id)

    def write(self) -> None:
        """Publish ``plan/units.parquet``."""
        columns = {
            name: pa.array([getattr(unit, name) for unit in self.units], _UNITS_SCHEMA.field(name).type)
            for name in _UNITS_SCHEMA.names
        }
        self._put(self._ledger.uri(UNITS), pa.table(columns, schema=_UNITS_SCHEMA))

    def _put(self, uri: str, table: pa.Table) -> None:
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        try:
            self._storage.replace(uri, buffer.getvalue())
        except StorageError as error:
            raise OutputError(f"OUT cannot be written: {error}") from error

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
        except (ValueError, OSError) as error:
            raise OutputError(f"the plan in OUT is damaged: {unit.keys_uri}: {error}") from error

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
        self._put(keys_uri, pa.table({"key": keys, "size_bytes": sizes, "etag": etags}, schema=_KEYS_SCHEMA))
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


def read_units(ledger: Ledger, storage: Storage) -> list[Unit]:
    """The units that an output was planned with; none where there is no plan yet.

    Raises:
        OutputError: The plan cannot be read.
    """
    try:
        data = storage.read(ledger.uri(UNITS))
    except ObjectMissing:
        return []
    except StorageError as error:
        raise OutputError(str(error)) from error
    try:
        rows = pq.read_table(io.BytesIO(data)).to_pylist()
    except (ValueError, OSError) as error:
        raise OutputError(f"{ledger.uri(UNITS)}: damaged: {error}") from error
    names = {item.name for item in dataclasses.fields(Unit)}
    try:
        return [Unit(**{name: value for name, value in row.items() if name in names}) for row in rows]
    except TypeError as error:
        raise OutputError(f"{ledger.uri(UNITS)}: damaged: {error}") from error


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
