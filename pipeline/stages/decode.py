"""Decode: from encoded bytes to upright 8-bit RGB pixels, or the reason why not.

Pillow reads every header, and what it refuses is refused. TorchCodec decodes the pixels of JPEG: they are Pillow's,
but faster and without holding the interpreter lock. It also decodes HEIC, for which Pillow has no decoder. Pillow
decodes all others. Formats whose decoders run other programs (EPS, WMF) are not opened at all.

The picture is what a person would see: EXIF orientation applied, 16-bit and floating-point greys scaled
to 8 bits, CMYK and Lab converted, transparency laid over white, the first frame of an animation.
"""

from __future__ import annotations

import io
import re
import warnings
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from pipeline.errors import ImageError, RequestError
from pipeline.records import Reason
from pipeline.stages.colours import mend_transparency, read_colours, to_rgb
from pipeline.stages.formats import NEEDS_LIBHEIF, classify_error, classify_unidentified, one_line
from pipeline.stages.frames import first_frame, icon_mask
from pipeline.stages.heif import is_heif, read_primary
from pipeline.stages.limits import Waiting, large_image_lock, lock_if_large
from pipeline.stages.orientation import has_xmp_orientation, turn_upright
from pipeline.stages.psd import name_unsupported_psd
from pipeline.stages.tiff import prepare_tiff

try:
    from torchcodec.decoders import decode_heic, decode_jpeg
except (ImportError, RuntimeError, OSError) as error:  # its core looks for the torch that it was built for
    raise RequestError(
        f"TorchCodec cannot be loaded: {str(error)[:300]}; install the torch and torchcodec that shardlabel asks for"
    ) from error

# MPO is missing, because Pillow opens it with its JPEG plugin.
_FORMATS = tuple(
    "JPEG PNG GIF WEBP AVIF BMP DIB TIFF JPEG2000 PPM ICO ICNS CUR TGA DDS PSD PCX SGI QOI XBM XPM".split()
)
# Icons hold whole pictures, whose size is known only when they are decoded. So each counts as a large image.
_ICON_MAGIC = (b"\0\0\1\0", b"icns")
# Pictures are converted in strips, so that only the decoded and the final one are in memory, and no third.
_STRIP_PIXELS = 4 << 20
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_PILLOW_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)

Image.init()  # register all formats now, not in several threads at once


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded picture.

    Attributes:
        pixels_CHW: uint8, (3, H, W), 0-255, RGB, upright.
        width: Width as stored, before orientation, pixels.
        height: Height as stored, pixels.
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
            keeps at least this many pixels.
        waiting: Context manager that is entered while this waits for other large images, so that a caller can stop its
            clock.

    Raises:
        ImageError: The image cannot be decoded; its reason says why.
    """
    if not data:
        raise ImageError(Reason.EMPTY, "0 bytes")
    _silence_pillow()
    try:
        return _decode_heic(data, waiting) if is_heif(data) else _decode_others(data, fast_to_px, waiting)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise classify_unidentified(data) from error
    except Image.DecompressionBombError as error:
        raise ImageError(Reason.TOO_LARGE, one_line(error)) from error
    except Exception as error:
        # The one place for what decoders raise, and they raise whatever they run into: OSError, SyntaxError,
        # MemoryError, struct.error, ImportError where a library is missing, ... None of it ends a job.
        raise classify_error(error, data) from error


def _decode_others(data: bytes, fast_to_px: int | None, waiting: Waiting) -> Decoded:
    icon = data.startswith(_ICON_MAGIC)
    with large_image_lock.acquire(waiting) if icon else nullcontext():
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if isinstance(image, TiffImageFile):
            prepare_tiff(image, data)
        elif image.format == "PSD" and (kind := name_unsupported_psd(data)) is not None:
            raise ImageError(Reason.UNSUPPORTED_FORMAT, f"{kind} is not supported")
        width, height = _stored_size(image)
        with lock_if_large(width, height, waiting, held=icon):
            return Decoded(_decode_pixels(image, data, fast_to_px), width, height)


def _silence_pillow() -> None:
    """Silence Pillow's warnings: whether a picture can be labelled must not depend on Python's ``-W`` option."""
    if warnings.filters[:1] != [_PILLOW_QUIET]:
        warnings.filterwarnings("ignore", module=r"PIL\.")


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height before orientation, pixels; for TIFF, Pillow's own ``size`` is that of the upright picture.

    Seen in ``findings/pillow-tiff-size.sh``.
    """
    tags = getattr(image, "tag_v2", None)
    return image.size if tags is None else (int(tags[_TIFF_WIDTH]), int(tags[_TIFF_HEIGHT]))


def _decode_pixels(image: ImageFile.ImageFile, data: bytes, fast_to_px: int | None) -> torch.Tensor:
    """Decode the pixels of an opened image: uint8, (3, H, W), 0-255, RGB, upright."""
    if image.format not in {"JPEG", "MPO"}:
        return _decode_with_pillow(image, data)
    if fast_to_px is not None and min(image.size) >= 2 * fast_to_px:
        # twice the size that is needed, if possible: it costs little more, and the resized picture changes less
        side = 2 * fast_to_px if min(image.size) >= 4 * fast_to_px else fast_to_px
        image.draft(None, (side, side))
        return _decode_with_pillow(image, data)
    if has_xmp_orientation(image):
        return _decode_with_pillow(image, data)  # TorchCodec reads the orientation from EXIF only
    try:
        pixels: torch.Tensor = decode_jpeg(data, mode="RGB")
    except Exception:  # noqa: BLE001 - whatever it is: Pillow decodes more variants, and its errors are precise
        return _decode_with_pillow(image, data)
    return pixels


def _decode_with_pillow(image: ImageFile.ImageFile, data: bytes) -> torch.Tensor:
    """Decode with Pillow: uint8, (3, H, W), 0-255, RGB, upright."""
    frame = first_frame(image, data)
    mend_transparency(image)
    image.load()  # once: a second load of a damaged image succeeds (findings/pillow-second-load)
    width, height = image.size
    colours = read_colours(image, data)
    pixels_HWC = np.empty((height, width, 3), np.uint8)
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        strip = image if rows >= height else image.crop((0, top, width, bottom))
        pixels_HWC[top:bottom] = np.asarray(to_rgb(strip, colours))
    if colours.opaque and (uncovered := icon_mask(image, data)) is not None:
        pixels_HWC[uncovered] = 255
    if frame is not None:
        left, top, right, bottom = frame
        for outside in (pixels_HWC[:top], pixels_HWC[bottom:], pixels_HWC[:, :left], pixels_HWC[:, right:]):
            outside[...] = 255
    return turn_upright(torch.from_numpy(pixels_HWC).permute(2, 0, 1), image)


def _decode_heic(data: bytes, waiting: Waiting) -> Decoded:
    picture = read_primary(data)
    with lock_if_large(*picture.largest, waiting):
        try:
            pixels_CHW = decode_heic(picture.data, mode="RGB_ALPHA" if picture.has_alpha else "RGB")
        except ImportError as error:
            raise ImageError(Reason.UNSUPPORTED_FORMAT, NEEDS_LIBHEIF) from error
        if picture.has_alpha:
            pixels_CHW = _lay_over_white(pixels_CHW, premultiplied=picture.premultiplied)
    width, height = picture.width, picture.height
    shown = pixels_CHW.shape[2], pixels_CHW.shape[1]
    if sorted(shown) != sorted((width, height)):  # cropped
        width, height = shown
    return Decoded(pixels_CHW, width, height)


def _lay_over_white(rgba_CHW: torch.Tensor, *, premultiplied: bool) -> torch.Tensor:
    """Lay a picture with alpha over white: uint8, from (4, H, W) to (3, H, W), 0-255."""
    colour, alpha = rgba_CHW[:3].to(torch.int32), rgba_CHW[3:].to(torch.int32)
    over = (255 - alpha) * 255 + colour * (255 if premultiplied else alpha)
    return ((over + 127) // 255).clamp_(0, 255).to(torch.uint8)
