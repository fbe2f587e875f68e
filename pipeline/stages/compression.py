"""Compressed shards: gzip, bzip2, xz and zstd, told by their first bytes, inflated from front to back.

One stream may follow another, as parallel compressors write them, with zeros between. Damage keeps what came before it.
What would take more memory than a limit, or needs what a shard does not hold (a dictionary), is damage that says so.
"""

from __future__ import annotations

import bz2
import contextlib
import lzma
import re
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pipeline.records import Reason, ShardEvent
from pipeline.storage import ByteStream

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FIRST_BYTES = 16  # enough to tell them
_READ_BYTES = 1 << 20
_FIRST_FEED_BYTES = 1 << 10
_STEP_BYTES = 1 << 16  # of output: so much is lost of what stands before damage
_GZIP_STEP_BYTES = 1 << 20
_MAX_WINDOW_LOG = 28
_MAX_MEMORY_BYTES = 1 << _MAX_WINDOW_LOG
# No more than gzip can: other formats store a petabyte of zeros in a few megabytes.
_MAX_RATIO = 1_100
_MIN_BYTES_JUDGED = 1 << 30
_NOT_ZERO = re.compile(rb"[^\0]")


class _Inflater(Protocol):
    """Inflates one stream, as :class:`bz2.BZ2Decompressor` does."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _DamagedGzipError(Exception):
    """A gzip stream is damaged.

    Attributes:
        plain: What was inflated before the damage.
    """

    def __init__(self, message: str, plain: bytes) -> None:
        super().__init__(message)
        self.plain = plain


class _GzipInflater:
    """Inflates one gzip member."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        data = self._inflate.unconsumed_tail + data
        before = self._inflate.copy()
        try:
            plain = self._inflate.decompress(data, max_length)
        except zlib.error as error:
            raise _DamagedGzipError(str(error), _inflated_before_error(before, data)) from error
        self.needs_input = not self._inflate.unconsumed_tail and len(plain) < max_length
        return plain


def _inflated_before_error(inflate: zlib._Decompress, data: bytes) -> bytes:
    """Inflate up to the damage, byte by byte, because zlib drops the output of a call that fails."""
    plain = bytearray()
    with contextlib.suppress(zlib.error):
        for at in range(len(data)):
            plain += inflate.decompress(data[at : at + 1])
    return bytes(plain)


@dataclass(frozen=True, slots=True)
class Compression:
    """A way of compression.

    Attributes:
        name: As people call it.
        magics: What a stream begins with, one of them.
        inflater: Makes what inflates one stream.
        step_bytes: How much to inflate at a time.
    """

    name: str
    magics: tuple[bytes, ...]
    inflater: Callable[[], _Inflater]
    step_bytes: int = _STEP_BYTES

    def begins(self, data: bytes) -> bool:
        """Whether a stream may begin with these bytes, which may be the first few only."""
        return any(data.startswith(magic[: len(data)]) for magic in self.magics)


_SKIPPABLE = tuple(bytes([number]) + b"\x2a\x4d\x18" for number in range(0x50, 0x60))
_ALL = (
    Compression("gzip", (b"\x1f\x8b",), _GzipInflater, _GZIP_STEP_BYTES),
    Compression("bzip2", tuple(b"BZh%d" % level for level in range(1, 10)), bz2.BZ2Decompressor),
    Compression("xz", (b"\xfd7zXZ\0",), lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_MEMORY_BYTES)),
    Compression(
        "zstd",
        (b"\x28\xb5\x2f\xfd", *_SKIPPABLE),
        lambda: zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG}),
    ),
)
_OTHERS = {
    b"\x04\x22\x4d\x18": "lz4",
    b"LZIP": "lzip",
    b"\x89LZO": "lzop",
    b"\x1f\x9d": "compress (.Z)",
    b"\x5d\x00\x00": "lzma, which is older than xz",
    b"PK\x03\x04": "a zip file",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip file",
    b"Rar!\x1a\x07": "a RAR file",
    b"PAR1": "a Parquet file",
    b"<": "HTML or XML",
}
_ERRORS = (_DamagedGzipError, lzma.LZMAError, zstd.ZstdError, OSError, ValueError, EOFError)
_TOO_MUCH_MEMORY = f"needs more than {_MAX_MEMORY_BYTES >> 20} MiB of memory to be inflated, which is the limit"
_MEANINGS = {  # of what libraries say
    "Dictionary mismatch": "needs a dictionary, and dictionaries are not supported",
    "too much memory": _TOO_MUCH_MEMORY,
    "Memory usage limit": _TOO_MUCH_MEMORY,
}


def find_compression(first: bytes) -> Compression | None:
    """The way in which a shard that begins with these bytes is compressed; None if it is not."""
    return next((one for one in _ALL if any(first.startswith(magic) for magic in one.magics)), None)


def name_foreign(first: bytes) -> str:
    """What a shard that is no tar seems to be, by its first bytes; empty if they are not known."""
    return next((name for magic, name in _OTHERS.items() if first.startswith(magic)), "")


class InflatedStream:
    """The inflated bytes of a compressed object.

    Attributes:
        position: Offset of the next inflated byte.
        damage: What is wrong with the compressed stream, once its end is reached; None if it is sound.
    """

    def __init__(self, raw: ByteStream, compression: Compression) -> None:
        self._raw = raw
        self._compression = compression
        self._inflater = compression.inflater()
        self._input = b""  # what was read of the object
        self._at = 0  # of that, bytes that the inflater has
        self._feed_bytes = _FIRST_FEED_BYTES
        self._raw_bytes = self._plain_bytes = 0
        self._plain = bytearray()
        self._ended = False
        self.position = 0
        self.damage: ShardEvent | None = None

    def _read_raw(self) -> bool:
        """Read more of the object behind what is left of it; False at its end."""
        data = self._raw.read(_READ_BYTES)
        self._raw_bytes += len(data)
        self._input, self._at = self._input[self._at :] + data, 0
        return bool(data)

    def _feed(self) -> bytes:
        """The next bytes for the inflater: few for a new stream, because it hands back what is not its own."""
        if self._at == len(self._input):
            self._read_raw()
        taken = self._input[self._at : self._at + self._feed_bytes]
        self._at += len(taken)
        self._feed_bytes = min(2 * self._feed_bytes, _READ_BYTES)
        return taken

    def _inflate_more(self) -> bool:
        """Inflate another piece; False at the end."""
        if self._ended or (self._inflater.eof and not self._begin_next_stream()):
            return False
        data = b""
        if self._inflater.needs_input and not (data := self._feed()):
            self._end("is cut off", Reason.SHARD_TRUNCATED)
            return False
        try:
            plain = self._inflater.decompress(data, self._compression.step_bytes)
        except _ERRORS as error:
            self._plain += error.plain if isinstance(error, _DamagedGzipError) else b""
            meaning = next((text for words, text in _MEANINGS.items() if words in str(error)), f"is damaged: {error}")
            self._end(meaning, Reason.SHARD_CORRUPT)
            return False
        self._plain += plain
        self._plain_bytes += len(plain)
        if self._plain_bytes > _MIN_BYTES_JUDGED and self._plain_bytes > _MAX_RATIO * self._raw_bytes:
            self._end(f"inflates more than {_MAX_RATIO:,} times, which is the limit", Reason.SHARD_CORRUPT)
            return False
        return True

    def _begin_next_stream(self) -> bool:
        """Skip zeros behind a stream, and begin with the next one; False if there is none."""
        self._at -= len(self._inflater.unused_data)
        while (found := _NOT_ZERO.search(self._input, self._at)) is None:
            self._at = len(self._input)
            if not self._read_raw():
                self._ended = True
                return False
        self._at = found.start()
        if len(self._input) - self._at < FIRST_BYTES:
            self._read_raw()
        if not self._compression.begins(self._input[self._at : self._at + FIRST_BYTES]):
            self._end(f"is followed by something that is no {self._compression.name}", Reason.SHARD_CORRUPT)
            return False
        self._inflater = self._compression.inflater()
        self._feed_bytes = _FIRST_FEED_BYTES
        return True

    def _end(self, what: str, reason: Reason) -> None:
        self._ended = True
        message = f"the {self._compression.name} stream {what}"
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
