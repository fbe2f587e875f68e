"""Thumbnails for the page: decoded as for labelling, upright, scaled down, and embedded as WebP."""

from __future__ import annotations

import base64
import io
from collections import Counter
from dataclasses import dataclass

from PIL import Image, ImageOps

from pipeline.errors import ImageError
from pipeline.records import Reason
from pipeline.stages.decode import decode
from pipeline.text import fmt

SIDE_PX = 176
_QUALITY = 72
_JPEG, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_MAX_ASPECT = 8  # the shorter side of a panorama is at least 1/8 of the longer


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small version of an image.

    Attributes:
        uri: ``data:`` URI of a WebP.
        width, height: Pixels.
    """

    uri: str
    width: int
    height: int


def describe_missing(problems: Counter[str], images: int) -> str:
    """Why pictures are missing, in one line; empty where none is.

    Args:
        problems: Number of images by what is wrong with them.
        images: How many were to be shown.
    """
    if not problems:
        return ""
    problem, count = problems.most_common(1)[0]
    others = f" ({fmt.plural(count, 'time')})" if len(problems) > 1 else ""
    return f"{sum(problems.values()):,} of {images:,} originals cannot be shown: {problem}{others}."


def thumbnail(encoded: bytes) -> Thumbnail | None:
    """Scale an image down to 176 pixels, upright; None where it cannot be decoded.

    Args:
        encoded: Any format that can be labelled. Of a truncated JPEG, the part that is there is shown.
    """
    made = scale_down(encoded, SIDE_PX)
    return made[0] if made else None


def scale_down(encoded: bytes, *sides_px: int) -> tuple[Thumbnail, ...]:
    """Scale an image down to several sizes, upright; none where it cannot be decoded.

    Args:
        encoded: As for :func:`thumbnail`.
        *sides_px: The longer side of each; smaller images keep their size.
    """
    picture = _decode_upright(encoded, max(sides_px))
    return () if picture is None else tuple(_scale(picture, side_px) for side_px in sides_px)


def _scale(picture: Image.Image, side_px: int) -> Thumbnail:
    scale = min(1.0, side_px / max(picture.size))
    least = max(1, side_px // _MAX_ASPECT)
    size = tuple(max(min(side, least), round(side * scale)) for side in picture.size)
    small = picture.resize((size[0], size[1]), Image.Resampling.LANCZOS, reducing_gap=3.0)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=_QUALITY, method=4)
    uri = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Thumbnail(uri, *small.size)


def _decode_upright(encoded: bytes, side_px: int) -> Image.Image | None:
    """The image upright; of a truncated JPEG, the part that is there."""
    try:
        decoded = decode(encoded, fast_to_px=side_px)
    except ImageError as error:
        if error.reason != Reason.TRUNCATED_IMAGE or not encoded.startswith(_JPEG):
            return None
        return _decode_truncated_jpeg(encoded, side_px)
    return Image.fromarray(decoded.pixels_CHW.permute(1, 2, 0).contiguous().numpy())


def _decode_truncated_jpeg(encoded: bytes, side_px: int) -> Image.Image | None:
    """Decode after adding an end marker: the missing rows become grey."""
    try:
        picture = Image.open(io.BytesIO(encoded + _JPEG_END), formats=("JPEG",))
        picture.draft("RGB", (side_px, side_px))
        return ImageOps.exif_transpose(picture).convert("RGB")
    except Exception:  # noqa: BLE001 - Pillow's plugins raise whatever they run into
        return None
