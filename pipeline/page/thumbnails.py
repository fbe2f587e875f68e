"""Thumbnails for the page: decoded as for labelling, upright, scaled down, and embedded as WebP."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image, ImageOps

from pipeline.errors import ImageError
from pipeline.records import Reason
from pipeline.stages.decode import decode

SIDE_PX = 176
_QUALITY = 72
_JPEG, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_MAX_ASPECT = 8  # the shorter side of a panorama is at least 1/8 of SIDE_PX


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small version of an image.

    Attributes:
        uri: ``data:`` URI of a WebP.
        width, height: Pixels, at most 176.
    """

    uri: str
    width: int
    height: int


def thumbnail(encoded: bytes) -> Thumbnail | None:
    """Scale an image down, upright; None where it cannot be decoded.

    Args:
        encoded: Any format that can be labelled. Of a truncated JPEG, the part that is there is shown.
    """
    picture = _decode_upright(encoded)
    if picture is None:
        return None
    scale = min(1.0, SIDE_PX / max(picture.size))
    least = max(1, SIDE_PX // _MAX_ASPECT)
    size = tuple(max(min(side, least), round(side * scale)) for side in picture.size)
    small = picture.resize((size[0], size[1]), Image.Resampling.LANCZOS, reducing_gap=3.0)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=_QUALITY, method=4)
    uri = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Thumbnail(uri, *small.size)


def _decode_upright(encoded: bytes) -> Image.Image | None:
    """The image upright; of a truncated JPEG, the part that is there."""
    try:
        decoded = decode(encoded, fast_to_px=SIDE_PX)
    except ImageError as error:
        if error.reason != Reason.TRUNCATED_IMAGE or not encoded.startswith(_JPEG):
            return None
        return _decode_truncated_jpeg(encoded)
    return Image.fromarray(decoded.pixels_CHW.permute(1, 2, 0).contiguous().numpy())


def _decode_truncated_jpeg(encoded: bytes) -> Image.Image | None:
    """Decode after adding an end marker: the missing rows become grey."""
    try:
        picture = Image.open(io.BytesIO(encoded + _JPEG_END), formats=("JPEG",))
        picture.draft("RGB", (SIDE_PX, SIDE_PX))
        return ImageOps.exif_transpose(picture).convert("RGB")
    except Exception:  # noqa: BLE001 - Pillow's plugins raise whatever they run into
        return None
