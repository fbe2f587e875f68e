"""Frames: what a picture leaves uncovered, around the first frame of an animation or in an icon."""

from __future__ import annotations

import numpy as np
from PIL import IcoImagePlugin, ImageFile

Box = tuple[int, int, int, int]


def first_frame(image: ImageFile.ImageFile, data: bytes) -> Box | None:
    """Find the part of a picture that its first frame covers; None for all of it.

    What lies around it is nothing, so it is shown white, as transparency is. Pillow fills it with a colour: with the
    first one of the palette in GIF, with black in WebP.

    Args:
        image: The picture, opened and not yet loaded.
        data: The encoded image.

    Returns:
        Left, top, right and bottom, pixels.
    """
    box: Box | None = None
    if image.format == "GIF" and image.tile:
        box = image.tile[0].extents
    elif image.format == "WEBP" and data[12:16] == b"VP8X":
        box = _webp_frame(data)
    if box is None or box == (0, 0, *image.size):
        return None
    left, top, right, bottom = box
    return max(0, left), max(0, top), min(right, image.width), min(bottom, image.height)


def _webp_frame(data: bytes) -> Box | None:
    """Find the first frame of an animated WebP.

    Source: WebP Container Specification, "Animation": ANMF holds half of x and y, and width and height less one.
    """
    at = 12
    while at + 8 <= len(data):
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if kind == b"ANMF":
            begin = at + 8
            x, y, width, height = (int.from_bytes(data[begin + n : begin + n + 3], "little") for n in (0, 3, 6, 9))
            return 2 * x, 2 * y, 2 * x + width + 1, 2 * y + height + 1
        at += 8 + size + size % 2
    return None


def icon_mask(image: ImageFile.ImageFile, data: bytes) -> np.ndarray | None:
    """Find what the mask of a 32-bit icon leaves out, for icons without alpha; Pillow does not read it there.

    Args:
        image: The picture, loaded.
        data: The encoded image.

    Returns:
        bool, (H, W): True where there is nothing; None for other pictures.
    """
    if not isinstance(image, IcoImagePlugin.IcoImageFile):
        return None
    entry = image.ico.entry[image.ico.getentryindex(image.size)]
    row_bytes = (image.width + 31) // 32 * 4
    end = entry.offset + entry.size
    mask = np.frombuffer(data[end - row_bytes * image.height : end], np.uint8)
    if mask.size != row_bytes * image.height or entry.size < mask.size + 4 * image.width * image.height:
        return None
    bits = np.unpackbits(mask.reshape(image.height, row_bytes), axis=1)[::-1, : image.width]
    return bits.astype(bool)
