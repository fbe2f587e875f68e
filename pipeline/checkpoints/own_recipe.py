"""The preprocessing that files give themselves: timm's configuration, Hugging Face's, the arguments of timm's trainer.

Each is turned into the few facts that it states; what it leaves open is filled from a published recipe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipeline.config.member_options import Channels, MemberOptions
from pipeline.errors import WeightsError

_PIL_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
# Processors of transformers that resize the shorter side to size / crop_pct below this size, and squash from it on.
_CONVNEXT_SQUASHES_FROM = 384
_CONVNEXT_CROP_PCT = 224 / 256
_BYTE_SCALE = 1 / 255


@dataclass(frozen=True, slots=True)
class RecipeFacts:
    """What is known of a preprocessing; None where nothing is said.

    Attributes:
        resize_px, crop_px, interpolation, fit: See :class:`pipeline.models.preprocessing.Geometry`.
        crop_pct: Side of the crop by the length of the resized shorter side, where ``resize_px`` follows from it.
        mean, std: Per channel, RGB, on the range 0-1.
        source: Where it is said, in words for people.
    """

    resize_px: int | None = None
    crop_px: int | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    fit: Literal["short", "squash"] | None = None
    mean: Channels | None = None
    std: Channels | None = None
    source: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left open."""
        rest = (self.crop_px, self.interpolation, self.fit, self.mean, self.std)
        return None not in rest and (self.resize_px or self.crop_pct) is not None


def facts_of_options(options: MemberOptions) -> RecipeFacts:
    """What a request says after its question mark."""
    return RecipeFacts(
        resize_px=options.resize,
        crop_px=options.crop,
        interpolation=options.interp,
        fit=options.fit,
        mean=options.mean,
        std=options.std,
    )


def facts_of_timm(config: Mapping[str, Any], source: str) -> RecipeFacts:
    """What timm's ``pretrained_cfg`` says.

    Args:
        config: It, as a dict.
        source: Where it was found.

    Raises:
        WeightsError: It asks for what is not supported.
    """
    size, mode = config.get("input_size"), config.get("crop_mode")
    if isinstance(size, list | tuple) and (len(size) != 3 or size[1] != size[2]):
        raise WeightsError(f"{source}: inputs of {' x '.join(map(str, size))} are not supported, only square ones")
    if mode not in {None, "center", "squash"}:
        raise WeightsError(f"{source}: crop mode {mode!r} is not supported; say what to do with ?resize=..&crop=..")
    return RecipeFacts(
        crop_px=int(size[1]) if isinstance(size, list | tuple) else None,
        crop_pct=_number(config.get("crop_pct")),
        interpolation=_interpolation(config.get("interpolation"), source),
        fit="squash" if mode == "squash" else "short",
        mean=_channels(config.get("mean")),
        std=_channels(config.get("std")),
        source=source,
    )


def facts_of_timm_arguments(arguments: Mapping[str, Any], source: str) -> RecipeFacts:
    """What the arguments of timm's ``train.py``, saved beside the weights, say: only what its user set."""
    size = arguments.get("input_size")
    crop_px = size[1] if isinstance(size, list | tuple) and len(size) == 3 else arguments.get("img_size")
    said = RecipeFacts(
        crop_px=crop_px if isinstance(crop_px, int) else None,
        crop_pct=_number(arguments.get("crop_pct")),
        interpolation=_interpolation(arguments.get("interpolation") or None, source),
        mean=_channels(arguments.get("mean")),
        std=_channels(arguments.get("std")),
    )
    return said if said == RecipeFacts() else replace(said, source=source)


def facts_of_processor(config: Mapping[str, Any], source: str) -> RecipeFacts:
    """What the ``preprocessor_config.json`` of transformers says.

    Its kinds of size: ``{"height", "width"}`` squashes to it; ``{"shortest_edge"}`` keeps the aspect ratio; ConvNeXt's
    processor resizes to ``shortest_edge / crop_pct`` and crops, from 384 pixels on it squashes.

    Raises:
        WeightsError: It asks for what is not supported.
    """
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    size, crop = config.get("size"), config.get("crop_size")
    resize_px, fit = _processor_size(size, source)
    crop_px = _side(crop, source) if config.get("do_center_crop", crop is not None) and crop is not None else None
    if config.get("do_resize") is False:
        raise WeightsError(f"{source}: images are not resized; say what to do with ?resize=..&crop=..")
    crop_pct = None
    if kind.startswith("ConvNext") and resize_px is not None and crop_px is None:
        crop_px, crop_pct = resize_px, _number(config.get("crop_pct")) or _CONVNEXT_CROP_PCT
        squashes = crop_px >= _CONVNEXT_SQUASHES_FROM
        resize_px, fit = (crop_px, "squash") if squashes else (int(crop_px / crop_pct), "short")
        crop_pct = None
    elif crop_px is None:
        crop_px = resize_px
    normalised = config.get("do_normalize") is not False
    mean, std = (_channels(config.get(f"image_{name}")) for name in ("mean", "std"))
    scale = _number(config.get("rescale_factor")) if config.get("do_rescale") is not False else 1.0
    if scale is not None and not math.isclose(scale, _BYTE_SCALE, rel_tol=1e-3):  # pixels are on 0-255 * scale there
        raise WeightsError(f"{source}: pixels are scaled by {scale:g} and not by 1/255; say ?mean=..&std=..")
    return RecipeFacts(
        resize_px=resize_px,
        crop_px=crop_px,
        interpolation=_interpolation(config.get("resample"), source),
        fit=fit,
        mean=mean if normalised else (0.0, 0.0, 0.0),
        std=std if normalised else (1.0, 1.0, 1.0),
        source=source,
    )


def _processor_size(size: Any, source: str) -> tuple[int | None, Literal["short", "squash"] | None]:  # noqa: ANN401 - JSON
    if isinstance(size, Mapping) and "shortest_edge" in size:
        return int(size["shortest_edge"]), "short"
    if size is None:
        return None, None
    return _side(size, source), "squash"


def _side(size: Any, source: str) -> int:  # noqa: ANN401 - JSON
    """The side of a square: ``224`` or ``{"height": 224, "width": 224}``."""
    sides = [size.get("height"), size.get("width")] if isinstance(size, Mapping) else [size, size]
    if sides[0] != sides[1] or not isinstance(sides[0], int) or sides[0] < 1:
        raise WeightsError(f"{source}: a size of {size} is not supported, only square ones")
    return int(sides[0])


def _interpolation(value: Any, source: str) -> str | None:  # noqa: ANN401 - JSON
    if value in {None, "", "random"}:  # random is what timm trains with; it evaluates with its default then
        return None
    name = _PIL_FILTERS.get(value) if isinstance(value, int) else str(value).lower()
    if name not in _INTERPOLATIONS:
        raise WeightsError(f"{source}: interpolation {value!r} is not supported, only {', '.join(_INTERPOLATIONS)}")
    return name


def _number(value: Any) -> float | None:  # noqa: ANN401 - JSON
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None


def _channels(value: Any) -> Channels | None:  # noqa: ANN401 - JSON
    """Three numbers; one stands for all channels."""
    if isinstance(value, int | float):
        value = [value]
    if not isinstance(value, list | tuple) or len(value) not in {1, 3}:
        return None
    if not all(isinstance(number, int | float) for number in value):
        return None
    numbers = [float(number) for number in value]
    first, second, third = numbers * 3 if len(numbers) == 1 else numbers
    return first, second, third


def merge(stronger: RecipeFacts, weaker: RecipeFacts) -> RecipeFacts:
    """Facts of two sources; where both speak, the stronger counts."""
    said = {name: value for name in RecipeFacts.__slots__ if (value := getattr(stronger, name)) not in {None, ""}}
    return replace(weaker, **said)
