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


class OldSparseHeader:
    """The map of a sparse file in GNU's old way: in the header, and in blocks behind it.

    Attributes:
        more: Whether another block follows.
    """

    def __init__(self, block: bytes) -> None:
        self._numbers: list[int] = []
        self._size = parse_number(block[_SIZE_AT : _SIZE_AT + 12])
        self._sound = self._size is not None
        self._ended = False
        self._add(block[_SEGMENTS_AT:_MORE_AT])
        self.more = block[_MORE_AT] == 1

    def add_block(self, block: bytes) -> None:
        """Add the block that follows."""
        self._add(block[:_NEXT_MORE_AT])
        self.more = block[_NEXT_MORE_AT] == 1

    def _add(self, segments: bytes) -> None:
        for at in range(0, len(segments), _SEGMENT_BYTES):
            fields = segments[at : at + 12], segments[at + 12 : at + 24]
            self._ended = self._ended or not fields[1][0]
            if self._ended:
                return
            offset, length = map(parse_number, fields)
            if offset is None or length is None or len(self._numbers) > 2 * _MAX_SEGMENTS:
                self._sound, self._ended = False, True
                return
            self._numbers += (offset, length)

    def map(self, stored_bytes: int) -> SparseMap | None:
        """The map, once all blocks are added; None if it is damaged."""
        return SparseMap.checked(self._numbers, self._size, stored_bytes) if self._sound else None


def is_sparse(pax: dict[bytes, bytes]) -> bool:
    """Whether a pax header tells of a sparse file."""
    return any(key.startswith(b"GNU.sparse.") for key in pax)


def has_map_in_content(pax: dict[bytes, bytes]) -> bool:
    """Whether the map of a sparse file stands before its bytes, as since version 1.0."""
    return parse_decimal(pax.get(b"GNU.sparse.major", b"0")) == 1


def map_of_pax(pax: dict[bytes, bytes], stored_bytes: int) -> SparseMap | None:
    """The map that a pax header holds (versions 0.0 and 0.1); None if it is damaged."""
    if parse_decimal(pax.get(b"GNU.sparse.major", b"0")) != 0:
        return None
    numbers = [digits for digits in pax.get(b"GNU.sparse.map", b"").split(b",") if digits]
    return _checked(numbers, pax, stored_bytes)


class MapText:
    """The map that stands before the bytes of a sparse file: the number of segments, then each offset and length.

    Attributes:
        more: Whether another block of it follows.
    """

    def __init__(self) -> None:
        self._text = bytearray()
        self._num_lines = 0
        self._wanted: int | None = None
        self.more = True

    def add_block(self, block: bytes) -> None:
        """Add a block."""
        self._text += block
        self._num_lines += block.count(b"\n")
        if self._wanted is None and self._num_lines:
            count = parse_decimal(bytes(self._text[: self._text.index(b"\n")]))
            self._wanted = 1 + 2 * count if count is not None and count <= _MAX_SEGMENTS else 0
        complete = self._wanted is not None and self._num_lines >= self._wanted
        self.more = not complete and len(self._text) < _MAX_TEXT_BYTES

    def map(self, pax: dict[bytes, bytes], stored_bytes: int) -> SparseMap | None:
        """The map, once all blocks are added; None if it is damaged.

        Args:
            pax: The pax header, which holds the size of the file.
            stored_bytes: How many bytes are stored behind the map.
        """
        lines = bytes(self._text).split(b"\n")
        if not self._wanted or len(lines) <= self._wanted:
            return None
        return _checked(lines[1 : self._wanted], pax, stored_bytes)


def _checked(numbers: list[bytes], pax: dict[bytes, bytes], stored_bytes: int) -> SparseMap | None:
    parsed = [parse_decimal(digits) for digits in numbers]
    sound = [number for number in parsed if number is not None]
    size = pax.get(b"GNU.sparse.realsize", pax.get(b"GNU.sparse.size"))
    num_bytes = None if size is None else parse_decimal(size)
    if len(sound) < len(parsed) or (size is not None and num_bytes is None):
        return None
    return SparseMap.checked(sound, num_bytes, stored_bytes)
