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
import struct
import threading
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torchcodec.decoders import decode_heic, decode_jpeg

from pipeline.errors import ImageError
from pipeline.records import Reason

# Pillow's own limit: twice its MAX_IMAGE_PIXELS. Checked in the header, before anything is allocated.
MAX_PIXELS = 178_956_970
# Above this only one image at a time is decoded in a process, which bounds the memory of a bad shard.
_LARGE_PIXELS = 32 << 20
_one_large_image = threading.Lock()

_FORMATS = tuple(
    "JPEG MPO PNG GIF WEBP AVIF BMP DIB TIFF JPEG2000 PPM ICO ICNS CUR TGA DDS PSD PCX SGI QOI XBM XPM".split()
)
_ORIENTATION = 0x0112
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

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS decides, not a warning
warnings.filterwarnings("ignore", module=r"PIL\..*")


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


def decode(data: bytes, *, fast_to_px: int | None = None) -> Decoded:
    """Decode one image.

    Args:
        data: The encoded image.
        fast_to_px: If set, a JPEG may be decoded at a reduced DCT scale as long as its shorter side
            keeps at least so many pixels.

    Raises:
        ImageError: It cannot be decoded; the reason says why.
    """
    if not data:
        raise ImageError(Reason.EMPTY, "0 bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        width, height = image.size
        _check_pixels(width, height)
        if width * height > _LARGE_PIXELS:
            with _one_large_image:
                pixels = _pixels(image, data, fast_to_px)
        else:
            pixels = _pixels(image, data, fast_to_px)
    except ImageError:
        raise
    except Image.UnidentifiedImageError as error:
        return _decode_unidentified(data, error)
    except Image.DecompressionBombError as error:
        raise ImageError(Reason.TOO_LARGE, _line(error)) from error
    except MemoryError as error:
        raise ImageError(Reason.TOO_LARGE, "not enough memory to decode it") from error
    except Exception as error:  # Pillow's plugins raise whatever they run into: OSError, SyntaxError, struct.error, ...
        raise _damage(error) from error
    return Decoded(pixels, width, height)


def _check_pixels(width: int, height: int) -> None:
    if width <= 0 or height <= 0:
        raise ImageError(Reason.CORRUPT_IMAGE, f"{width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise ImageError(Reason.TOO_LARGE, f"{width} x {height} pixels; the limit is {MAX_PIXELS} in all")


def _pixels(image: Image.Image, data: bytes, fast_to_px: int | None) -> torch.Tensor:
    if image.format in {"JPEG", "MPO"}:
        if fast_to_px is not None and min(image.size) >= 2 * fast_to_px:
            image.draft("RGB" if image.mode == "RGB" else image.mode, (fast_to_px, fast_to_px))
            return _with_pillow(image)
        try:
            pixels: torch.Tensor = decode_jpeg(data, mode="RGB")
        except (RuntimeError, ValueError):
            return _with_pillow(image)  # it knows some more variants, and names what is wrong
        return pixels
    return _with_pillow(image)


def _with_pillow(image: Image.Image) -> torch.Tensor:
    image.load()
    orientation = image.getexif().get(_ORIENTATION, 1)
    rgb = _to_rgb(image)
    if orientation in range(2, 9):
        rgb.getexif()[_ORIENTATION] = orientation
        rgb = ImageOps.exif_transpose(rgb)
    return torch.from_numpy(np.array(rgb, dtype=np.uint8)).permute(2, 0, 1)


def _to_rgb(image: Image.Image) -> Image.Image:
    """As a person would see it, in 8-bit RGB."""
    if image.mode == "I" or image.mode.startswith("I;16") or image.mode == "F":
        return _grey_to_8_bits(np.asarray(image), image.mode).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _grey_to_8_bits(values: np.ndarray, mode: str) -> Image.Image:
    """Deep greys to 8 bits: integers by their 16-bit range, floats and larger integers by their own."""
    if mode != "F" and values.size and 0 <= values.min() and values.max() <= 65535:
        return Image.fromarray((values.astype(np.uint32) >> 8).astype(np.uint8))
    finite = np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = float(finite.min()), float(finite.max())
    if mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif mode == "F" and low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    scale = 255.0 / (high - low) if high > low else 0.0
    return Image.fromarray(np.clip((finite - low) * scale, 0, 255).astype(np.uint8))


def _decode_unidentified(data: bytes, error: Exception) -> Decoded:
    if data[4:8] == b"ftyp" and _HEIF_BRANDS & {data[at : at + 4] for at in range(8, 64, 4)}:
        return _decode_heic(data)
    head = data[:512].lstrip()
    for magic, name in _FOREIGN_MAGIC:
        if data.startswith(magic) or (name == "SVG" and head.startswith(b"<") and magic in head):
            raise ImageError(Reason.UNSUPPORTED_FORMAT, f"{name} is not supported") from error
    for magic, name in _MAGIC:
        if data.startswith(magic):
            raise ImageError(Reason.CORRUPT_IMAGE, f"starts as {name}, but cannot be read as one") from error
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        raise ImageError(Reason.CORRUPT_IMAGE, "starts as WebP, but cannot be read as one") from error
    raise ImageError(Reason.NOT_AN_IMAGE, "no image format that is known") from error


def _decode_heic(data: bytes) -> Decoded:
    width, height = _heif_size(data)
    _check_pixels(width, height)
    try:
        pixels = decode_heic(data, mode="RGB")
    except (RuntimeError, ValueError) as error:
        raise _damage(error) from error
    pixels = pixels[0] if pixels.ndim == 4 else pixels
    return Decoded(pixels, width, height)


def _heif_size(data: bytes) -> tuple[int, int]:
    """The largest image extent that a HEIF file declares (its ``ispe`` properties).

    Source: ISO/IEC 23008-12, 6.5.3 (ImageSpatialExtentsProperty).
    """
    sizes: list[tuple[int, int]] = []
    at = data.find(b"ispe")
    while at >= 0 and len(data) >= at + 16:
        sizes.append(struct.unpack(">II", data[at + 8 : at + 16]))
        at = data.find(b"ispe", at + 4)
    if not sizes:
        raise ImageError(Reason.CORRUPT_IMAGE, "HEIF without image extents")
    return max(sizes, key=lambda size: size[0] * size[1])


def _damage(error: Exception) -> ImageError:
    message = _line(error)
    cut = any(word in message.lower() for word in _TRUNCATED)
    return ImageError(Reason.TRUNCATED_IMAGE if cut else Reason.CORRUPT_IMAGE, message)


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__
