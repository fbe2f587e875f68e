"""Sparse files in a tar: the map of where their stored bytes belong, in each of the ways that writers put it.

======  ===================  =================================================================================
format  written by           where the map is
======  ===================  =================================================================================
old     ``tar --sparse``     in the header, and in blocks behind it
0.0     older GNU tars       in the pax header, a record for each number
0.1     older GNU tars       in the pax header, one record
1.0     GNU tar, bsdtar      before the stored bytes, as text
======  ===================  =================================================================================

Source: the GNU tar manual, "Storing Sparse Files".
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.stages.tar_headers import MAX_MEMBER_BYTES, parse_decimal, parse_number
from pipeline.stages.tar_member import BLOCK_BYTES
from pipeline.storage import ByteStream

_MAX_SEGMENTS = 1 << 16
_MAX_TEXT_BYTES = 1 << 20
_SEGMENTS_AT, _MORE_AT, _SIZE_AT = 386, 482, 483
_SEGMENT_BYTES = 24
_NEXT_MORE_AT = 504


@dataclass(frozen=True, slots=True)
class SparseMap:
    """Where the stored bytes of a sparse file belong; all others are zero.

    Attributes:
        segments: Offset in the file and length, ascending.
        num_bytes: Size of the file.
    """

    segments: tuple[tuple[int, int], ...]
    num_bytes: int

    @classmethod
    def checked(cls, numbers: list[int], num_bytes: int | None, stored_bytes: int) -> SparseMap | None:
        """Make a map of offsets and lengths in turn; None if they do not fit together.

        Args:
            numbers: Offset, length, offset, length, and so on.
            num_bytes: Size of the file; None for where the last segment ends.
            stored_bytes: How many bytes are stored.
        """
        if len(numbers) % 2 or len(numbers) > 2 * _MAX_SEGMENTS:
            return None
        segments = tuple(zip(numbers[::2], numbers[1::2], strict=True))
        end = 0
        for offset, length in segments:
            if offset < end:
                return None
            end = offset + length
        size = end if num_bytes is None else num_bytes
        fits = end <= size <= MAX_MEMBER_BYTES and sum(numbers[1::2]) == stored_bytes
        return cls(segments, size) if fits else None

    def expand(self, stored: bytes) -> bytes:
        """The file of its stored bytes. It takes as much memory as the file is large."""
        whole = bytearray(self.num_bytes)
        done = 0
        for offset, length in self.segments:
            whole[offset : offset + length] = stored[done : done + length]
            done += length
        return bytes(whole)

    def head(self, stored: bytes, num_bytes: int) -> bytes:
        """The first bytes of the file, of the first stored ones."""
        head = bytearray(min(num_bytes, self.num_bytes))
        done = 0
        for offset, length in self.segments:
            if offset >= len(head):
                break
            end = min(offset + length, len(head))
            head[offset:end] = stored[done : done + end - offset]
            done += length
        return bytes(head)


def is_sparse(pax: dict[bytes, bytes]) -> bool:
    """Whether a pax header tells of a sparse file."""
    return any(key.startswith(b"GNU.sparse.") for key in pax)


def read_map(
    stream: ByteStream, block: bytes | None, pax: dict[bytes, bytes], size: int
) -> tuple[SparseMap | None, int]:
    """Read the map of a sparse file, wherever it is.

    Args:
        stream: The archive, behind the member's header.
        block: The header, if the map begins there (the old format).
        pax: The pax header.
        size: Of what is stored for the file, a map in it included.

    Returns:
        The map, or None if it is damaged; and how many bytes are stored behind it.

    Raises:
        EOFError: The archive ends inside the map.
    """
    if block is not None:
        return _read_old_map(stream, block, size), size
    major = parse_decimal(pax.get(b"GNU.sparse.major", b"0"))
    if major == 1:
        return _read_map_text(stream, pax, size)
    numbers = [digits for digits in pax.get(b"GNU.sparse.map", b"").split(b",") if digits]
    return (_parse_map(numbers, pax, size) if major == 0 else None), size


def _read_block(stream: ByteStream) -> bytes:
    block = stream.read(BLOCK_BYTES)
    if len(block) < BLOCK_BYTES:
        raise EOFError
    return block


def _read_old_map(stream: ByteStream, block: bytes, stored_bytes: int) -> SparseMap | None:
    """The map of a header and the blocks behind it, all of which are read even if the map is damaged."""
    numbers: list[int | None] = []
    more = block[_MORE_AT] == 1
    ended = _add_segments(block[_SEGMENTS_AT:_MORE_AT], numbers)
    while more:
        following = _read_block(stream)
        more = following[_NEXT_MORE_AT] == 1
        ended = ended or _add_segments(following[:_NEXT_MORE_AT], numbers)
    sound = [number for number in numbers if number is not None]
    size = parse_number(block[_SIZE_AT : _SIZE_AT + 12])
    return None if len(sound) < len(numbers) or size is None else SparseMap.checked(sound, size, stored_bytes)


def _add_segments(fields: bytes, numbers: list[int | None]) -> bool:
    """Add the segments of a block; whether the map ends with it."""
    for at in range(0, len(fields), _SEGMENT_BYTES):
        if not fields[at + 12] or len(numbers) > 2 * _MAX_SEGMENTS:
            return True
        numbers += (parse_number(fields[at : at + 12]), parse_number(fields[at + 12 : at + 24]))
    return False


def _read_map_text(stream: ByteStream, pax: dict[bytes, bytes], size: int) -> tuple[SparseMap | None, int]:
    """The map that stands before the bytes: the number of segments, then each offset and length, one a line."""
    text, num_lines, wanted, left = bytearray(), 0, -1, size
    while num_lines < 1 or num_lines < wanted:
        if left <= 0 or len(text) >= _MAX_TEXT_BYTES:
            return None, max(0, left)
        block = _read_block(stream)
        text += block
        left -= BLOCK_BYTES
        num_lines += block.count(b"\n")
        if wanted < 0 and num_lines:
            count = parse_decimal(bytes(text[: text.index(b"\n")]))
            if count is None or count > _MAX_SEGMENTS:
                return None, max(0, left)
            wanted = 1 + 2 * count
    numbers = bytes(text).split(b"\n")[1:wanted]
    return _parse_map(numbers, pax, max(0, left)), max(0, left)


def _parse_map(numbers: list[bytes], pax: dict[bytes, bytes], stored_bytes: int) -> SparseMap | None:
    parsed = [parse_decimal(digits) for digits in numbers]
    sound = [number for number in parsed if number is not None]
    size = pax.get(b"GNU.sparse.realsize", pax.get(b"GNU.sparse.size"))
    num_bytes = None if size is None else parse_decimal(size)
    if len(sound) < len(parsed) or (size is not None and num_bytes is None):
        return None
    return SparseMap.checked(sound, num_bytes, stored_bytes)
