"""A strict tar reader: every member of an archive, and every kind of damage to it.

``tarfile`` stops silently at a damaged header, at zero blocks in the middle and between concatenated archives. This
reader checks the checksum of every header, looks for the end-of-archive marker, and after damage searches for the next
sound header. It reads the archive once, front to back, and holds one header at a time.

Header fields are parsed by the standard library's ``tarfile.TarInfo``. Formats: POSIX.1-1988 (ustar),
POSIX.1-2001 (pax) and GNU, plain or in gzip.
Source: POSIX.1-2017, "pax - ustar Interchange Format"; the GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import contextlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.records import Reason, ShardEvent
from pipeline.stages.byte_streams import GZIP_MAGIC, GzipStream, PushbackStream
from pipeline.storage import ByteStream

BLOCK_BYTES = 512
_ZERO_BLOCK = bytes(BLOCK_BYTES)
_MAX_EXTENSION_BYTES = 1 << 20  # a long name or a pax record; more is damage
_MAX_NAME_BYTES = 4096  # limit of a path on Linux; a part holds all its names in memory
_MAX_PAYLOAD_BYTES = 1 << 30
_MAX_MEMBER_BYTES = 1 << 50  # a header with a larger size is damaged
_MAX_PAX_SIZE_DIGITS = 20
_MAX_END_BLOCKS = 1 << 12  # the marker and the padding after it; 20 are usual, a preallocated file has many more
_SCAN_BYTES = 1 << 16
_AFTER_END = "what follows the end-of-archive marker is no tar"
_MAGIC = b"ustar"
_MAGIC_AT = 257

_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_SPECIAL_TYPES = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.DIRTYPE: "a directory",
    tarfile.FIFOTYPE: "a FIFO",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
    b"D": "a directory",  # of a GNU incremental backup
    b"V": "a volume label",
}
_SPECIAL_TYPES_WITH_CONTENT = (tarfile.GNUTYPE_SPARSE, b"D")
_EXTENSIONS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_PAX_KEYS = ("path", "size", "GNU.sparse.name", "GNU.sparse.major", "GNU.sparse.map", "GNU.sparse.size")


@dataclass(slots=True)
class Member:
    """One member of an archive.

    Attributes:
        name: Its path as stored. It is used as a name only, never as a path on disk.
        offset: Byte offset of its first header, extension headers included.
        num_bytes: Size of its content.
        special: Kind of a member that is no regular file ("a symbolic link", ...); empty for a regular file.
    """

    name: str
    offset: int
    num_bytes: int
    special: str = ""


class TarReader:
    """Reads one archive. Iterate; after each member, :meth:`payload` may be called once.

    >>> for item in TarReader(stream):                                   # doctest: +SKIP
    ...     item
    Member(name='a/0001.jpg', offset=0, num_bytes=88123, special='')
    ShardEvent(reason='shard_corrupt', message='damaged header', offset=89088, num_bytes=30208)
    Member(name='a/0002.jpg', offset=119296, num_bytes=30571, special='')
    """

    def __init__(self, stream: ByteStream, *, sniff: bool = True, resumed: bool = False) -> None:
        """Start at the stream's position.

        Args:
            stream: The object's bytes, at the first header to be read.
            sniff: Look for gzip's magic number at the start.
            resumed: Whether the stream starts at a header inside the archive.
        """
        self._stream = PushbackStream(stream)
        self._gzip: GzipStream | None = None
        if sniff:
            magic = self._stream.read(len(GZIP_MAGIC))
            self._stream.push_back(magic)
            if magic == GZIP_MAGIC:
                self._gzip = GzipStream(self._stream)
                self._stream = PushbackStream(self._gzip)
        self._size = 0  # of the current member's content
        self._content = 0  # of that, bytes still ahead
        self._unread = 0  # likewise, padding included
        self._resumed = resumed
        self.truncation: ShardEvent | None = None

    @property
    def position(self) -> int:
        """Offset in the (inflated) archive."""
        return self._stream.position

    @property
    def compressed(self) -> bool:
        """Whether the archive is compressed: its offsets are of inflated bytes, which a ranged read cannot reach."""
        return self._gzip is not None

    def skip_to(self, offset: int) -> None:
        """Skip the inflated archive up to an offset, to resume in a compressed one."""
        self._stream.skip(offset - self.position)
        self._resumed = True

    def peek(self, num_bytes: int) -> bytes:
        """The first bytes of the current member's content, which can be read afterwards as if they had not been."""
        data = self._stream.read(min(num_bytes, self._content))
        self._stream.push_back(data)
        return data

    def payload(self) -> bytes | None:
        """Read the current member's content; None if the archive ends inside it."""
        if self._content > _MAX_PAYLOAD_BYTES:
            return None
        wanted, self._content = self._content, 0
        data = self._stream.read(wanted)
        self._unread -= len(data)
        if len(data) < wanted:
            self._note_missing(self._unread)
            self._unread = 0
            return None
        return data

    def _note_truncation(self, message: str) -> None:
        damage = self._gzip.damage if self._gzip else None
        self.truncation = damage or ShardEvent(Reason.SHARD_TRUNCATED, message, self.position, 0)

    def _note_missing(self, num_bytes: int) -> None:
        """Note that the archive ends this many bytes before the end of a member's last block."""
        num_missing = num_bytes - -self._size % BLOCK_BYTES
        if num_missing > 0:
            self._note_truncation(f"the archive ends {num_missing} bytes before the end of a member")
        else:
            self._note_truncation("the archive ends in the padding after a member, without an end-of-archive marker")

    def _skip_to_next_header(self) -> bool:
        """Skip to the next header; False if the archive ends before it."""
        missing = self._unread - self._stream.skip(self._unread)
        self._unread = self._content = 0
        if missing:
            self._note_missing(missing)
        return not missing

    def __iter__(self) -> Iterator[Member | ShardEvent]:
        members_seen = self._resumed
        zeros = 0
        zeros_at = 0
        while self.truncation is None and self._skip_to_next_header():
            start = self.position
            block = self._stream.read(BLOCK_BYTES)
            if len(block) < BLOCK_BYTES:
                if event := self._check_end(block, start, zeros, members_seen):
                    yield event
                return
            if block == _ZERO_BLOCK:
                zeros_at = start if zeros == 0 else zeros_at
                zeros += 1
                continue
            if block[156:157] == tarfile.XGLTYPE and self._skip_global_header(block):
                continue
            item: Member | ShardEvent | None = self._parse_member(block, start)
            if isinstance(item, Member) and zeros:
                message = "an end-of-archive marker is followed by more members; reading on"
                yield ShardEvent(Reason.SHARD_CORRUPT, message, zeros_at, zeros * BLOCK_BYTES)
            if item is None:
                item = self._resync(zeros_at if zeros else start, after_end=zeros > 0)
                if item is None:
                    continue
            members_seen = members_seen or isinstance(item, Member)
            zeros = 0
            yield item
        if self.truncation is not None:
            yield self.truncation

    def _check_end(self, rest: bytes, start: int, zeros: int, members_seen: bool) -> ShardEvent | None:
        """Check the end of the archive, between members: the event to report, or None if it is sound."""
        if self._gzip and self._gzip.damage:
            return self._gzip.damage
        if zeros and not rest.strip(b"\0"):
            if zeros <= _MAX_END_BLOCKS:
                return None
            message = "the archive ends in too many zeros: it may never have been written to its end"
            return ShardEvent(Reason.SHARD_TRUNCATED, message, start - zeros * BLOCK_BYTES, zeros * BLOCK_BYTES)
        if zeros:
            return ShardEvent(Reason.SHARD_CORRUPT, _AFTER_END, start, len(rest))
        if start == 0 and not members_seen and not rest:
            return ShardEvent(Reason.SHARD_TRUNCATED, "the archive is empty: 0 bytes", 0, 0)
        if rest:
            return ShardEvent(Reason.SHARD_TRUNCATED, "the archive ends inside a header", start, len(rest))
        message = "the archive has no end-of-archive marker: it may have been cut off between two members"
        return ShardEvent(Reason.SHARD_TRUNCATED, message, start, 0)

    def _skip_global_header(self, block: bytes) -> bool:
        """Skip a global pax header, of which nothing is used; False if it is damaged."""
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            return False
        return info.size >= 0 and self._read_extension(info.size) is not None

    def _parse_member(self, block: bytes, start: int) -> Member | None:
        """Parse a header and the extension headers before it; None if one is damaged."""
        long_name: bytes | None = None
        pax: dict[str, str] = {}
        while True:
            try:
                info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError:
                return None
            if not 0 <= info.size <= _MAX_MEMBER_BYTES:
                return None
            if info.type not in _EXTENSIONS:
                break
            data = self._read_extension(info.size)
            if data is None:
                return None
            if info.type == tarfile.GNUTYPE_LONGNAME:
                long_name = data.split(b"\0", 1)[0]
            elif info.type in {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE}:
                records = _pax_records(data)
                if records is None:
                    return None
                pax |= records
            block = self._stream.read(BLOCK_BYTES)
            if len(block) < BLOCK_BYTES:
                self._note_truncation("the archive ends after an extension header")
                return None
        name = pax.get("GNU.sparse.name") or pax.get("path")
        if name is None and long_name:
            name = long_name.decode("utf-8", "surrogateescape")
        if name and len(name.encode("utf-8", "surrogateescape")) > _MAX_NAME_BYTES:
            return None
        # frombuf() takes an old-style regular file for a directory if its name, cut to 100 bytes, ends in a slash.
        kind = tarfile.AREGTYPE if name and block[156:157] == tarfile.AREGTYPE else info.type
        return self._start_member(info, kind, start, name or info.name, pax)

    def _read_extension(self, num_bytes: int) -> bytes | None:
        if num_bytes > _MAX_EXTENSION_BYTES:
            return None
        padded = -(-num_bytes // BLOCK_BYTES) * BLOCK_BYTES
        data = self._stream.read(padded)
        if len(data) < padded:
            self._note_truncation("the archive ends inside an extension header")
            return None
        return data[:num_bytes]

    def _start_member(
        self, info: tarfile.TarInfo, kind: bytes, start: int, name: str, pax: dict[str, str]
    ) -> Member | None:
        size = info.size
        if "size" in pax:
            digits = pax["size"]
            if not (digits.isascii() and digits.isdigit() and len(digits) <= _MAX_PAX_SIZE_DIGITS):
                return None
            size = int(digits)
            if size > _MAX_MEMBER_BYTES:
                return None
        special = "" if kind in _REGULAR else _SPECIAL_TYPES.get(kind, f"a member of type {kind!r}")
        if not special and name.endswith("/"):
            special = "a directory"
        elif not special and any(key.startswith("GNU.sparse") for key in pax):
            special = "a sparse file"
        if info.linkname and kind in {tarfile.LNKTYPE, tarfile.SYMTYPE}:
            special += f" to {_to_utf8(info.linkname)}"
        # Links, devices and directories have no content, whatever their size field says.
        self._size = self._content = 0 if kind in _SPECIAL_TYPES and kind not in _SPECIAL_TYPES_WITH_CONTENT else size
        self._unread = -(-self._content // BLOCK_BYTES) * BLOCK_BYTES
        if kind == tarfile.GNUTYPE_SPARSE:
            self._skip_sparse_headers(info)
        return Member(_to_utf8(name), start, self._content, special)

    def _skip_sparse_headers(self, info: tarfile.TarInfo) -> None:
        more = bool(getattr(info, "_sparse_structs", ((), False, 0))[1])
        while more:
            block = self._stream.read(BLOCK_BYTES)
            more = len(block) == BLOCK_BYTES and block[504] == 1

    def _resync(self, start: int, *, after_end: bool) -> ShardEvent | None:
        """Search for the next sound header; None if there is none."""
        if self.truncation is not None:
            return None
        window = b""
        while more := self._stream.read(_SCAN_BYTES):
            window += more
            at = _find_header(window)
            if at >= 0:
                found = self.position - len(window) + at
                self._stream.push_back(window[at:])
                message = "damaged header; reading on at the next sound one"
                return ShardEvent(Reason.SHARD_CORRUPT, message, start, found - start)
            window = window[1 - BLOCK_BYTES :]
        message = _AFTER_END if after_end else "damaged header; no sound one after it"
        self.truncation = ShardEvent(Reason.SHARD_CORRUPT, message, start, self.position - start)
        return None

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()


def _find_header(window: bytes) -> int:
    """Find where the first sound header starts, at any byte, because bytes may be lost; -1 if there is none."""
    magic = window.find(_MAGIC, _MAGIC_AT)
    while magic >= 0:
        at = magic - _MAGIC_AT
        block = window[at : at + BLOCK_BYTES]
        if len(block) == BLOCK_BYTES:
            with contextlib.suppress(tarfile.HeaderError):
                tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
                return at
        magic = window.find(_MAGIC, magic + 1)
    return -1


def _pax_records(data: bytes) -> dict[str, str] | None:
    """Parse pax records, ``LENGTH KEY=VALUE NEWLINE``, and return those in use; None if one is malformed."""
    records: dict[str, str] = {}
    data = data.rstrip(b"\0")
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        digits = data[at:space]
        if space < 0 or not digits.isdigit() or int(digits) < space - at + 4:
            return None
        stop = at + int(digits)
        key, separator, value = data[space + 1 : stop - 1].partition(b"=")
        if not separator or data[stop - 1 : stop] != b"\n":
            return None
        if (name := key.decode("utf-8", "replace")) in _PAX_KEYS:
            records[name] = value.decode("utf-8", "surrogateescape")
        at = stop
    return records


def _to_utf8(name: str) -> str:
    """Make a name valid UTF-8: undecodable bytes become hexadecimal escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
