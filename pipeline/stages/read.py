"""Read: from a unit to its samples, in order, and events for all damage in between.

How members of a tar become samples is in :mod:`pipeline.stages.grouping`. A shard in which members of a sample lie
apart is read with an index of its headers (:mod:`pipeline.stages.unsorted`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections import deque
from collections.abc import Container, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.option_types import Images
from pipeline.errors import ObjectArchived, ObjectChanged, ObjectDamaged, ObjectForbidden, ObjectMissing, StorageError
from pipeline.records import Cursor, Item, Reason, Sample, Unit, UnitKind
from pipeline.stages.grouping import MAX_IMAGE_BYTES, Grouping, SampleGrouper, too_many_bytes
from pipeline.stages.tar import Reopen, TarReader
from pipeline.stages.unsorted import Watch, index_shard, tail_has_signs
from pipeline.storage import ByteStream, Entry, Storage
from pipeline.storage.arrow_memory import arrow_reader
from pipeline.text.safe import name_text, printable

LET_GO = -1  # the size, in a key list, of an image that the unit no longer holds: the others keep their positions
_EVERY = range(1 << 62)
_LOOSE_IN_FLIGHT = {"s3": 32, "file": 4}
_KEY_LIST = pa.schema(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in (("key", pa.binary()), ("size_bytes", pa.int64()), ("etag", pa.string()))
    ]
)


class UnitReader:
    """Reads the samples of one unit from a cursor on. Iterate once.

    Args:
        unit: The unit.
        storage: How to reach it.
        cursor: Where to start.
        keep: Names of the fields that ``--keep`` copies.
        images: Which images of a sample are labelled: the first, or ``all``, each as a sample of its own.
        payloads: False to list samples without reading their contents.
        only: Indices of the samples whose contents are read; None for all.
        begin_again_before: Before which sample a shard that is found to be unsorted is to be begun again; 0 for never.

    Attributes:
        bytes_done: Bytes of the unit that were read or skipped.
        compressed: Whether the unit is a compressed tar; known once the first item is out.
        unsorted: Whether it is read with an index of its headers; likewise.

    Raises while iterating:
        StorageError: The unit cannot be read (any further).
        MembersApart: The shard is to be begun again, with a cursor that says that it is unsorted.
    """

    def __init__(
        self,
        unit: Unit,
        storage: Storage,
        cursor: Cursor | None = None,
        keep: tuple[str, ...] = (),
        *,
        images: Images = "auto",
        payloads: bool = True,
        only: Container[int] | None = None,
        begin_again_before: int = 0,
    ) -> None:
        self.unit = unit
        self._storage = storage
        self._cursor = cursor or Cursor()
        self._grouping = Grouping(keep, every_image=images == "all")
        self._only: Container[int] = (_EVERY if only is None else only) if payloads else ()
        self._stream: ByteStream | None = None
        self.bytes_done = 0
        self.compressed = False
        self.unsorted = self._cursor.unsorted
        self._begin_again_before = begin_again_before
        self._watch = Watch(every_image=images == "all")

    def note_keys(self, keys: Iterable[str]) -> None:
        """Note the keys of the samples before the cursor's, so that it is noticed where one comes again."""
        self._watch.note(keys)

    def cursor_at(self, part: int, sample: Sample) -> Cursor:
        """Where a part begins whose first sample is this one, which the reader has yielded."""
        offset, skip = sample.start or (sample.offset or 0, 0)
        return Cursor(part, sample.index, offset, self.compressed, skip, self.unsorted)

    def __iter__(self) -> Iterator[Item]:
        items = self._slice() if self.unit.kind == UnitKind.SLICE else self._tar()
        limit = self.unit.max_samples
        for item in items:
            if isinstance(item, Sample) and limit is not None and item.index >= limit:
                items.close()
                return
            yield item

    def _tar(self) -> Generator[Item, None, None]:
        entry = Entry(self.unit.uri, self.unit.size_bytes, self.unit.etag)
        if entry.size_bytes < 0:  # it did not exist when the plan was made
            self._storage.check_readable(entry.uri)
            raise ObjectChanged(f"{entry.uri}: appeared after the plan was made; run the command again")
        if self.unsorted is None and (self._cursor.index > 0 or self._cursor.offset > 0):
            self.unsorted = self._has_signs(entry)
        if self.unsorted is None:
            held: deque[Item] = deque()
            watch = self._watch
            with self._opened(entry) as walk:
                items = iter(SampleGrouper(walk, self._grouping, self._cursor, self._only, on_run=watch.take))
                self.unsorted = self._finds_signs(entry, walk, items, watch, held)
                if not self.unsorted:
                    watch.begin_again_before = self._begin_again_before
                    while held:
                        yield held.popleft()
                    yield from self._counting(items)
                    return
            held.clear()
            self._watch = Watch(every_image=self._grouping.every_image)
        joins = None
        if self.unsorted:
            with self._opened(entry) as walk:
                joins = index_shard(walk, self._grouping)
        with self._opened(entry, self._cursor) as walk:
            on_run = self._watch.take
            items = iter(SampleGrouper(walk, self._grouping, self._cursor, self._only, joins, on_run))
            yield from self._counting(items)

    def _has_signs(self, entry: Entry) -> bool:
        """Whether there are signs that members of a sample lie apart, for a cursor that does not know."""
        watch = Watch(every_image=self._grouping.every_image)
        with self._opened(entry) as walk:
            items = iter(SampleGrouper(walk, self._grouping, Cursor(), (), on_run=watch.take))
            return self._finds_signs(entry, walk, items, watch, deque(maxlen=0))

    def _finds_signs(
        self, entry: Entry, walk: TarReader, items: Iterator[Item], watch: Watch, held: deque[Item]
    ) -> bool:
        """Read the first samples into ``held``, and look for signs there and at the shard's end."""
        signs = watch.signs
        for item in items:
            held.append(item)
            if signs.enough:
                return signs.found or (not walk.compressed and tail_has_signs(entry, self._storage, signs))
        return signs.found

    @contextlib.contextmanager
    def _opened(self, entry: Entry, cursor: Cursor | None = None) -> Iterator[TarReader]:
        """The shard's members, from a cursor on."""
        cursor = cursor or Cursor()
        inside = cursor.offset > 0 and not cursor.compressed
        stream = self._storage.open(entry, cursor.offset if inside else 0)
        try:
            walk = TarReader(stream, sniff=not inside, resumed=inside, reopen=self._reopen(entry))
            self.compressed = walk.compressed
            self._stream = stream
            if cursor.compressed:
                walk.skip_to(cursor.offset)
            yield walk
        finally:
            stream.close()

    def _reopen(self, entry: Entry) -> Reopen:
        """Opens the tar again. The end of what is needed keeps an object store from reading ahead of it."""

        def reopen(start: int, stop: int | None) -> ByteStream:
            size_bytes = entry.size_bytes if stop is None else min(stop, entry.size_bytes)
            return self._storage.open(dataclasses.replace(entry, size_bytes=size_bytes), start)

        return reopen

    def _counting(self, items: Iterator[Item]) -> Iterator[Item]:
        for item in items:
            self.bytes_done = 0 if self._stream is None else self._stream.position
            yield item

    def _slice(self) -> Generator[Sample, None, None]:
        assert self.unit.keys_uri is not None
        start = self._cursor.index
        entries = slice_entries(self.unit, self._storage.read(self.unit.keys_uri))[start:]
        width = _LOOSE_IN_FLIGHT["s3" if self.unit.uri.startswith("s3://") else "file"]
        with ThreadPoolExecutor(width, thread_name_prefix="loose") as pool:
            ahead: deque[tuple[str, Entry, Future[Sample]]] = deque()
            waiting = ((index, *item) for index, item in enumerate(entries, start) if item[1].size_bytes != LET_GO)
            try:
                while True:
                    while len(ahead) < width and (following := next(waiting, None)) is not None:
                        index, key, entry = following
                        ahead.append((key, entry, pool.submit(self._read_loose, index, key, entry)))
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
            sample.reason, sample.message = Reason.TOO_LARGE, too_many_bytes(entry.size_bytes)
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
    """Parse the key list of a slice: (key, entry) pairs by index. The size of what was let go of is :data:`LET_GO`.

    Raises:
        ObjectDamaged: It is no key list.
    """
    try:
        table = pq.read_table(arrow_reader(keys_file), columns=_KEY_LIST.names).cast(_KEY_LIST)
        columns = [table.column(name).to_pylist() for name in _KEY_LIST.names]  # text that is not UTF-8 fails here
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ObjectDamaged(f"{unit.keys_uri}: damaged: {error}") from error
    return [
        (name_text(key), Entry(unit.uri + os.fsdecode(key), size, etag))
        for key, size, etag in zip(*columns, strict=True)
    ]


def failure_reason(error: StorageError) -> Reason | None:
    """The reason for quarantine of a unit that cannot be read at all; None if the error is no such reason."""
    if isinstance(error, ObjectMissing):
        return Reason.SHARD_MISSING
    if isinstance(error, ObjectArchived):
        return Reason.SHARD_ARCHIVED
    return Reason.SHARD_FORBIDDEN if isinstance(error, ObjectForbidden) else None
