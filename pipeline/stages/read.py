"""Read: from a unit to its samples, in order, and events for all damage in between.

Names follow WebDataset: the key of a member is its path up to the first dot of its base name, the rest
is the field; adjacent members with one key are one sample. In addition:

* a field that comes twice under one key starts a new sample, so that neither is lost;
* a member that WebDataset cannot name (no dot, or a leading one) is a sample of its own, its whole
  name is the key, and its content is tried as an image;
* of several images in a sample, the first in name order is labelled;
* links, devices and FIFOs are never followed; a sample that has nothing else is quarantined;
* damage inside a sample does not split it: the rest of it stays one sample, and the event follows.
"""

from __future__ import annotations

import io
import itertools
import os
import re
from collections import deque
from collections.abc import Container, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ObjectArchived, ObjectChanged, ObjectDamaged, ObjectForbidden, ObjectMissing, StorageError
from pipeline.records import Cursor, Reason, Sample, ShardEvent, Unit, UnitKind
from pipeline.stages.tar import Member, TarReader
from pipeline.storage import Entry, Storage
from pipeline.text.safe import printable

# Names that count as images; the decoder looks at the content only.
IMAGE_EXTENSIONS = frozenset(
    "jpg jpeg jpe jfif jif jfi mpo png apng gif webp avif avifs heic heif hif bmp dib tif tiff jp2 j2k j2c jpc jpf jpx "
    "ppm pgm pbm pnm pfm ico icns cur tga vda dds psd pcx sgi qoi xbm xpm jxl dng cr2 nef arw".split()
)
# Members that belong to no sample: directories, GNU volume labels, and WebDataset's metadata (by its own pattern).
_NO_SAMPLE = ("a directory", "a volume label")
_ARCHIVE_METADATA = re.compile(r"__[^/]*__($|/)")
_INTEGER = re.compile(rb"\s*[+-]?[0-9]{1,20}\s*")
MAX_IMAGE_BYTES = 256 << 20
_MAX_FIELD_BYTES = 16 << 20
_MAX_SHOWN_CHARS = 80  # length of a name in a message
_EVERY = range(1 << 62)
_LOOSE_IN_FLIGHT = {"s3": 32, "file": 4}
_KEY_LIST = pa.schema(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in (("key", pa.binary()), ("size_bytes", pa.int64()), ("etag", pa.string()))
    ]
)


def is_image_name(name: str) -> bool:
    """Whether a name's last extension is an image's."""
    return name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS


class UnitReader:
    """Reads the samples of one unit from a cursor on. Iterate once.

    Args:
        unit: The unit.
        storage: How to reach it.
        cursor: Where to start.
        keep: Names of the fields that ``--keep`` copies.
        payloads: False to list samples without reading their contents.
        only: Indices of the samples whose contents are read; None for all.

    Attributes:
        bytes_done: Bytes of the unit that were read or skipped.
        compressed: Whether the unit is a compressed tar; known once the first item is out.

    Raises while iterating:
        StorageError: The unit cannot be read (any further).
    """

    def __init__(
        self,
        unit: Unit,
        storage: Storage,
        cursor: Cursor | None = None,
        keep: tuple[str, ...] = (),
        *,
        payloads: bool = True,
        only: Container[int] | None = None,
    ) -> None:
        self.unit = unit
        self._storage = storage
        self._cursor = cursor or Cursor()
        self._keep = keep
        self._only: Container[int] = (_EVERY if only is None else only) if payloads else ()
        self.bytes_done = 0
        self.compressed = False

    def __iter__(self) -> Iterator[Sample | ShardEvent]:
        items = self._slice() if self.unit.kind == UnitKind.SLICE else self._tar()
        limit = self.unit.max_samples
        for item in items:
            if isinstance(item, Sample) and limit is not None and item.index >= limit:
                items.close()
                return
            yield item

    def _tar(self) -> Generator[Sample | ShardEvent, None, None]:
        entry = Entry(self.unit.uri, self.unit.size_bytes, self.unit.etag)
        if entry.size_bytes < 0:  # it did not exist when the plan was made
            self._storage.check_readable(entry.uri)
            raise ObjectChanged(f"{entry.uri}: appeared after the plan was made; run the command again")
        cursor = self._cursor
        inside = cursor.offset > 0 and not cursor.compressed
        stream = self._storage.open(entry, cursor.offset if inside else 0)
        try:
            walk = TarReader(stream, sniff=not inside, resumed=inside)
            self.compressed = walk.compressed
            if cursor.compressed:
                walk.skip_to(cursor.offset)
            for item in _SampleGrouper(walk, cursor.index, self._keep, self._only):
                self.bytes_done = stream.position
                yield item
        finally:
            stream.close()

    def _slice(self) -> Generator[Sample | ShardEvent, None, None]:
        assert self.unit.keys_uri is not None
        entries = slice_entries(self.unit, self._storage.read(self.unit.keys_uri))[self._cursor.index :]
        width = _LOOSE_IN_FLIGHT["s3" if self.unit.uri.startswith("s3://") else "file"]
        with ThreadPoolExecutor(width, thread_name_prefix="loose") as pool:
            ahead: deque[tuple[str, Entry, Future[Sample]]] = deque()
            index = self._cursor.index
            waiting = iter(entries)
            try:
                while True:
                    while len(ahead) < width and (following := next(waiting, None)) is not None:
                        key, entry = following
                        ahead.append((key, entry, pool.submit(self._read_loose, index, key, entry)))
                        index += 1
                    if not ahead:
                        return
                    _, entry, future = ahead.popleft()
                    sample = future.result()
                    self.bytes_done += max(0, entry.size_bytes)
                    yield sample
            finally:
                for _, _, future in ahead:
                    future.cancel()

    def _read_loose(self, index: int, key: str, entry: Entry) -> Sample:
        sample = Sample(index, key, None, max(0, entry.size_bytes))
        if index not in self._only:
            return sample
        if entry.size_bytes == 0:
            sample.reason, sample.message = Reason.EMPTY, "the file is empty"
        elif entry.size_bytes > MAX_IMAGE_BYTES:
            sample.reason, sample.message = Reason.TOO_LARGE, _too_many_bytes(entry.size_bytes)
        else:
            try:
                if entry.size_bytes < 0:  # it could not be read when the plan was made
                    self._storage.check_readable(entry.uri)
                    raise ObjectChanged(f"{entry.uri}: appeared after the plan was made; run the command again")
                sample.image = self._storage.fetch(entry)
            except (ObjectMissing, ObjectForbidden) as error:
                sample.reason, sample.message = failure_reason(error), printable(error)
        return sample


def slice_entries(unit: Unit, keys_file: bytes) -> list[tuple[str, Entry]]:
    """Parse the key list of a slice: (key, entry) pairs.

    Raises:
        ObjectDamaged: It is no key list.
    """
    try:
        table = pq.read_table(io.BytesIO(keys_file), columns=_KEY_LIST.names).cast(_KEY_LIST)
        columns = [table.column(name).to_pylist() for name in _KEY_LIST.names]  # text that is not UTF-8 fails here
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ObjectDamaged(f"{unit.keys_uri}: damaged: {error}") from error
    return [
        (key.decode("utf-8", "backslashreplace"), Entry(unit.uri + os.fsdecode(key), size, etag))
        for key, size, etag in zip(*columns, strict=True)
    ]


def failure_reason(error: StorageError) -> Reason | None:
    """The reason for quarantine of a unit that cannot be read at all; None if the error is no such reason."""
    if isinstance(error, ObjectMissing):
        return Reason.SHARD_MISSING
    if isinstance(error, ObjectArchived):
        return Reason.SHARD_ARCHIVED
    return Reason.SHARD_FORBIDDEN if isinstance(error, ObjectForbidden) else None


def _too_many_bytes(num_bytes: int) -> str:
    return f"{num_bytes} bytes encoded; the limit is {MAX_IMAGE_BYTES}"


class _OpenSample:
    """A sample whose members are being read."""

    __slots__ = ("fields", "image_name", "key", "num_bytes", "sample", "special")

    def __init__(self, key: str, index: int, offset: int) -> None:
        self.key = key
        self.fields: dict[str, None] = {}  # a set in order; there may be very many
        self.image_name: str | None = None
        self.special = ""
        self.num_bytes = 0
        self.sample = Sample(index, key, offset)


class _SampleGrouper:
    """Groups the members of an archive into samples."""

    def __init__(self, walk: TarReader, index: int, keep: tuple[str, ...], only: Container[int]) -> None:
        self._walk = walk
        self._index = index
        self._keep = keep
        self._only = only

    def __iter__(self) -> Iterator[Sample | ShardEvent]:
        group: _OpenSample | None = None
        events: list[ShardEvent] = []  # they follow the sample that they happen in, so that no cursor separates the two
        for item in self._walk:
            if isinstance(item, ShardEvent):
                events.append(item)
                if group is None:
                    yield from events
                    events.clear()
                continue
            if item.special.startswith(_NO_SAMPLE) or _ARCHIVE_METADATA.match(item.name):
                continue
            key, field = _key_and_field(item.name)
            name = item.name if key is None else key
            if group is not None and (key is None or group.key != name or field in group.fields):
                yield from self._finish(group, events)
                group = None
            if group is None:
                group = _OpenSample(name, self._index, item.offset)
                self._index += 1
            self._add(group, item, field, solo=key is None)
            if key is None:
                yield from self._finish(group, events)
                group = None
        if group is not None:
            yield from self._finish(group, events)

    def _add(self, group: _OpenSample, member: Member, field: str, *, solo: bool) -> None:
        group.fields[field] = None
        group.num_bytes += member.num_bytes
        if group.sample.index not in self._only:
            return
        if solo or is_image_name(field):
            self._add_image(group, member)
        elif (field == "cls" or field in self._keep) and not member.special and member.num_bytes <= _MAX_FIELD_BYTES:
            data = self._walk.payload()
            if data is None:
                return
            if field == "cls":
                group.sample.truth = _parse_class(data)
            if field in self._keep:
                group.sample.kept[field] = data.decode("utf-8", "replace")

    def _add_image(self, group: _OpenSample, member: Member) -> None:
        if member.special:
            group.special = group.special or f"{_shorten(member.name)} is {member.special}, which is not followed"
            return
        if group.image_name is not None and group.image_name < member.name:
            return
        group.image_name = member.name
        sample = group.sample
        sample.image, sample.reason, sample.message = None, None, ""
        sample.image_name = member.name
        sample.num_bytes = member.num_bytes
        if member.num_bytes == 0:
            sample.reason, sample.message = Reason.EMPTY, "the image is empty"
        elif member.num_bytes > MAX_IMAGE_BYTES:
            sample.reason, sample.message = Reason.TOO_LARGE, _too_many_bytes(member.num_bytes)
        else:
            sample.image = self._walk.payload()
            if sample.image is None:
                sample.reason = Reason.SHARD_TRUNCATED
                sample.message = "the archive ends inside this image"

    @staticmethod
    def _finish(group: _OpenSample, events: list[ShardEvent]) -> Iterator[Sample | ShardEvent]:
        sample = group.sample
        if group.image_name is None:
            sample.num_bytes = group.num_bytes
            sample.reason = Reason.NO_IMAGE
            fields = ", ".join(_shorten(name) for name in itertools.islice(group.fields, 8))
            sample.message = group.special or f"no image among the fields: {fields}"
        sample.message = " ".join(sample.message.split())  # names may hold line breaks
        yield sample
        yield from events
        events.clear()


def _key_and_field(name: str) -> tuple[str | None, str]:
    """Split a name into WebDataset's key and the field in lower case; without a dot, or with a leading one, no key.

    WebDataset itself groups all hidden files of a directory ``d`` in one sample, ``d/``
    (``findings/webdataset-hidden-files.sh``).
    """
    from webdataset.tariterators import (
        base_plus_ext,  # imported late: it imports torch, which listing loose images does not need
    )

    folder, slash, base = name.rpartition("/")
    # only the base name: with the whole name its regular expression takes quadratic time
    key, field = base_plus_ext(base)
    return (None, "") if key is None else (folder + slash + key, field.lower())


def _shorten(name: str) -> str:
    return name if len(name) <= _MAX_SHOWN_CHARS else name[: _MAX_SHOWN_CHARS - 3] + "..."


def _parse_class(data: bytes) -> int | None:
    if not _INTEGER.fullmatch(data):
        return None
    value = int(data)
    return value if -(2**31) <= value < 2**31 else None
