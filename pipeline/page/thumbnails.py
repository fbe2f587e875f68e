"""Small pictures for the page: decoded as for labelling, upright, scaled down, and embedded."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image

from pipeline.errors import ImageError
from pipeline.stages.decode import decode

SIDE_PX = 176
_QUALITY = 72
_MOST_ELONGATED = 8  # a panorama is scaled to at least so many pixels less across


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small picture.

    Attributes:
        uri: ``data:`` URI of a WebP.
        width, height: Pixels, at most 176.
    """

    uri: str
    width: int
    height: int


def thumbnail(encoded: bytes) -> Thumbnail | None:
    """Scale an image down, as it is seen upright; None where it cannot be decoded.

    Args:
        encoded: Of any format that can be labelled.
    """
    try:
        decoded = decode(encoded, fast_to_px=SIDE_PX)
    except ImageError:
        return None
    picture = Image.fromarray(decoded.pixels_CHW.permute(1, 2, 0).contiguous().numpy())
    scale = min(1.0, SIDE_PX / max(picture.size))
    least = max(1, SIDE_PX // _MOST_ELONGATED)
    size = tuple(max(min(side, least), round(side * scale)) for side in picture.size)
    small = picture.resize((size[0], size[1]), Image.Resampling.LANCZOS, reducing_gap=3.0)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=_QUALITY, method=4)
    uri = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Thumbnail(uri, *small.size)
