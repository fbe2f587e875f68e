"""Colours: from any mode of Pillow to 8-bit RGB, as a person would see the picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from pipeline.errors import ImageError
from pipeline.records import Reason
from pipeline.stages import tiff
from pipeline.stages.psd import has_transparency

# Formats whose writers leave alpha at 0 where they mean that there is none.
_LOOSE_ALPHA = {"BMP", "DIB", "TGA", "ICO", "CUR"}
_CODESTREAM = b"\xff\x4f\xff\x51"


@dataclass(frozen=True, slots=True)
class Colours:
    """What the values of a picture mean.

    Attributes:
        grey_range: The values that become black and white in a grey picture of more than 8 bits; None for others.
        white_is_zero: Whether these two change places.
        unsigned: Whether its 32-bit integers are unsigned; Pillow has signed ones only.
        opaque: Whether alpha means nothing.
        stretch: What values are multiplied with; 1 but where Pillow leaves white below 255.
    """

    grey_range: tuple[float, float] | None = None
    white_is_zero: bool = False
    unsigned: bool = False
    opaque: bool = False
    stretch: float = 1.0


def to_rgb(image: Image.Image, colours: Colours) -> Image.Image:
    """Convert a picture to 8-bit RGB, transparency laid over white.

    Args:
        image: The picture, or a strip of it.
        colours: From :func:`read_colours`, of the whole picture.
    """
    if colours.grey_range is not None:
        return _grey_to_8_bits(image, colours, *colours.grey_range).convert("RGB")
    if colours.stretch != 1:
        image = image.point(lambda value: min(255, round(value * colours.stretch)))
    if image.has_transparency_data and not colours.opaque:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def read_colours(image: Image.Image, data: bytes) -> Colours:
    """Find what the values of a loaded picture mean.

    Integers within 0-65535 use that range, and floats within 0-1 or 0-255 use that one. Others use their own extremes.
    For the integers of TIFF see :func:`pipeline.stages.tiff.find_integer_range`.

    Raises:
        ImageError: Pillow may have read other values than the file has.
    """
    if image.format == "JPEG2000":
        return Colours(_find_grey_range(image, 65535.0, unsigned=False), stretch=_check_jpeg_2000(image, data))
    if image.format == "PSD":
        return Colours(opaque=not has_transparency(data))
    tags = getattr(image, "tag_v2", {})
    depth = tiff.first(tags, tiff.BITS, 16)
    unsigned = (
        image.mode == "I" and tiff.first(tags, tiff.SAMPLE_FORMAT, tiff.UNSIGNED) == tiff.UNSIGNED and depth == 32
    )
    grey_range = _find_grey_range(image, 4095.0 if depth == 12 else 65535.0, unsigned=unsigned)
    # of 8 bits and less Pillow has seen to that
    white_is_zero = grey_range is not None and tiff.first(tags, tiff.PHOTOMETRIC, 1) == tiff.WHITE_IS_ZERO
    return Colours(grey_range, white_is_zero, unsigned, _is_opaque(image))


def mend_transparency(image: ImageFile.ImageFile) -> None:
    """Put the transparent colour of a PNG into the scale that Pillow will load its pixels in. Before it is loaded."""
    clear = image.info.get("transparency")
    if image.format != "PNG" or clear is None or not image.tile:
        return
    stored = image.tile[0][3]
    if isinstance(clear, int) and stored in {"L;2", "L;4"}:
        image.info["transparency"] = (clear * (85 if stored == "L;2" else 17)) & 0xFF
    elif isinstance(clear, tuple) and stored == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in clear)


def _is_opaque(image: Image.Image) -> bool:
    """Whether alpha is 0 throughout, in a format where that means that there is none. Viewers ignore it, too."""
    no_meaning = image.format == "TIFF" and not getattr(image, "tag_v2", {}).get(tiff.EXTRA_SAMPLES)
    if image.mode not in {"RGBA", "LA"} or not (image.format in _LOOSE_ALPHA or no_meaning):
        return False
    return _extremes(image)[-1][1] == 0


def _check_jpeg_2000(image: Image.Image, data: bytes) -> float:
    """Find how far the values of a JPEG 2000 must be stretched.

    Pillow shifts values to 8 bits. Those of fewer bits never reach 255. Those of more are rounded, so that white
    becomes 256, which is 0 (``findings/pillow-jpeg2000-white.sh``): where there is a 0, nobody knows which it was.

    Raises:
        ImageError: A value may be white or black.
    """
    at = data.find(_CODESTREAM)
    count = int.from_bytes(data[at + 40 : at + 42], "big")
    depths = [(depth & 0x7F) + 1 for depth in data[at + 42 : at + 42 + 3 * count : 3]]
    if at < 0 or not depths or image.mode in {"P", "PA"} or image.mode.startswith("I"):
        return 1.0
    if max(depths) > 8 and min(low for low, _ in _extremes(image)) == 0:
        raise ImageError(Reason.UNSUPPORTED_FORMAT, f"JPEG 2000 of {max(depths)} bits in colour is not supported")
    return 255 / (256 - (1 << (8 - max(depths)))) if max(depths) < 8 else 1.0


def _extremes(image: Image.Image) -> list[tuple[float, float]]:
    """The lowest and the highest value of each band."""
    found: Any = image.getextrema()
    return list(found) if isinstance(found[0], tuple) else [found]


def _find_grey_range(image: Image.Image, most: float, *, unsigned: bool) -> tuple[float, float] | None:
    if image.mode.startswith("I;16"):
        return 0.0, most
    if image.mode not in {"I", "F"}:
        return None
    values = np.asarray(image)
    values = values.view(np.uint32) if unsigned else values
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(high - low):
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    tags = getattr(image, "tag_v2", None)
    if image.mode == "I" and tags:
        return tiff.find_integer_range(tags, low, high)
    likely = (65535.0,) if image.mode == "I" else (1.0, 255.0)
    return next(((0.0, most) for most in likely if low >= 0 and high <= most), (low, high))


def _grey_to_8_bits(image: Image.Image, colours: Colours, low: float, high: float) -> Image.Image:
    stored = np.asarray(image)
    values = (stored.view(np.uint32) if colours.unsigned else stored).astype(np.float64)
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    scaled = (values - low) * (255.0 / (high - low) if high > low else 0.0)
    grey = np.clip(scaled + 0.5, 0, 255).astype(np.uint8)
    if colours.white_is_zero:
        grey = 255 - grey
    if isinstance(clear := image.info.get("transparency"), int):  # in PNG one grey value may be transparent
        grey[values == clear] = 255
    return Image.fromarray(grey)
