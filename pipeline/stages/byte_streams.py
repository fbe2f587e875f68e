"""A stream under the tar reader that takes bytes back."""

from __future__ import annotations

from pipeline.storage import ByteStream


class PushbackStream:
    """A stream that takes bytes back."""

    def __init__(self, raw: ByteStream) -> None:
        self._raw = raw
        self._front = b""

    @property
    def position(self) -> int:
        return self._raw.position - len(self._front)

    def push_back(self, data: bytes) -> None:
        self._front = data + self._front

    def read(self, num_bytes: int) -> bytes:
        if not self._front:
            return self._raw.read(num_bytes)
        taken, self._front = self._front[:num_bytes], self._front[num_bytes:]
        return taken + self._raw.read(num_bytes - len(taken)) if len(taken) < num_bytes else taken

    def skip(self, num_bytes: int) -> int:
        taken = min(num_bytes, len(self._front))
        self._front = self._front[taken:]
        return taken + (self._raw.skip(num_bytes - taken) if taken < num_bytes else 0)

    def close(self) -> None:
        self._raw.close()
