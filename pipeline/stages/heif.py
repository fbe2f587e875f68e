"""HEIF: find the primary picture of a file, and leave only that one for the decoder.

TorchCodec decodes all pictures that stand for themselves, in the order of their numbers, which need not begin with the
primary one, and refuses a file whose pictures differ in size. So the others are marked as hidden in a copy of the file:
one bit each, nothing moves. What the primary picture is made of (tiles, alpha) stays.

Source: ISO/IEC 14496-12 (boxes), 23008-12 (items and their properties).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.errors import ImageError
from pipeline.records import Reason

_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_HIDDEN = 1
_METADATA = {b"Exif", b"mime", b"uri "}
_ALPHA_URNS = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0", b"urn:mpeg:hevc:2015:auxid:1\0")


def is_heif(data: bytes) -> bool:
    """Whether an image is HEIF (HEIC included), by its brands."""
    return data[4:8] == b"ftyp" and not brands(data) & _AVIF_BRANDS and bool(brands(data) & _HEIF_BRANDS)


def is_avif(data: bytes) -> bool:
    """Whether an image is AVIF, by its brands."""
    return data[4:8] == b"ftyp" and bool(brands(data) & _AVIF_BRANDS)


def brands(data: bytes) -> set[bytes]:
    """Brands in the first box of an ISO base media file."""
    return {data[at : at + 4] for at in range(8, 64, 4)}


@dataclass(frozen=True, slots=True)
class HeifPicture:
    """The primary picture of a file.

    Attributes:
        data: The file, all other pictures hidden.
        width: As stored, pixels.
        height: As stored, pixels.
        largest: Width and height of the largest picture that decoding it may need, pixels.
        has_alpha: Whether it has an alpha picture.
        premultiplied: Whether its colours are multiplied with alpha already.
    """

    data: bytes
    width: int
    height: int
    largest: tuple[int, int]
    has_alpha: bool
    premultiplied: bool


@dataclass(slots=True)
class _Items:
    """What the ``meta`` box says of the items of a file."""

    primary: int | None = None
    kinds: dict[int, bytes] = field(default_factory=dict)
    flags_at: dict[int, int] = field(default_factory=dict)
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)
    of_item: dict[int, list[int]] = field(default_factory=dict)
    references: list[tuple[bytes, int, list[int]]] = field(default_factory=list)

    def sizes(self, item: int) -> list[tuple[int, int]]:
        """Extents of an item, pixels."""
        return [struct.unpack_from(">II", body, 4) for kind, body in self._of(item) if kind == b"ispe"]

    def is_alpha(self, item: int) -> bool:
        """Whether an item is alpha of another."""
        return any(kind == b"auxC" and body[4:].startswith(_ALPHA_URNS) for kind, body in self._of(item))

    def _of(self, item: int) -> list[tuple[bytes, bytes]]:
        numbers = self.of_item.get(item, [])
        return [self.properties[number - 1] for number in numbers if 0 < number <= len(self.properties)]


def read_primary(data: bytes) -> HeifPicture:
    """Find the primary picture of a HEIF file.

    Raises:
        ImageError: The file has none, or is cut before its description ends.
    """
    meta = next((box for box in _boxes(data, 0, len(data)) if box[0] == b"meta"), None)
    if meta is None:
        raise _without_meta(data)
    items = _Items()
    try:
        for kind, begin, end in _boxes(data, meta[1] + 4, meta[2]):
            _read(items, data, kind, begin, end)
        sizes = [] if items.primary is None else items.sizes(items.primary)
        all_sizes = [size for item in items.kinds for size in items.sizes(item)]
    except (struct.error, IndexError) as error:
        raise ImageError(Reason.TRUNCATED_IMAGE, "HEIF, cut within its description") from error
    if items.primary is None or items.primary not in items.kinds:
        raise ImageError(Reason.CORRUPT_IMAGE, "HEIF without a primary picture")
    if not sizes:
        raise ImageError(Reason.CORRUPT_IMAGE, "HEIF without image extents")
    alpha = {
        source
        for kind, source, targets in items.references
        if kind == b"auxl" and items.primary in targets and items.is_alpha(source)
    }
    premultiplied = any(kind == b"prem" and source == items.primary for kind, source, _ in items.references)
    largest = max(all_sizes, key=lambda size: size[0] * size[1])
    return HeifPicture(_hide_others(data, items), *sizes[0], largest, bool(alpha), premultiplied)


def _without_meta(data: bytes) -> ImageError:
    kinds = {kind for kind, _, _ in _boxes(data, 0, len(data))}
    if b"moov" in kinds:
        return ImageError(Reason.UNSUPPORTED_FORMAT, "HEIF image sequences without a still picture are not supported")
    return ImageError(Reason.CORRUPT_IMAGE, "HEIF without a description of its pictures (no 'meta' box)")


def _hide_others(data: bytes, items: _Items) -> bytes:
    """Hide what would be decoded beside the primary picture; thumbnails, alpha and the like never are."""
    attached = {source for kind, source, _ in items.references if kind in {b"thmb", b"auxl", b"cdsc"}}
    others = [item for item, kind in items.kinds.items() if item != items.primary and kind not in _METADATA]
    changed = {items.flags_at[item]: _HIDDEN for item in others if item not in attached}
    if not any(not data[at] & _HIDDEN for at in changed):
        return data
    copy = bytearray(data)
    for at in changed:
        copy[at] |= _HIDDEN
    return bytes(copy)


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, begin and end of the content of each box between two places."""
    end = min(end, len(data))
    while at + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, at)
        begin = at + 8
        if size == 1 and at + 16 <= end:
            size, begin = struct.unpack_from(">Q", data, begin)[0], at + 16
        elif size == 0:
            size = end - at
        if size < begin - at:
            return
        yield kind, begin, at + size
        at += size


def _read(items: _Items, data: bytes, kind: bytes, begin: int, end: int) -> None:
    """Read one box of the ``meta`` box."""
    version = data[begin] if begin < len(data) else 0
    if kind == b"pitm":
        items.primary = struct.unpack_from(">I" if version else ">H", data, begin + 4)[0]
    elif kind == b"iinf":
        _read_item_infos(items, data, begin + (8 if version else 6), end)
    elif kind == b"iref":
        _read_references(items, data, begin, end)
    elif kind == b"iprp":
        for inner, inner_begin, inner_end in _boxes(data, begin, end):
            if inner == b"ipco":
                parts = _boxes(data, inner_begin, inner_end)
                items.properties = [(kind, data[first : min(last, first + 128)]) for kind, first, last in parts]
            elif inner == b"ipma":
                _read_associations(items, data, inner_begin)


def _read_item_infos(items: _Items, data: bytes, begin: int, end: int) -> None:
    for kind, at, _ in _boxes(data, begin, end):
        if kind != b"infe" or data[at] < 2:
            continue
        number, _, name = struct.unpack_from(">IH4s" if data[at] > 2 else ">HH4s", data, at + 4)
        items.kinds[number], items.flags_at[number] = name, at + 3


def _read_references(items: _Items, data: bytes, begin: int, end: int) -> None:
    number = ">I" if data[begin] else ">H"
    size = struct.calcsize(number)
    for kind, at, box_end in _boxes(data, begin + 4, end):
        source, count = struct.unpack_from(number + "H", data, at)
        first = at + size + 2
        count = min(count, max(0, box_end - first) // size)
        targets = list(struct.unpack_from(f">{count}{number[1]}", data, first))
        items.references.append((kind, source, targets))


def _read_associations(items: _Items, data: bytes, begin: int) -> None:
    version, wide = data[begin], data[begin + 3] & 1
    item_format, property_format = (">I" if version else ">H"), (">H" if wide else ">B")
    count, at = struct.unpack_from(">I", data, begin + 4)[0], begin + 8
    for _ in range(min(count, len(data))):
        number, num_properties = struct.unpack_from(item_format + "B", data, at)
        at += struct.calcsize(item_format) + 1
        found = []
        for _ in range(num_properties):
            (value,) = struct.unpack_from(property_format, data, at)
            found.append(value & (0x7FFF if wide else 0x7F))
            at += struct.calcsize(property_format)
        items.of_item.setdefault(number, []).extend(found)
