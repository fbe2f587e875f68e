"""TIFF: which page is the picture, and which kinds of it Pillow reads as they are meant.

What Pillow opens was written in all its kinds, compressed and not, in planes and not, and compared: see
``tests/stages/test_tiff.py``. Where Pillow shows another picture, it is made to read the file through libtiff, or the
file is refused.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from PIL import ImagePalette, TiffImagePlugin
from PIL.TiffImagePlugin import TiffImageFile

from pipeline.errors import ImageError
from pipeline.records import Reason

Tags = Mapping[int, Any]  # values by tag; a tuple where a tag may have several

SUBFILE, OLD_SUBFILE = 254, 255
BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 258, 259, 262, 266
PLANAR, SUB_IFDS, EXTRA_SAMPLES, SAMPLE_FORMAT, SUBSAMPLING = 284, 330, 338, 339, 530
DNG_VERSION = 50706
UNSIGNED, SIGNED = 1, 2
WHITE_IS_ZERO, YCBCR, COLOUR_FILTERS, LINEAR_RAW = 0, 6, 32803, 34892
_DEFLATE = 8
_FAINT = 16  # a picture that reaches less than this part of its type's range is nearly black
_MAX_PAGES = 64  # that are looked at for the picture behind its thumbnails
_COLOURS = {
    0: "white is zero", 1: "black is zero", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr", 8: "CIELab",
    9: "ICCLab", 10: "ITULab", 32844: "LogL", 32845: "LogLuv",
}  # fmt: skip
_FORMATS = {1: "unsigned", 2: "signed", 3: "floating-point", 4: "untyped", 5: "complex integer", 6: "complex"}
_COMPRESSIONS = {
    33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000", 34887: "LERC", 34892: "JPEG",
    34933: "PNG", 34934: "JPEG XR", 50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
_NEVER_BUILT = {50001}  # which Pillow knows and the libtiff in its wheels does not
# libtiff returns numbers in the order of this machine's bytes, which Pillow forgets for these.
_NATIVE = {"F;32BF": "F;32NF", "I;32BS": "I;32NS", "I;16BS": "I;16NS"}


def prepare_tiff(image: TiffImageFile, data: bytes) -> None:
    """Turn to the page that is the picture, and have Pillow read it as it is meant. Called before it is loaded.

    Raises:
        ImageError: The picture is of a kind that is not supported.
    """
    if is_raw(image.tag_v2, data):
        raise ImageError(Reason.UNSUPPORTED_FORMAT, "camera raw (TIFF) is not supported")
    _choose_page(image)
    tags = image.tag_v2
    bits, planes = _bits(tags), tags.get(PLANAR, 1) == 2 and len(_bits(tags)) > 1
    if first(tags, SAMPLE_FORMAT, UNSIGNED) == SIGNED and max(bits) == 8:
        raise ImageError(Reason.UNSUPPORTED_FORMAT, "TIFF with signed 8-bit samples is not supported")
    if planes and _is_lost_in_planes(image, bits):
        raise ImageError(Reason.UNSUPPORTED_FORMAT, f"TIFF in {len(bits)} planes with transparency is not supported")
    if not _is_compressed(tags) and _needs_libtiff(image, bits):
        # Pillow leaves to libtiff all that is called compressed, and libtiff reads the file's own tags.
        tags[COMPRESSION] = _DEFLATE
        image._setup()
    tile = image.tile[0]
    if tile.codec_name == "libtiff":
        args: Any = tile.args
        image.tile = [tile._replace(args=(_NATIVE.get(args[0], args[0]), *args[1:]))]
    if image.palette is not None:
        _widen_palette(image)


def is_raw(tags: Tags, data: bytes) -> bool:
    """Whether a TIFF is a camera's raw file: its first page is a thumbnail, or needs to be developed."""
    return data[8:10] == b"CR" or DNG_VERSION in tags or first(tags, PHOTOMETRIC, 1) in {COLOUR_FILTERS, LINEAR_RAW}


def first(tags: Tags, tag: int, default: int) -> int:
    """The first value of a tag that may have one for each sample."""
    value = tags.get(tag, default)
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) else default


def find_integer_range(tags: Tags, low: float, high: float) -> tuple[float, float]:
    """Find which values are black and white in a grey picture of 32-bit or signed 16-bit integers.

    Args:
        tags: Of the page.
        low: Its lowest value.
        high: Its highest value.
    """
    bits, signed = first(tags, BITS, 32), first(tags, SAMPLE_FORMAT, UNSIGNED) == SIGNED
    white = 2.0 ** (bits - signed) - 1
    # No camera writes these types: programs do, and keep the values that they had, of 8 or 16 bits, of the whole type,
    # or measured ones (heights, counts). So the smallest of these ranges that holds the values is meant. Values that
    # would be nearly black in the whole 32 bits, and negative ones of 16, are measured: their extremes show most.
    if low >= 0:
        for most in (255.0, 65535.0):
            if high <= most < white:
                return 0.0, most
    whole = low >= 0 if bits == 16 else max(high, -low) >= white / _FAINT
    return (0.0 if low >= 0 else -white - 1, white) if whole else (low, high)


def _bits(tags: Tags) -> tuple[int, ...]:
    value = tags.get(BITS, (1,))
    return value if isinstance(value, tuple) and value else (1,)


def _is_compressed(tags: Tags) -> bool:
    return first(tags, COMPRESSION, 1) != 1


def _choose_page(image: TiffImageFile) -> None:
    """Turn to the first page that is no reduced copy, where the first one is."""
    if not _is_reduced(image.tag_v2):
        return
    elsewhere = SUB_IFDS in image.tag_v2
    for number in range(1, _MAX_PAGES):
        try:
            image.seek(number)
        except EOFError:
            break
        except (SyntaxError, KeyError) as error:
            raise ImageError(Reason.UNSUPPORTED_FORMAT, f"TIFF whose page {number + 1} cannot be read") from error
        if not _is_reduced(image.tag_v2):
            return
    if elsewhere:
        raise ImageError(Reason.UNSUPPORTED_FORMAT, "TIFF whose pages are reduced copies, as in camera raw files")
    image.seek(0)


def _is_reduced(tags: Tags) -> bool:
    """Whether a page is a reduced copy of another, or a mask."""
    return bool(first(tags, SUBFILE, 0) & 5) or first(tags, OLD_SUBFILE, 1) == 2


def _needs_libtiff(image: TiffImageFile, bits: tuple[int, ...]) -> bool:
    """Whether Pillow's own reader of uncompressed files reads this one otherwise than it is meant.

    It takes each plane for one of 8 bits, even if there is but one (``findings/pillow-planar-tiff.sh``), and chroma
    for as large as luma, and cannot turn the bits of all kinds around.
    """
    tags = image.tag_v2
    planes, turned = tags.get(PLANAR, 1) == 2, first(tags, FILL_ORDER, 1) == 2
    if first(tags, PHOTOMETRIC, 1) == YCBCR and len(bits) == 3:
        return planes or bool(tags.get(SUBSAMPLING, (2, 2)) != (1, 1))
    if not planes or turned:
        return planes or turned
    return set(bits) != {8} or image.mode not in {"RGB", "RGBA", "CMYK", "LAB"} or 1 in tags.get(EXTRA_SAMPLES, ())


def _is_lost_in_planes(image: TiffImageFile, bits: tuple[int, ...]) -> bool:
    """Whether Pillow takes the planes of a picture for others than they are, through libtiff too."""
    extra = image.tag_v2.get(EXTRA_SAMPLES, ())
    if image.mode == "RGBA":
        return len(extra) > 1 or (not extra and (_is_compressed(image.tag_v2) or max(bits) > 8))
    return image.mode in {"LA", "La", "PA"}


def _widen_palette(image: TiffImageFile) -> None:
    """Take a palette of 8 bits for what it is: old writers left the upper bytes of 16 empty. libtiff does the same."""
    values = image.tag_v2.get(TiffImagePlugin.COLORMAP, ())
    if values and max(values) < 256:
        image.palette = ImagePalette.raw("RGB;L", bytes(values))


def name_unsupported_tiff(data: bytes) -> str | None:
    """Describe the kind of a TIFF that Pillow cannot open, from its header; None if Pillow has no reason not to."""
    if data.startswith(b"MM\0+"):
        return "big-endian BigTIFF"
    try:
        tags: Any = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if data[2:3] == b"+" else 8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        return _name_kind(tags, tags.prefix, data)
    except Exception:  # noqa: BLE001 - Pillow raises whatever it runs into; then the header is damaged
        return None


def _name_kind(tags: Tags, order: bytes, data: bytes) -> str | None:
    if is_raw(tags, data):
        return "camera raw (TIFF)"
    if not (first(tags, 256, 0) > 0 and first(tags, 257, 0) > 0 and (273 in tags or 324 in tags)):
        return None
    bits, photometric = _bits(tags), first(tags, PHOTOMETRIC, 0)
    compression, sample_format = first(tags, COMPRESSION, 1), first(tags, SAMPLE_FORMAT, UNSIGNED)
    count = first(tags, TiffImagePlugin.SAMPLESPERPIXEL, 1)
    if compression not in TiffImagePlugin.COMPRESSION_INFO or compression in _NEVER_BUILT:
        return f"TIFF in compression {_COMPRESSIONS.get(compression, compression)}" if compression < 2**16 else None
    if photometric not in _COLOURS or sample_format not in _FORMATS or not 0 < max(bits) <= 64 or not 0 < count < 4096:
        return None
    bits = bits * count if len(bits) == 1 else bits
    extra = tags.get(EXTRA_SAMPLES, ())
    if first(tags, PLANAR, 1) == 2 and compression == 1 and extra:
        return f"TIFF in {len(bits)} planes"
    key = (order, photometric, (sample_format,), tags.get(FILL_ORDER, 1), bits, extra)
    if key in TiffImagePlugin.OPEN_INFO:
        return None
    endian = "big-endian " if order == b"MM" else ""
    return f"{endian}TIFF of {len(bits)} x {max(bits)}-bit {_FORMATS[sample_format]}, {_COLOURS[photometric]}"
