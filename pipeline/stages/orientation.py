"""Orientation of a picture: whether it lies upright in its file, and how to turn it."""

from __future__ import annotations

import re

import torch
from PIL import Image

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


def is_upright(image: Image.Image) -> bool:
    """Whether a picture lies in its file as it is meant to be seen, neither turned nor mirrored."""
    return _exif_orientation(image) == 1 and not has_xmp_orientation(image)


def has_xmp_orientation(image: Image.Image) -> bool:
    """Whether XMP metadata, which TorchCodec ignores, turns or mirrors a picture."""
    return _XMP_ORIENTATION.search(image.info.get("xmp", b"")) is not None


def turn_upright(pixels_CHW: torch.Tensor, image: Image.Image) -> torch.Tensor:
    """Turn and mirror pixels as the metadata of their picture says; a view where possible.

    Args:
        pixels_CHW: uint8, (3, H, W), 0-255, RGB, as stored.
        image: The picture that they come from.
    """
    swap, flips = _UPRIGHT.get(_exif_orientation(image), (False, ()))
    turned_CHW = pixels_CHW.transpose(1, 2) if swap else pixels_CHW
    return turned_CHW.flip(flips) if flips else turned_CHW


def _exif_orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - Pillow raises whatever it runs into; damaged metadata leaves the pixels sound
        return 1
    return value if isinstance(value, int) else 1
