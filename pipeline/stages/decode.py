"""Decode: from encoded bytes to upright 8-bit RGB pixels, or the reason why not.

Pillow reads every header: what it refuses is refused. Pixels of JPEG come from TorchCodec, which gives
Pillow's pixels faster and without holding the interpreter lock; those of HEIC come from TorchCodec
because Pillow has no decoder for it; all others come from Pillow. Formats whose decoders run other
programs (EPS, WMF) are not opened at all.

The picture is what a person would see: EXIF orientation applied, 16-bit and floating-point greys scaled
to 8 bits, CMYK and Lab converted, transparency laid over white, the first frame of an animation.
"""

from __future__ import annotations

import io
import math
import re
import struct
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from pipeline.errors import ImageError, RequestError
from pipeline.records import Reason

try:
    from torchcodec.decoders import decode_heic, decode_jpeg
except (ImportError, RuntimeError, OSError) as error:  # its core looks for the torch that it was built for
    raise RequestError(
        f"TorchCodec cannot be loaded: {str(error)[:300]}; install the torch and torchcodec that shardlabel asks for"
    ) from error

# What Pillow calls MPO comes in by its JPEG plugin and has no opener of its own.
_FORMATS = tuple(
    "JPEG PNG GIF WEBP AVIF BMP DIB TIFF JPEG2000 PPM ICO ICNS CUR TGA DDS PSD PCX SGI QOI XBM XPM".split()
)
# Pillow's own limit: twice its MAX_IMAGE_PIXELS. Checked in the header, before anything is allocated.
MAX_PIXELS = 178_956_970
# Above this only one image at a time is decoded in a process, which bounds the memory of a bad shard.
_LARGE_PIXELS = 32 << 20
# What takes longer hangs: the slowest image that the limits allow (JPEG 2000 of noise) takes 35 s of a core.
LIMIT_S = 120.0
# Icons hold whole pictures, whose size shows only when they are decoded: each counts as a large one.
_ICON_MAGIC = (b"\0\0\1\0", b"icns")
# Pillow's pictures are converted in strips, so that beside the decoded and the final one there is no third.
_STRIP_PIXELS = 4 << 20

_ORIENTATION = 0x0112
# What Pillow's exif_transpose() does, for (3, H, W): swap H and W or not, then the axes to flip.
_UPRIGHT: dict[int, tuple[bool, tuple[int, ...]]] = {
    2: (False, (2,)),
    3: (False, (1, 2)),
    4: (False, (1,)),
    5: (True, ()),
    6: (True, (2,)),
    7: (True, (1, 2)),
    8: (True, (1,)),
}
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(="|>)[2-8]')
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
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
_FOREIGN_MAGIC = (
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"%!PS", "EPS"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"<svg", "SVG"),
    (b"\xd7\xcd\xc6\x9a", "WMF"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
)
_TRUNCATED = ("truncated", "not enough data", "unexpected end", "premature end")
_UNSUPPORTED = ("unsupported", "not supported", "unimplemented")
_SOURCE_LINE = re.compile(r"^.*\.cpp:\d+, ")
_PILLOW_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)

Image.init()  # all formats now, not when the first odd file comes to several threads at once


Waiting = Callable[[], AbstractContextManager[object]]


class _Turns:
    """Lets one large image in at a time; one that stays for longer than an image may take does not keep the others."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside: object | None = None
        self._since = 0.0

    @contextmanager
    def one(self, waiting: Waiting) -> Iterator[None]:
        """Wait for a turn, and take it."""
        own = object()
        with waiting(), self._condition:
            while self._inside is not None and (left_s := self._since + LIMIT_S - time.monotonic()) > 0:
                self._condition.wait(left_s)
            self._inside, self._since = own, time.monotonic()
        try:
            yield
        finally:
            with self._condition:
                if self._inside is own:
                    self._inside = None
                    self._condition.notify()


_large_images = _Turns()


@dataclass(frozen=True, slots=True)
class Decoded:
    """One picture.

    Attributes:
        pixels_CHW: uint8, (3, H, W), 0-255, RGB, upright.
        width: Pixels as stored, before orientation.
        height: Likewise.
    """

    pixels_CHW: torch.Tensor
    width: int
    height: int


def decode(
    data: bytes,
    *,
    fast_to_px: int | None = None,
    waiting: Waiting = nullcontext,
) -> Decoded:
    """Decode one image.

    Args:
        data: The encoded image.
        fast_to_px: If set, a JPEG may be decoded at a reduced DCT scale as long as its shorter side
            keeps at least so many pixels.
        waiting: Entered while other large images are waited for, which is no part of this one's time.

    Raises:
        ImageError: It cannot be decoded; the reason says why.
    """
    if not data:
        raise ImageError(Reason.EMPTY, "0 bytes")
    _quieten_pillow()
    try:
        icon = data.startswith(_ICON_MAGIC)
        with _turn(waiting, large=icon):
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            width, height = _stored_size(image)
            with _memory_for(width, height, waiting, inside=icon):
                pixels = _pixels(image, data, fast_to_px)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        return _decode_unidentified(data, error, waiting)
    except Image.DecompressionBombError as error:
        raise ImageError(Reason.TOO_LARGE, _line(error)) from error
    except MemoryError as error:
        raise ImageError(Reason.TOO_LARGE, "not enough memory to decode it") from error
    except Exception as error:  # Pillow's plugins raise whatever they run into: OSError, SyntaxError, struct.error, ...
        raise _damage(error, data) from error
    return Decoded(pixels, width, height)


def _quieten_pillow() -> None:
    """Keep Pillow's warnings from the terminal, and from becoming errors where somebody asked for that.

    Whether a picture can be labelled must not depend on Python's ``-W`` option.
    """
    if warnings.filters[:1] != [_PILLOW_QUIET]:
        warnings.filterwarnings("ignore", module=r"PIL\.")


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height before orientation; for TIFF, Pillow's own ``size`` is that of the upright picture."""
    tags = getattr(image, "tag_v2", None)
    return image.size if tags is None else (int(tags[_TIFF_WIDTH]), int(tags[_TIFF_HEIGHT]))


def _memory_for(width: int, height: int, waiting: Waiting, *, inside: bool = False) -> AbstractContextManager[object]:
    """Leave for a picture of this size to be decoded; the large ones wait for each other.

    Args:
        width: Pixels.
        height: Pixels.
        waiting: Entered while others are waited for.
        inside: Whether it is this one's turn already.

    Raises:
        ImageError: It is too large altogether.
    """
    if width <= 0 or height <= 0:
        raise ImageError(Reason.CORRUPT_IMAGE, f"{width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise ImageError(Reason.TOO_LARGE, f"{width} x {height} pixels; the limit is {MAX_PIXELS} in all")
    return _turn(waiting, large=width * height > _LARGE_PIXELS and not inside)


def _turn(waiting: Waiting, *, large: bool) -> AbstractContextManager[object]:
    return _large_images.one(waiting) if large else nullcontext()


def _pixels(image: Image.Image, data: bytes, fast_to_px: int | None) -> torch.Tensor:
    if image.format not in {"JPEG", "MPO"}:
        return _with_pillow(image)
    if fast_to_px is not None and min(image.size) >= 2 * fast_to_px:
        # twice what is needed where there is as much: it costs little more, and resizing from there changes less
        side = 2 * fast_to_px if min(image.size) >= 4 * fast_to_px else fast_to_px
        image.draft(None, (side, side))
        return _with_pillow(image)
    if _XMP_ORIENTATION.search(image.info.get("xmp", b"")):
        return _with_pillow(image)  # TorchCodec looks for the orientation in EXIF alone
    try:
        pixels: torch.Tensor = decode_jpeg(data, mode="RGB")
    except (RuntimeError, ValueError):
        return _with_pillow(image)  # it knows some more variants, and names what is wrong
    return pixels


def _with_pillow(image: Image.Image) -> torch.Tensor:
    image.load()
    width, height = image.size
    deep = _deep_range(image)
    pixels_HWC = np.empty((height, width, 3), np.uint8)
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        strip = image if rows >= height else image.crop((0, top, width, bottom))
        pixels_HWC[top:bottom] = np.asarray(_to_rgb(strip, deep))
    pixels_CHW = torch.from_numpy(pixels_HWC).permute(2, 0, 1)
    swap, flips = _UPRIGHT.get(_orientation(image), (False, ()))
    turned_CHW = pixels_CHW.transpose(1, 2) if swap else pixels_CHW
    return turned_CHW.flip(flips) if flips else turned_CHW


def is_upright(image: Image.Image) -> bool:
    """Whether a picture lies in its file as a person would see it, neither turned nor mirrored."""
    return _orientation(image) == 1 and not _XMP_ORIENTATION.search(image.info.get("xmp", b""))


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - Pillow raises whatever it runs into; damaged metadata leaves the pixels sound
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image, deep: tuple[float, float] | None) -> Image.Image:
    """As a person would see it, in 8-bit RGB."""
    if deep is not None:
        return _grey_to_8_bits(image, *deep).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _deep_range(image: Image.Image) -> tuple[float, float] | None:
    """The values that become black and white, for greys of more than 8 bits; None for other pictures.

    Integers count by their 16-bit range, floats and larger integers by their own.
    """
    if image.mode.startswith("I;16"):
        return 0.0, 65535.0
    if image.mode not in {"I", "F"}:
        return None
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(high - low):
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    likely = (65535.0,) if image.mode == "I" else (1.0, 255.0)
    return next(((0.0, most) for most in likely if low >= 0 and high <= most), (low, high))


def _grey_to_8_bits(image: Image.Image, low: float, high: float) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    scaled = (values - low) * (255.0 / (high - low) if high > low else 0.0)
    grey = np.clip(scaled + 0.5, 0, 255).astype(np.uint8)
    if isinstance(clear := image.info.get("transparency"), int):  # PNG names one value that is transparent
        grey[values == clear] = 255
    return Image.fromarray(grey)


def _decode_unidentified(data: bytes, error: Exception, waiting: Waiting) -> Decoded:
    if data[4:8] == b"ftyp":
        brands = {data[at : at + 4] for at in range(8, 64, 4)}
        if brands & _AVIF_BRANDS:
            raise ImageError(Reason.CORRUPT_IMAGE, "starts as AVIF, but cannot be read as one") from error
        if brands & _HEIF_BRANDS:
            return _decode_heic(data, waiting)
    head = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip()
    for magic, name in _FOREIGN_MAGIC:
        if data.startswith(magic) or (name == "SVG" and head.startswith(b"<") and magic in head):
            raise ImageError(Reason.UNSUPPORTED_FORMAT, f"{name} is not supported") from error
    for magic, name in _MAGIC:
        if data.startswith(magic):
            raise ImageError(Reason.CORRUPT_IMAGE, f"starts as {name}, but cannot be read as one") from error
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        raise ImageError(Reason.CORRUPT_IMAGE, "starts as WebP, but cannot be read as one") from error
    raise ImageError(Reason.NOT_AN_IMAGE, "no image format that is known") from error


def _decode_heic(data: bytes, waiting: Waiting) -> Decoded:
    width, height = _heif_size(data)
    with _memory_for(width, height, waiting):
        try:
            pixels = decode_heic(data, mode="RGB")
        except (RuntimeError, ValueError) as error:
            raise _damage(error, data) from error
    pixels_CHW = pixels[0] if pixels.ndim == 4 else pixels
    shown = pixels_CHW.shape[2], pixels_CHW.shape[1]
    if sorted(shown) != sorted((width, height)):  # of several pictures it is not the largest, or it is cut to fit
        width, height = shown
    return Decoded(pixels_CHW, width, height)


def _heif_size(data: bytes) -> tuple[int, int]:
    """The largest image extent that a HEIF file declares (its ``ispe`` properties).

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


def _damage(error: Exception, data: bytes) -> ImageError:
    message = _line(error)
    found = message.lower()
    if any(words in found for words in _TRUNCATED) or _is_cut_webp(data):
        return ImageError(Reason.TRUNCATED_IMAGE, message)
    unsupported = isinstance(error, NotImplementedError) or any(words in found for words in _UNSUPPORTED)
    return ImageError(Reason.UNSUPPORTED_FORMAT if unsupported else Reason.CORRUPT_IMAGE, message)


def _is_cut_webp(data: bytes) -> bool:
    """Whether a WebP file is shorter than it says, which its decoder reports like any other damage."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) < 8 + int.from_bytes(data[4:8], "little")


def _line(error: Exception) -> str:
    text = _SOURCE_LINE.sub("", " ".join(str(error).split()))
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__
