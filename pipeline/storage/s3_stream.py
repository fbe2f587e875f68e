"""An S3 object read from front to back by ranged requests, a few ranges ahead of the reader."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, NamedTuple

from pipeline.storage.base import Entry

if TYPE_CHECKING:
    from pipeline.storage.s3 import S3Store

RANGE_BYTES = 8 << 20
RANGES_IN_FLIGHT = 4


class _Range(NamedTuple):
    """Bytes ``start`` to ``stop``, requested."""

    start: int
    stop: int
    data: Future[bytes]


class RangeStream:
    """An object read from front to back, a few ranges ahead of the reader.

    Args:
        store: The store to read from.
        entry: The object, pinned to its version.
        offset: Where to start, bytes.
    """

    def __init__(self, store: S3Store, entry: Entry, offset: int) -> None:
        self._store = store
        self._entry = store.stat_if_empty(entry)
        self._position = offset
        self._next_range = offset
        self._ahead: deque[_Range] = deque()
        self._current = memoryview(b"")

    @property
    def position(self) -> int:
        """Offset of the next byte."""
        return self._position

    def _request_ahead(self) -> None:
        while len(self._ahead) < RANGES_IN_FLIGHT and self._next_range < self._entry.size_bytes:
            start, stop = self._next_range, min(self._next_range + RANGE_BYTES, self._entry.size_bytes)
            data = self._store.readers.submit(self._store.read_range, self._entry, start, stop)
            self._ahead.append(_Range(start, stop, data))
            self._next_range = stop

    def _wait_for_next(self) -> bool:
        """Wait for the next range and make it current; False at the end of the object."""
        self._request_ahead()
        if not self._ahead:
            return False
        head = self._ahead[0]
        data = head.data.result()  # a failed range stays in front, so that a later read fails again
        self._ahead.popleft()
        self._current = memoryview(data)[self._position - head.start :]
        self._request_ahead()
        return True

    def read(self, num_bytes: int) -> bytes:
        """The next bytes; fewer only where the object ends."""
        pieces: list[memoryview] = []
        wanted = num_bytes
        while wanted > 0 and (len(self._current) or self._wait_for_next()):
            pieces.append(self._current[:wanted])
            self._current = self._current[wanted:]
            wanted -= len(pieces[-1])
            self._position += len(pieces[-1])
        return bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)

    def skip(self, num_bytes: int) -> int:
        """Skip bytes; ranges that are not requested yet are never fetched."""
        start = self._position
        target = max(start, min(start + num_bytes, self._entry.size_bytes))
        self._position = target
        self._current = self._current[target - start :]
        if not len(self._current):
            while self._ahead and self._ahead[0].stop <= target:
                self._ahead.popleft().data.cancel()
            if not self._ahead:
                self._next_range = target
        return target - start

    def close(self) -> None:
        """Drop what was read ahead."""
        for piece in self._ahead:
            piece.data.cancel()
        self._ahead.clear()
        self._current = memoryview(b"")
