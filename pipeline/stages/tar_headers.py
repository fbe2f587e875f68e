"""Headers of a tar: from bytes to values.

Only what a reader of contents needs is parsed: name, type, size and link target. The checksum must be right. What other
fields hold (mode, owner, times, device numbers) decides nothing, because writers leave text and garbage there.

Source: POSIX.1-2017, "pax - ustar Interchange Format"; the GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import re
import tarfile
from dataclasses import dataclass

from pipeline.stages.tar_member import BLOCK_BYTES

MAX_MEMBER_BYTES = 1 << 50  # a header with a larger size is damaged
_MAX_DIGITS = 20
_MAGIC = b"ustar"
_MAGIC_AT = 257
_USTAR = b"ustar\0"  # GNU's magic is another, and GNU keeps times where this format has the prefix of the name
_NO_TAIL = bytes(BLOCK_BYTES - _MAGIC_AT)
_ASCII = bytes(range(128))
_OCTAL = re.compile(rb"[ \0]*([0-7]*)(?:[ \0].*)?", re.DOTALL)
_DECIMAL = re.compile(rb"0*([0-9]{1,%d})" % _MAX_DIGITS)
_GNU_NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.GNUTYPE_SPARSE)
_WITHOUT_CONTENT = (
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
    b"V",  # a volume label
)
_OLD_TYPES = b"\x0001234567"
_OLD_NUMBERS = ((100, 108), (108, 116), (116, 124), (124, 136), (136, 148))  # mode, uid, gid, size, mtime
_PAX_KEYS = frozenset(
    b"path linkpath size GNU.sparse.name GNU.sparse.major GNU.sparse.minor GNU.sparse.map GNU.sparse.size "
    b"GNU.sparse.realsize GNU.sparse.numblocks".split()
)
_PAX_SEGMENTS = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")  # once for each segment


@dataclass(slots=True)
class Header:
    """One header block.

    Attributes:
        name: As the header has it, with its prefix.
        kind: The type flag.
        size: Of what follows, bytes; for kinds without content whatever the field says, 0 if that is no number.
        link: Target of a link.
        has_magic: Whether it says that it is a tar header, as all do but those of the oldest format.
        is_ustar: Whether it is of POSIX's formats.
    """

    name: bytes
    kind: bytes
    size: int
    link: bytes
    has_magic: bool
    is_ustar: bool


def parse_header(block: bytes) -> Header | None:
    """Parse a header block; None if its checksum is wrong or its size is no size."""
    stored = parse_number(block[148:156])
    unsigned = sum(block) - sum(block[148:156]) + 8 * 32
    if stored != unsigned and stored != unsigned - 256 * _count_high(block):
        return None
    kind = block[156:157]
    size = parse_number(block[124:136])
    if size is None or size > MAX_MEMBER_BYTES:
        if kind not in _WITHOUT_CONTENT:
            return None
        size = 0
    name = block[:100].split(b"\0", 1)[0]
    is_ustar = block[_MAGIC_AT:263] == _USTAR
    if is_ustar and block[345] and kind not in _GNU_NAMES:
        name = block[345:500].split(b"\0", 1)[0] + b"/" + name
    link = block[157:257].split(b"\0", 1)[0] if block[157] else b""
    return Header(name, kind, size, link, is_ustar or block[_MAGIC_AT:262] == _MAGIC, is_ustar)


def has_content(kind: bytes) -> bool:
    """Whether members of a kind have content: links, devices and directories have not, whatever their size says."""
    return kind not in _WITHOUT_CONTENT


def _count_high(block: bytes) -> int:
    """Count bytes of 128 and more outside of the checksum: some writers add them up as negative numbers."""
    return len(block[:148].translate(None, _ASCII)) + len(block[156:].translate(None, _ASCII))


def parse_number(field: bytes) -> int | None:
    """Parse octal digits, or GNU's base 256; None if it is neither."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = _OCTAL.fullmatch(field)
    return int(digits[1] or b"0", 8) if digits else None


def find_header(window: bytes, first_block: int, *, without_magic: bool) -> int:
    """Find where the first sound header starts; -1 if there is none.

    Headers with a magic are found at any byte, because bytes may be lost. Without one a header is told by its checksum
    alone. Of those only whole blocks are tried, and all that such a header leaves empty must be empty, so that the
    content of a member is not taken for one.

    Args:
        window: The bytes to search.
        first_block: Where in them the first block starts, counted on from the damaged header.
        without_magic: Whether headers of the oldest format are looked for as well.
    """
    found = _find_magic(window)
    if without_magic:
        stop = len(window) - BLOCK_BYTES + 1 if found < 0 else found
        for at in range(first_block, stop, BLOCK_BYTES):
            if _is_old_header(window[at : at + BLOCK_BYTES]):
                return at
    return found


def _find_magic(window: bytes) -> int:
    magic = window.find(_MAGIC, _MAGIC_AT)
    while magic >= 0:
        at = magic - _MAGIC_AT
        block = window[at : at + BLOCK_BYTES]
        if len(block) == BLOCK_BYTES and parse_header(block) is not None:
            return at
        magic = window.find(_MAGIC, magic + 1)
    return -1


def _is_old_header(block: bytes) -> bool:
    """Whether a block is a header of the oldest format, by everything that is known of one."""
    if block[_MAGIC_AT:] != _NO_TAIL or not block[0] or block[156] not in _OLD_TYPES:
        return False
    if block[157] and block[156:157] not in {tarfile.LNKTYPE, tarfile.SYMTYPE}:
        return False
    texts_end = all(not text.partition(b"\0")[2].strip(b"\0") for text in (block[:100], block[157:257]))
    numbers = (block[start:stop] for start, stop in _OLD_NUMBERS)
    return texts_end and all(map(_OCTAL.fullmatch, numbers)) and parse_header(block) is not None


def parse_pax(data: bytes) -> dict[bytes, bytes] | None:
    """Parse pax records, ``LENGTH KEY=VALUE NEWLINE``, and return those in use; None if one is malformed.

    The segments of a sparse file that come one by one are put together as ``GNU.sparse.map``.
    """
    records: dict[bytes, bytes] = {}
    segments: list[bytes] = []
    data = data.rstrip(b"\0")
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 100)
        length = parse_decimal(data[at:space]) if space > at else None
        if length is None or length < space - at + 4:
            return None
        stop = at + length
        key, separator, value = data[space + 1 : stop - 1].partition(b"=")
        if not separator or data[stop - 1 : stop] != b"\n":
            return None
        if key in _PAX_SEGMENTS:
            segments.append(value)
        elif key in _PAX_KEYS:
            records[key] = value
        at = stop
    return records | {b"GNU.sparse.map": b",".join(segments)} if segments else records


def parse_decimal(digits: bytes) -> int | None:
    """Parse a number of a pax header, zeros in front or not; None if it is none, or absurd."""
    found = _DECIMAL.fullmatch(digits)
    return int(found[1]) if found else None
