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
