"""Streams of bytes that need no store."""

from __future__ import annotations

import io


class Stream(io.BytesIO):
    """An object in memory, as the stores hand them out."""

    @property
    def position(self) -> int:
        return self.tell()

    def skip(self, num_bytes: int) -> int:
        skipped = max(0, min(num_bytes, len(self.getbuffer()) - self.tell()))
        self.seek(skipped, io.SEEK_CUR)
        return skipped


def reopener(data: bytes):
    """Opens the object again, as the tar reader wants it."""

    def reopen(start: int, stop: int | None) -> Stream:
        stream = Stream(data if stop is None else data[:stop])
        stream.seek(start)
        return stream

    return reopen
