"""Image formats: recognise one by its first bytes, and classify why an image cannot be decoded."""

from __future__ import annotations

import re
import struct

from pipeline.errors import ImageError
from pipeline.records import Reason

_AVIF_BRANDS = {b"avif", b"avis"}
_ISPE = b"\0\0\0\x14ispe\0\0\0\0"  # length, name, version and flags; width and height follow
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"8BPS", "PSD"),
    (b"DDS ", "DDS"),
)
_UNSUPPORTED_MAGIC = (
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"%!PS", "EPS"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"<svg", "SVG"),
    (b"\xd7\xcd\xc6\x9a", "WMF"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
)
# Further beginnings of image files, told by fewer bytes: enough for a name that has no extension
_SHORT_MAGIC = re.compile(
    rb"BM.{4}\x00{4}|P[1-7][\s#]|RIFF....WEBP|\x00\x00[\x01\x02]\x00[^\x00]|\x0a[\x02-\x05]\x01[\x01-\x08]|"
    rb"\x01\xda[\x00\x01][\x01\x02]|qoif|icns|P[Ff]\s|/\* XPM|#define \w+_width|....ftyp(?:avi|he|mi|ms)",
    re.DOTALL,
)
SNIFFED_BYTES = 64
_TRUNCATED_WORDS = ("truncated", "not enough data", "unexpected end", "premature end")
_UNSUPPORTED_WORDS = ("unsupported", "not supported", "unimplemented")
_SOURCE_LINE = re.compile(r"^.*\.cpp:\d+, ")


def is_heif(data: bytes) -> bool:
    """Whether an image is HEIF (HEIC included), by its brands."""
    return data[4:8] == b"ftyp" and not _brands(data) & _AVIF_BRANDS and bool(_brands(data) & _HEIF_BRANDS)


def _brands(data: bytes) -> set[bytes]:
    """Brands in the first box of an ISO base media file."""
    return {data[at : at + 4] for at in range(8, 64, 4)}


def begins_like_image(data: bytes) -> bool:
    """Whether a file begins like an image, supported or not.

    Args:
        data: Its first :data:`SNIFFED_BYTES` bytes.
    """
    if any(data.startswith(magic) for magic, name in (*_MAGIC, *_UNSUPPORTED_MAGIC) if name != "BMP"):
        return True
    return _SHORT_MAGIC.match(data) is not None


def classify_unidentified(data: bytes) -> ImageError:
    """Tell why Pillow cannot identify an image, from its first bytes."""
    if data[4:8] == b"ftyp" and _brands(data) & _AVIF_BRANDS:
        return ImageError(Reason.CORRUPT_IMAGE, "starts as AVIF, but cannot be read as one")
    head = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip()
    for magic, name in _UNSUPPORTED_MAGIC:
        if data.startswith(magic) or (name == "SVG" and head.startswith(b"<") and magic in head):
            return ImageError(Reason.UNSUPPORTED_FORMAT, f"{name} is not supported")
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return ImageError(Reason.CORRUPT_IMAGE, f"starts as {name}, but cannot be read as one")
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return ImageError(Reason.CORRUPT_IMAGE, "starts as WebP, but cannot be read as one")
    return ImageError(Reason.NOT_AN_IMAGE, "no image format that is known")


def heif_size(data: bytes) -> tuple[int, int]:
    """Read the largest image extent that a HEIF file declares (its ``ispe`` properties).

    Returns:
        Width and height, pixels.

    Raises:
        ImageError: The file declares none.

    Source: ISO/IEC 23008-12, 6.5.3 (ImageSpatialExtentsProperty).
    """
    sizes: list[tuple[int, int]] = []
    at = data.find(_ISPE)
    while at >= 0 and len(data) >= at + len(_ISPE) + 8:
        sizes.append(struct.unpack_from(">II", data, at + len(_ISPE)))
        at = data.find(_ISPE, at + len(_ISPE))
    if not sizes:
        raise ImageError(Reason.CORRUPT_IMAGE, "HEIF without image extents")
    return max(sizes, key=lambda size: size[0] * size[1])


def classify_error(error: Exception, data: bytes) -> ImageError:
    """Tell from a decoder's error whether an image is truncated, unsupported or corrupt.

    Args:
        error: What the decoder raised.
        data: The encoded image.
    """
    message = one_line(error)
    found = message.lower()
    if any(words in found for words in _TRUNCATED_WORDS) or _is_cut_webp(data):
        return ImageError(Reason.TRUNCATED_IMAGE, message)
    unsupported = isinstance(error, NotImplementedError) or any(words in found for words in _UNSUPPORTED_WORDS)
    return ImageError(Reason.UNSUPPORTED_FORMAT if unsupported else Reason.CORRUPT_IMAGE, message)


def _is_cut_webp(data: bytes) -> bool:
    """Whether a WebP file is shorter than it declares; its decoder reports that like any other damage."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) < 8 + int.from_bytes(data[4:8], "little")


def one_line(error: Exception) -> str:
    """Format an error as one line of at most 300 characters, without the place in torchcodec's sources."""
    text = _SOURCE_LINE.sub("", " ".join(str(error).split()))
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__
