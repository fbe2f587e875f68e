"""Streams under the tar reader: one inflates gzip, the other takes bytes back."""

from __future__ import annotations

import contextlib
import zlib

from pipeline.records import Reason, ShardEvent
from pipeline.storage import ByteStream

GZIP_MAGIC = b"\x1f\x8b"
_READ_BYTES = 1 << 20


class GzipStream:
    """The inflated bytes of a gzip object (one or several gzip members).

    Attributes:
        position: Offset of the next inflated byte.
        damage: What is wrong with the gzip stream, once its end is reached; None if it is sound.
    """

    def __init__(self, raw: ByteStream) -> None:
        self._raw = raw
        self._inflate = zlib.decompressobj(wbits=31)
        self._rest = b""
        self._plain = bytearray()
        self._ended = False
        self.position = 0
        self.damage: ShardEvent | None = None

    def _inflate_more(self) -> bool:
        """Inflate another block; False at the end."""
        if self._ended:
            return False
        data = self._rest or self._raw.read(_READ_BYTES)
        if self._inflate.eof and not (data := self._next_member(data)):
            return False
        before = self._inflate.copy()
        try:
            plain = self._inflate.decompress(data, _READ_BYTES)
        except zlib.error as error:
            self._plain += _inflated_before_error(before, data)
            self._end(f"the gzip stream is damaged: {error}", Reason.SHARD_CORRUPT)
            return False
        self._plain += plain
        self._rest = self._inflate.unconsumed_tail or self._inflate.unused_data
        if not data and not plain:
            self._end("the gzip stream is cut off", Reason.SHARD_TRUNCATED)
            return False
        return True

    def _next_member(self, data: bytes) -> bytes:
        """Skip zeros behind a gzip member, and start the next one; empty if there is none."""
        while not (data := data.lstrip(b"\0")):
            if not (data := self._raw.read(_READ_BYTES)):
                self._ended = True
                return b""
        if not data.startswith(GZIP_MAGIC[: len(data)]):
            self._end("what follows the gzip stream is no gzip", Reason.SHARD_CORRUPT)
            return b""
        self._inflate = zlib.decompressobj(wbits=31)
        return data

    def _end(self, message: str, reason: Reason) -> None:
        self._ended = True
        self.damage = ShardEvent(reason, message, self.position + len(self._plain), 0)

    def read(self, num_bytes: int) -> bytes:
        while len(self._plain) < num_bytes and self._inflate_more():
            pass
        taken = bytes(self._plain[:num_bytes])
        del self._plain[:num_bytes]
        self.position += len(taken)
        return taken

    def skip(self, num_bytes: int) -> int:
        left = num_bytes
        while left > 0 and (step := len(self.read(min(left, _READ_BYTES)))):
            left -= step
        return num_bytes - left

    def close(self) -> None:
        self._raw.close()


def _inflated_before_error(inflate: zlib._Decompress, data: bytes) -> bytes:
    """Inflate up to the damage, byte by byte, because zlib drops the output of a call that fails."""
    plain = bytearray()
    with contextlib.suppress(zlib.error):
        for at in range(len(data)):
            plain += inflate.decompress(data[at : at + 1])
    return bytes(plain)


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
