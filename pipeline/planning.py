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
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

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
        InputError: One is malformed, missing or forbidden, or nothing at all was found.
    """
    inputs = Inputs()
    for word in words:
        try:
            _find(word, storage, inputs)
        except StorageError as error:
            raise InputError(f"INPUT {error}") from error
    if not inputs.tars and not inputs.loose:
        raise InputError(f"no images found: {', '.join(words)} holds neither tars nor image files")
    if inputs.tars and all(entry.size_bytes < 0 for entry in inputs.tars.values()) and not inputs.loose:
        raise InputError(f"none of the inputs can be read: {_some(list(inputs.tars))}")
    return inputs


def _find(word: str, storage: Storage, inputs: Inputs) -> None:
    if word.startswith("@"):
        _find_listed(_lines(word[1:], storage), storage, inputs)
    elif "{" in word and not _exists_locally(word):
        _find_listed(_expanded(word), storage, inputs)
    else:
        _find_one(absolute_uri(word), storage, inputs)


def _exists_locally(word: str) -> bool:
    return not word.startswith("s3://") and os.path.exists(absolute_uri(word))


def _expanded(word: str) -> list[str]:
    try:
        return list(braceexpand.braceexpand(word))
    except (ValueError, braceexpand.UnbalancedBracesError) as error:
        raise InputError(f"INPUT {word}: malformed brace range: {error}") from error


def _lines(path: str, storage: Storage) -> list[str]:
    try:
        text = storage.read(absolute_uri(path)).decode("utf-8-sig")
    except StorageError as error:
        raise InputError(f"INPUT @{path}: {error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"INPUT @{path}: not UTF-8 text") from error
    lines = [line.strip() for line in text.splitlines()]
    listed = [line for line in lines if line and not line.startswith("#")]
    if not listed:
        raise InputError(f"INPUT @{path}: the list is empty")
    return [name for line in listed for name in (_expanded(line) if "{" in line else [line])]


def _find_listed(names: list[str], storage: Storage, inputs: Inputs) -> None:
    """Names of a list or a range: one that is missing is an event, not a wrong request."""
    loose: dict[str, list[Entry]] = {}
    for name in names:
        uri = absolute_uri(name)
        if is_tar_name(uri):
            try:
                inputs.tars.setdefault(uri, storage.stat(uri))
            except (ObjectMissing, ObjectForbidden):
                inputs.tars.setdefault(uri, Entry(uri, -1, ""))
        elif is_image_name(uri):
            entry = _listed_image(uri, storage, inputs)
            if entry is not None:
                loose.setdefault(_root(uri), []).append(entry)
        else:
            _find_one(uri, storage, inputs)
    for entries in loose.values():
        unique = sorted({entry.uri: entry for entry in entries}.values(), key=lambda entry: entry.uri)
        inputs.loose.append((_common_prefix([entry.uri for entry in unique]), unique))


def _listed_image(uri: str, storage: Storage, inputs: Inputs) -> Entry | None:
    try:
        return storage.stat(uri)
    except (ObjectMissing, ObjectForbidden) as error:
        inputs.notes.append(f"left out: {error}")
        return None


def _root(uri: str) -> str:
    return uri.split("/", 3)[2] if uri.startswith("s3://") else "/"


def _common_prefix(uris: Sequence[str]) -> str:
    """The directory that all of them are in, with its slash."""
    common = os.path.commonprefix([uris[0], uris[-1]]) if len(uris) > 1 else uris[0]
    return common[: common.rindex("/") + 1]


def _find_one(uri: str, storage: Storage, inputs: Inputs) -> None:
    """One path, directory, prefix or pattern that must exist."""
    if _WILDCARDS & set(uri) and not _is_there(uri, storage):
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


def _is_there(uri: str, storage: Storage) -> bool:
    return os.path.exists(uri) if not uri.startswith("s3://") else storage.exists(uri)


def _is_directory(uri: str, storage: Storage) -> bool:
    if not uri.startswith("s3://"):
        return os.path.isdir(uri)
    if is_tar_name(uri) or is_image_name(uri):
        return False
    return next(iter(storage.list(uri.rstrip("/") + "/")), None) is not None or not storage.exists(uri)


def _find_pattern(uri: str, storage: Storage, inputs: Inputs) -> None:
    if uri.startswith("s3://"):
        fixed = uri[: min(uri.index(char) for char in _WILDCARDS if char in uri)]
        matches = [entry for entry in storage.list(fixed) if fnmatch.fnmatchcase(entry.uri, uri)]
    else:
        names = sorted(glob.glob(uri, recursive=True))
        matches = [storage.stat(name) for name in names if os.path.isfile(name)]
        for folder in (name for name in names if os.path.isdir(name)):
            _find_below(folder.rstrip("/") + "/", storage, inputs)
    tars = [entry for entry in matches if is_tar_name(entry.uri)]
    images = [entry for entry in matches if is_image_name(entry.uri)]
    inputs.tars.update((entry.uri, entry) for entry in tars if entry.uri not in inputs.tars)
    if images:
        inputs.loose.append((_common_prefix([entry.uri for entry in images]), images))


def _find_below(folder: str, storage: Storage, inputs: Inputs) -> None:
    """A directory or prefix: shards where it holds tars, otherwise loose images."""
    tars = []
    num_images = 0
    for entry in storage.list(folder):
        if is_tar_name(entry.uri):
            tars.append(entry)
        elif is_image_name(entry.uri):
            num_images += 1
    if tars:
        inputs.tars.update((entry.uri, entry) for entry in tars if entry.uri not in inputs.tars)
        if num_images:
            inputs.notes.append(f"{folder} holds tars: its {num_images} loose images are left out")
    elif num_images:
        inputs.loose.append((folder, _Listing(folder, storage)))


@dataclass(frozen=True, slots=True)
class _Listing:
    """The images below a prefix, listed anew at each iteration."""

    folder: str
    storage: Storage

    def __iter__(self) -> Iterator[Entry]:
        return (entry for entry in self.storage.list(self.folder) if is_image_name(entry.uri))


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# -- units ------------------------------------------------------------------------------------------------


def _unit_id(*words: object) -> str:
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]


def tar_unit(entry: Entry, max_samples: int | None = None) -> Unit:
    """The unit of one tar."""
    unit_id = _unit_id("tar", entry.uri, entry.size_bytes, entry.etag, max_samples)
    return Unit(unit_id, UnitKind.TAR, entry.uri, entry.size_bytes, entry.etag, max_samples=max_samples)


class Plan:
    """The units of an output, old and new, and the key lists of its slices."""

    def __init__(self, ledger: Ledger, storage: Storage) -> None:
        self._ledger = ledger
        self._storage = storage
        self.units: list[Unit] = read_units(ledger, storage)
        self.replaced: set[str] = set()

    def add(self, inputs: Inputs, limit: int | None = None) -> None:
        """Take inputs in: what is new is added, what changed replaces its older version.

        Raises:
            OutputError: OUT cannot be written.
        """
        candidates = itertools.chain((tar_unit(entry) for entry in inputs.tars.values()), self._slices(inputs))
        if limit is not None:
            candidates = self._limited(candidates, limit)
        by_id = {unit.id: unit for unit in self.units}
        versions: dict[str, str] = {unit.uri: unit.id for unit in self.units if unit.kind == UnitKind.TAR}
        for unit in candidates:
            if unit.id in by_id:
                continue
            older = versions.get(unit.uri) if unit.kind == UnitKind.TAR else None
            if older is not None and unit.size_bytes < 0:
                continue  # it cannot be looked at just now; what is known of it stays
            if older is not None:
                del by_id[older]
                self.replaced.add(older)
            if unit.kind == UnitKind.TAR:
                versions[unit.uri] = unit.id
            by_id[unit.id] = unit
        self.units = [unit for unit in by_id.values() if unit.id not in self.replaced]

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
            known = [unit for unit in self.units if unit.kind == UnitKind.SLICE and unit.uri == prefix]
            yield from self._cut(prefix, self._unplanned(known, listing) if known else listing)

    def _unplanned(self, known: list[Unit], listing: Iterable[Entry]) -> Iterator[Entry]:
        """Entries that no slice holds in their present version. Slices with an older version are replaced.

        Both sides are in order, so they are merged without holding either.
        """
        planned = heapq.merge(*(self._planned(unit) for unit in known), key=lambda pair: pair[0].uri)
        changed: dict[str, Unit] = {}
        after = next(planned, None)
        for entry in listing:
            while after is not None and after[0].uri < entry.uri:
                after = next(planned, None)
            if after is None or after[0].uri != entry.uri:
                yield entry
            elif (after[0].size_bytes, after[0].etag) != (entry.size_bytes, entry.etag):
                changed[after[1].id] = after[1]
        for unit in changed.values():
            self.replaced.add(unit.id)
            for entry, _ in self._planned(unit):
                try:
                    yield self._storage.stat(entry.uri)
                except ObjectMissing:
                    continue

    def _planned(self, unit: Unit) -> Iterator[tuple[Entry, Unit]]:
        assert unit.keys_uri is not None
        for _, entry in slice_entries(unit, self._storage.read(unit.keys_uri)):
            yield entry, unit

    def _cut(self, prefix: str, listing: Iterable[Entry]) -> Iterator[Unit]:
        entries = iter(listing)
        while batch := list(itertools.islice(entries, SLICE_KEYS)):
            yield self._slice(prefix, batch)

    def _slice(self, prefix: str, batch: list[Entry], max_samples: int | None = None) -> Unit:
        keys = [os.fsencode(entry.uri[len(prefix) :]) for entry in batch]
        sizes = [entry.size_bytes for entry in batch]
        etags = [entry.etag for entry in batch]
        content = hashlib.sha256(b"\0".join(keys) + repr((sizes, etags)).encode()).hexdigest()
        unit_id = _unit_id("slice", os.fsencode(prefix).hex(), content, max_samples)
        keys_uri = self._ledger.uri("plan", f"keys-{unit_id}.parquet")
        self._put(keys_uri, pa.table({"key": keys, "size_bytes": sizes, "etag": etags}, schema=_KEYS_SCHEMA))
        return Unit(unit_id, UnitKind.SLICE, prefix, sum(sizes), "", keys_uri, len(batch), max_samples)

    # -- limit --------------------------------------------------------------------------------------------

    def _limited(self, units: Iterable[Unit], limit: int) -> Iterator[Unit]:
        """The units that hold the first ``limit`` samples, the last one cut to fit."""
        left = limit
        for unit in units:
            num_samples = self._count(unit, left)
            if num_samples <= left:
                left -= num_samples
                yield unit
            else:
                yield self._cut_to(unit, left)
                left = 0
            if left == 0:
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
        assert unit.keys_uri is not None
        entries = [entry for _, entry in slice_entries(unit, self._storage.read(unit.keys_uri))]
        return self._slice(unit.uri, entries[:num_samples])


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
    return [Unit(**{name: value for name, value in row.items() if name in names}) for row in rows]


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
