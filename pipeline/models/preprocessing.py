"""Preprocessing: from a decoded picture to the crop that a network was trained on.

The reference is the published transform on a Pillow image. Here the same geometry is applied to uint8
tensors with antialiasing, which stays within one grey level of Pillow's own resize.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from pipeline.vision import InterpolationMode
from pipeline.vision import functional as F  # noqa: N812 - the name the field uses

# If a resized picture would have more pixels, only the region of the crop is resized.
_MAX_RESIZED_PIXELS = 1 << 23

_PILLOW_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, slots=True)
class Geometry:
    """Resize and centre crop.

    Attributes:
        resize_px: Length of the shorter side after resizing; with ``squash``, of both sides.
        crop_px: Side of the central square.
        interpolation: ``bilinear``, ``bicubic``, ``nearest`` or ``lanczos``.
        fit: ``short`` keeps the aspect ratio, ``squash`` does not.
    """

    resize_px: int
    crop_px: int
    interpolation: str = "bilinear"
    fit: Literal["short", "squash"] = "short"

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing, rounded as torchvision does."""
        if self.fit == "squash":
            return self.resize_px, self.resize_px
        short, long = min(height, width), max(height, width)
        scaled = int(self.resize_px * long / short)
        return (self.resize_px, scaled) if height <= width else (scaled, self.resize_px)


@dataclass(frozen=True, slots=True)
class Recipe:
    """The whole preprocessing of a network.

    Attributes:
        geometry: Resize and crop.
        mean, std: Per channel, RGB, on the range 0-1.
    """

    geometry: Geometry
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """Inverse of ``dataclasses.asdict``."""
        return cls(Geometry(**values["geometry"]), tuple(values["mean"]), tuple(values["std"]))


def torchvision_recipe(weights: Any) -> Recipe:  # noqa: ANN401 - torchvision's enums have no common public type
    """Make the recipe of torchvision weights, from their ``transforms()``."""
    preset = weights.transforms()
    geometry = Geometry(preset.resize_size[0], preset.crop_size[0], InterpolationMode(preset.interpolation).value)
    return Recipe(geometry, tuple(preset.mean), tuple(preset.std))


def timm_recipe(config: dict[str, Any]) -> Recipe:
    """Make the recipe of a resolved timm data config.

    Raises:
        ValueError: Its crop mode or input size is not supported.
    """
    channels, height, size = config["input_size"]
    if channels != 3 or height != size:
        raise ValueError(f"inputs of {channels} x {height} x {size} are not supported, only square RGB")
    mode = config.get("crop_mode", "center")
    if mode not in {"center", "squash"}:
        raise ValueError(f"crop mode {mode!r} is not supported")
    geometry = Geometry(
        resize_px=math.floor(size / config["crop_pct"]),
        crop_px=size,
        interpolation=config["interpolation"],
        fit="squash" if mode == "squash" else "short",
    )
    return Recipe(geometry, tuple(config["mean"]), tuple(config["std"]))


def crop(pixels_CHW: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """Resize and centre-crop one picture.

    Args:
        pixels_CHW: uint8, (3, H, W), 0-255, RGB.
        geometry: Resize and crop.

    Returns:
        uint8, (3, crop_px, crop_px), 0-255, RGB.
    """
    height, width = pixels_CHW.shape[-2:]
    new_height, new_width = geometry.resized(height, width)
    if new_height * new_width > _MAX_RESIZED_PIXELS:
        return _crop_with_pillow(pixels_CHW, geometry, (new_height, new_width))
    if (height, width) != (new_height, new_width):
        pixels_CHW = _resize(pixels_CHW, [new_height, new_width], geometry.interpolation)
    cropped_CHW: torch.Tensor = F.center_crop(pixels_CHW, [geometry.crop_px, geometry.crop_px])
    return cropped_CHW


def _resize(pixels_CHW: torch.Tensor, size: list[int], interpolation: str) -> torch.Tensor:
    """Resize one picture, to the same pixels on every CPU."""
    has_avx2 = torch.backends.cpu.get_cpu_capability() != "DEFAULT"
    if interpolation == "bilinear" and pixels_CHW.device.type == "cpu" and not has_avx2:
        # here torchvision goes by way of float32: slower, and in many places a grey level off Pillow's pixels
        return torch.nn.functional.interpolate(pixels_CHW[None], size, mode=interpolation, antialias=True)[0]
    # torchvision's v2: bicubic of uint8 by v1 is ten levels off (findings/torchvision-bicubic-uint8)
    resized_CHW: torch.Tensor = F.resize(
        pixels_CHW,
        size,
        # Tensors' own "nearest" rounds down; "nearest-exact" takes the pixels that Pillow takes.
        interpolation=InterpolationMode(interpolation.replace("nearest", "nearest-exact")),
        antialias=interpolation != "nearest",
    )
    return resized_CHW


def _crop_with_pillow(pixels_CHW: torch.Tensor, geometry: Geometry, resized: tuple[int, int]) -> torch.Tensor:
    """Do the same for very elongated pictures, computing only the crop and not the whole resized picture."""
    size = geometry.crop_px
    seen = [min(size, side) for side in resized]  # smaller than the crop if that is padded
    boxes = [
        _source_box(source, side, part) for source, side, part in zip(pixels_CHW.shape[-2:], resized, seen, strict=True)
    ]
    (top, rows, bottom), (left, columns, right) = boxes
    region_HWC = pixels_CHW[:, rows, columns].permute(1, 2, 0)
    small = Image.fromarray(np.ascontiguousarray(region_HWC.numpy())).resize(
        (seen[1], seen[0]), _PILLOW_FILTERS[geometry.interpolation], box=(left, top, right, bottom)
    )
    cropped_CHW: torch.Tensor = F.center_crop(torch.from_numpy(np.array(small)).permute(2, 0, 1), [size, size])
    return cropped_CHW


def _source_box(source: int, resized: int, seen: int) -> tuple[float, slice, float]:
    """Find, along one side, the range of the source behind the crop, and the pixels that the filter needs.

    Returns:
        Start within those pixels, the pixels, end within them.
    """
    scale = source / resized
    start = round((resized - seen) / 2.0) * scale
    end = min(float(source), start + seen * scale)
    margin = 3 * max(1.0, scale) + 2  # the widest filter, lanczos, reaches three pixels
    first, last = max(0, math.floor(start - margin)), min(source, math.ceil(end + margin))
    return start - first, slice(first, last), min(end - first, float(last - first))
