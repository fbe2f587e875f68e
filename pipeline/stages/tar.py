"""A strict tar reader: every member of an archive, and every kind of damage to it.

``tarfile`` stops silently at a damaged header, at zero blocks in the middle and between concatenated archives. This
reader checks the checksum of every header, looks for the end-of-archive marker, and after damage searches for the next
sound header. It reads the archive once, front to back, and holds one header at a time.

Formats: v7, POSIX.1-1988 (ustar), POSIX.1-2001 (pax) and GNU, plain or compressed. Sparse files are read as the files
that they stand for, and hard links as the earlier member that they name, if the archive can be opened again.

``tar_headers`` parses headers, ``tar_sparse`` maps of sparse files, ``tar_links`` finds what hard links name, and
``compression`` inflates.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator

from pipeline.records import Reason, ShardEvent
from pipeline.stages.byte_streams import PushbackStream
from pipeline.stages.compression import FIRST_BYTES, InflatedStream, find_compression, name_foreign
from pipeline.stages.member_names import shorten
from pipeline.stages.tar_headers import (
    MAX_MEMBER_BYTES,
    Header,
    find_header,
    has_content,
    parse_decimal,
    parse_header,
    parse_pax,
)
from pipeline.stages.tar_links import HeldLinks, Links, SeekableLinks, Target
from pipeline.stages.tar_member import BLOCK_BYTES, NOT_FOLLOWED, Member
from pipeline.stages.tar_sparse import SparseMap, is_sparse, read_map
from pipeline.storage import ByteStream
from pipeline.text.safe import name_text

__all__ = ["BLOCK_BYTES", "Member", "TarReader"]

_ZERO_BLOCK = bytes(BLOCK_BYTES)
_MAX_EXTENSION_BYTES = 1 << 20  # a long name or a pax record; more is damage
_MAX_NAME_BYTES = 4096  # limit of a path on Linux; a part holds all its names in memory
_MAX_PAYLOAD_BYTES = 1 << 30
_MAX_END_BLOCKS = 1 << 12  # the marker and the padding after it; 20 are usual, a preallocated file has many more
_SCAN_BYTES = 1 << 16
_AFTER_END = "what follows the end-of-archive marker is no tar"
_LONG_NAME = f"a member whose name or link has more than {_MAX_NAME_BYTES:,} bytes is passed over"
_DAMAGED_MAP = "whose map is damaged"

_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE)
_SPECIAL_TYPES = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.DIRTYPE: "a directory",
    tarfile.FIFOTYPE: "a FIFO",
    b"D": "a directory",  # of a GNU incremental backup
    b"V": "a volume label",
}
_EXTENSIONS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)

Reopen = Callable[[int, int | None], ByteStream]
"""Opens an object again from one offset on; what is needed of it ends at the other, None for its end."""


class TarReader:
    """Reads one archive. Iterate; after each member, :meth:`payload` may be called once.

    >>> for item in TarReader(stream):                                   # doctest: +SKIP
    ...     item
    Member(name='a/0001.jpg', offset=0, num_bytes=88123, special='', data_offset=512, stored_bytes=88123, ...)
    ShardEvent(reason='shard_corrupt', message='damaged header; reading on ...', offset=89088, num_bytes=30208)
    Member(name='a/0002.jpg', offset=119296, num_bytes=30571, special='', data_offset=119808, ...)
    """

    def __init__(
        self, stream: ByteStream, *, sniff: bool = True, resumed: bool = False, reopen: Reopen | None = None
    ) -> None:
        """Start at the stream's position.

        Args:
            stream: The object's bytes, at the first header to be read.
            sniff: Look for compression at the start.
            resumed: Whether the stream starts at a header inside the archive.
            reopen: Opens the object again, for the content of hard links; without it these are members without content.
        """
        self._stream = PushbackStream(stream)
        self._inflated: InflatedStream | None = None
        self._first = b""
        if sniff:
            first = self._stream.read(BLOCK_BYTES)
            self._stream.push_back(first)
            self._first = first[:FIRST_BYTES]
            compression = find_compression(first)
            # a name may begin with a magic number by chance
            if compression and (len(first) < BLOCK_BYTES or parse_header(first) is None):
                self._inflated = InflatedStream(self._stream, compression)
                self._stream = PushbackStream(self._inflated)
        self._size = 0  # of what is stored for the current member
        self._content = 0  # of that, bytes still ahead
        self._unread = 0  # likewise, padding included
        self._sparse: SparseMap | None = None
        self._target: Target | None = None
        self._last_magic: bool | None = None  # whether the last sound header had one
        self._resumed = resumed
        self._reopen = reopen
        self._links: Links | None = None
        if reopen is not None:
            self._links = HeldLinks(self._open_walk) if self.compressed else SeekableLinks(self._open_walk)
        self.truncation: ShardEvent | None = None

    @property
    def position(self) -> int:
        """Offset in the (inflated) archive."""
        return self._stream.position

    @property
    def compressed(self) -> bool:
        """Whether the archive is compressed: its offsets are of inflated bytes, which a ranged read cannot reach."""
        return self._inflated is not None

    def skip_to(self, offset: int) -> None:
        """Skip the inflated archive up to an offset, to resume in a compressed one."""
        self._stream.skip(offset - self.position)
        self._resumed = True

    def peek(self, num_bytes: int) -> bytes:
        """The first bytes of the current member's content, which can be read afterwards as if they had not been."""
        if self._target is not None:
            assert self._links is not None
            return (self._links.read(self._target) or b"")[:num_bytes]
        data = self._stream.read(min(num_bytes, self._content))
        self._stream.push_back(data)
        return self._sparse.head(data, num_bytes) if self._sparse else data

    def payload(self) -> bytes | None:
        """Read the current member's content; None if the archive ends inside it, or it has more than 1 GiB."""
        if self._target is not None:
            assert self._links is not None
            return self._links.read(self._target) if self._target.num_bytes <= _MAX_PAYLOAD_BYTES else None
        expanded = self._sparse.num_bytes if self._sparse else 0
        if max(self._content, expanded) > _MAX_PAYLOAD_BYTES:
            return None
        wanted, self._content = self._content, 0
        data = self._stream.read(wanted)
        self._unread -= len(data)
        if len(data) < wanted:
            self._note_missing(self._unread)
            self._unread = 0
            return None
        return self._sparse.expand(data) if self._sparse else data

    def _open_walk(self, start: int, stop: int | None) -> TarReader:
        assert self._reopen is not None
        inside = start > 0 and not self.compressed
        return TarReader(self._reopen(start, stop), sniff=not inside, resumed=inside)

    def _note_truncation(self, message: str) -> None:
        damage = self._inflated.damage if self._inflated else None
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
        zeros_at = zeros_end = 0
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
                zeros_end = self.position  # global headers may lie between them
                continue
            if block[156:157] == tarfile.XGLTYPE and self._skip_global_header(block):
                continue
            item = self._parse_member(block, start)
            if item is not None and zeros:
                message = "an end-of-archive marker is followed by more members; reading on"
                yield ShardEvent(Reason.SHARD_CORRUPT, message, zeros_at, zeros_end - zeros_at)
            if item is None:
                item = self._resync(zeros_at if zeros else start, after_end=zeros > 0, members_seen=members_seen)
                if item is None:
                    continue
            members_seen = members_seen or isinstance(item, Member)
            zeros = 0
            yield item
        if self.truncation is not None:
            yield self.truncation

    def _check_end(self, rest: bytes, start: int, zeros: int, members_seen: bool) -> ShardEvent | None:
        """Check the end of the archive, between members: the event to report, or None if it is sound."""
        if self._inflated and self._inflated.damage:
            return self._inflated.damage
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
        header = parse_header(block)
        return header is not None and self._read_extension(header.size) is not None

    def _parse_member(self, block: bytes, start: int) -> Member | ShardEvent | None:
        """Parse a header and the extension headers before it; None if one is damaged."""
        long_name = long_link = b""
        pax: dict[bytes, bytes] = {}
        while True:
            header = parse_header(block)
            if header is None:
                return None
            if header.kind not in _EXTENSIONS:
                break
            data = self._read_extension(header.size)
            if data is None:
                return None
            if header.kind == tarfile.GNUTYPE_LONGNAME:
                long_name = data.split(b"\0", 1)[0]
            elif header.kind == tarfile.GNUTYPE_LONGLINK:
                long_link = data.split(b"\0", 1)[0]
            elif header.kind in {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE}:
                records = parse_pax(data)
                if records is None:
                    return None
                pax |= records
            block = self._stream.read(BLOCK_BYTES)
            if len(block) < BLOCK_BYTES:
                self._note_truncation("the archive ends after an extension header")
                return None
        header.name = pax.get(b"GNU.sparse.name") or pax.get(b"path") or long_name or header.name
        header.link = pax.get(b"linkpath") or long_link or header.link
        if pax.get(b"size"):
            size = parse_decimal(pax[b"size"])
            if size is None or size > MAX_MEMBER_BYTES:
                return None
            header.size = size
        self._last_magic = header.has_magic
        return self._start_member(header, block, start, pax)

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
        self, header: Header, block: bytes, start: int, pax: dict[bytes, bytes]
    ) -> Member | ShardEvent | None:
        self._sparse = self._target = None
        name = name_text(header.name)
        filled = has_content(header.kind) or self._link_has_content(header)
        self._expect(header.size if filled else 0)
        if max(len(header.name), len(header.link)) > _MAX_NAME_BYTES:
            self._skip_to_next_header()
            return ShardEvent(Reason.SHARD_CORRUPT, _LONG_NAME, start, self.position - start)
        is_file = header.kind in _FILES or (header.kind == tarfile.LNKTYPE and filled)
        member: Member | None
        if is_file and name.endswith("/"):
            member = Member(name, start, self._size, "a directory")
        elif is_file and (header.kind == tarfile.GNUTYPE_SPARSE or is_sparse(pax)):
            member = self._start_sparse(name, start, block if header.kind == tarfile.GNUTYPE_SPARSE else None, pax)
        elif is_file:
            member = Member(name, start, self._size)
        else:
            member = self._start_special(header, name, start)
        if member is not None:
            member.data_offset, member.stored_bytes = self.position, self._size
            if self._links is not None:
                self._links.note(member)
        return member

    def _start_special(self, header: Header, name: str, start: int) -> Member:
        """A link, of which the target is looked for if it is a hard one, or a device or directory."""
        special = _SPECIAL_TYPES.get(header.kind, f"a member of type {header.kind!r}")
        link = name_text(header.link) if header.kind in {tarfile.LNKTYPE, tarfile.SYMTYPE} else ""
        member = Member(name, start, self._size, f"{special} to {shorten(link)}" if link else special)
        if header.kind == tarfile.LNKTYPE and link:
            member.link = link
            found = self._links.find(member) if self._links is not None else NOT_FOLLOWED
            if isinstance(found, Target):
                self._target = found
                member.num_bytes, member.special = found.num_bytes, ""
            else:
                member.refusal = found
        return member

    def _expect(self, num_bytes: int) -> None:
        """Expect that so many bytes are stored from here on."""
        self._size = self._content = num_bytes
        self._unread = -(-num_bytes // BLOCK_BYTES) * BLOCK_BYTES

    def _link_has_content(self, header: Header) -> bool:
        """Whether a hard link repeats the content, as POSIX allows since 2001; other writers only repeat the size."""
        if header.kind != tarfile.LNKTYPE or not header.is_ustar or not header.size:
            return False
        block = self._stream.read(BLOCK_BYTES)
        self._stream.push_back(block)
        return len(block) == BLOCK_BYTES and block != _ZERO_BLOCK and parse_header(block) is None

    def _start_sparse(self, name: str, start: int, block: bytes | None, pax: dict[bytes, bytes]) -> Member | None:
        """Read the map of a sparse file; None if the archive ends inside it."""
        try:
            self._sparse, left = read_map(self._stream, block, pax, self._size)
        except EOFError:
            self._note_truncation("the archive ends inside the map of a sparse file")
            return None
        self._expect(left)
        if self._sparse is None:
            return Member(name, start, left, "a sparse file", refusal=_DAMAGED_MAP)
        return Member(name, start, self._sparse.num_bytes)

    def _resync(self, start: int, *, after_end: bool, members_seen: bool) -> ShardEvent | None:
        """Search for the next sound header; None if there is none."""
        if self.truncation is not None:
            return None
        window = b""
        while more := self._stream.read(_SCAN_BYTES):
            window += more
            first_block = (start - self.position + len(window)) % BLOCK_BYTES
            at = find_header(window, first_block, without_magic=not self._last_magic)
            if at >= 0:
                found = self.position - len(window) + at
                self._stream.push_back(window[at:])
                message = "damaged header; reading on at the next sound one"
                return ShardEvent(Reason.SHARD_CORRUPT, message, start, found - start)
            window = window[1 - BLOCK_BYTES :]
        message = _AFTER_END if after_end else "damaged header; no sound one after it"
        if not members_seen:
            foreign = "" if self.compressed else name_foreign(self._first)
            message = f"this is no tar, but {foreign}" if foreign else "this is no tar: it holds no sound header"
        if self._inflated and self._inflated.damage:
            message += f"; {self._inflated.damage.message}"
        self.truncation = ShardEvent(Reason.SHARD_CORRUPT, message, start, self.position - start)
        return None

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()
