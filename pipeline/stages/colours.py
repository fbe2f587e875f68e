"""Colours: from any mode of Pillow to 8-bit RGB, as a person would see the picture."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image


def to_rgb(image: Image.Image, grey_range: tuple[float, float] | None) -> Image.Image:
    """Convert a picture to 8-bit RGB, transparency laid over white.

    Args:
        image: The picture, or a strip of it.
        grey_range: From :func:`find_grey_range`, of the whole picture.
    """
    if grey_range is not None:
        return _grey_to_8_bits(image, *grey_range).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def find_grey_range(image: Image.Image) -> tuple[float, float] | None:
    """Find the values that become black and white in a grey picture of more than 8 bits; None for other pictures.

    Integers within 0-65535 use that range, and floats within 0-1 or 0-255 use that one. Others use their own extremes.
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
    if isinstance(clear := image.info.get("transparency"), int):  # in PNG one grey value may be transparent
        grey[values == clear] = 255
    return Image.fromarray(grey)
