"""The preprocessing that files give themselves: timm's configuration, Hugging Face's, the arguments of trainers.

Each is turned into the few facts that it states; what it leaves open is filled from a published recipe. What it asks
for and nothing here does is a :class:`Problem`, which the words of a request can settle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipeline.config.member_options import NORMALISATIONS, Channels, MemberOptions

_PIL_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
# Processors of transformers that resize the shorter side to size / crop_pct below this size, and squash from it on.
_CONVNEXT = "ConvNext"
_CONVNEXT_SQUASHES_FROM = 384
_CONVNEXT_CROP_PCT = 224 / 256
# Processors for which a size that is one number is that of the shorter side, and those for which it is both sides.
_SHORTER_SIDE = (_CONVNEXT, "CLIP", "Bit", "Levit", "MobileNetV1", "MobileNetV2", "MobileViT", "PoolFormer")
_BOTH_SIDES = ("ViT", "DeiT", "Beit", "EfficientNet")
_BYTE_SCALE = 1 / 255
_SIZES = ("resize", "crop")
_NORMALISATION = ("mean", "std")

Fit = Literal["short", "squash"]


@dataclass(frozen=True, slots=True)
class Problem:
    """What a preprocessing asks for and nothing here does, or what it leaves open and must not be guessed.

    Attributes:
        text: It, for a message.
        settled_by: Options of a request that settle it if all are given; empty if none do.
    """

    text: str
    settled_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RecipeFacts:
    """What is known of a preprocessing; None where nothing is said.

    Attributes:
        resize_px, crop_px, interpolation, fit: See :class:`pipeline.models.preprocessing.Geometry`.
        crop_pct: Side of the crop by the length of the resized shorter side, where ``resize_px`` follows from it.
        mean, std: Per channel, RGB, on the range 0-1.
        source: Where it is said, in words for people.
        problems: What stands against it.
    """

    resize_px: int | None = None
    crop_px: int | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    fit: Fit | None = None
    mean: Channels | None = None
    std: Channels | None = None
    source: str = ""
    problems: tuple[Problem, ...] = ()

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
    """
    size, mode = config.get("input_size"), config.get("crop_mode")
    problems = [*_check_square(size)]
    if mode not in {None, "center", "squash"}:
        problems.append(Problem(f"crop mode {mode!r} is not supported", _SIZES))
    interpolation, more = _interpolation(config.get("interpolation"))
    return RecipeFacts(
        crop_px=_input_side(size),
        crop_pct=_number(config.get("crop_pct")),
        interpolation=interpolation,
        fit="squash" if mode == "squash" else "short",
        mean=_channels(config.get("mean")),
        std=_channels(config.get("std")),
        source=source,
        problems=(*problems, *more),
    )


def facts_of_arguments(arguments: Mapping[str, Any]) -> RecipeFacts:
    """What the arguments of a trainer, saved beside the weights, say of the preprocessing that it evaluates with.

    timm's ``train.py`` stores None for what its user left out, torchvision's reference script its own defaults.
    """
    if "val_crop_size" in arguments:
        return _facts_of_torchvision(arguments)
    if not is_of_timm(arguments):
        return RecipeFacts()
    size = arguments.get("input_size")
    interpolation, problems = _interpolation(arguments.get("interpolation"))
    return RecipeFacts(
        crop_px=_input_side(size) or _pixels(arguments.get("img_size")),
        crop_pct=_number(arguments.get("crop_pct")),
        interpolation=interpolation,
        mean=_channels(arguments.get("mean")),
        std=_channels(arguments.get("std")),
        source="the arguments of timm's train.py in it",
        problems=(*_check_square(size), *problems),
    )


def is_of_timm(arguments: Mapping[str, Any]) -> bool:
    """Whether a trainer's arguments are those of timm's ``train.py``."""
    return "crop_pct" in arguments and "val_crop_size" not in arguments


def _check_square(size: Any) -> tuple[Problem, ...]:  # noqa: ANN401 - JSON, or what a trainer saved
    if size is None or _input_side(size) is not None:
        return ()
    shown = " x ".join(map(str, size)) if isinstance(size, list | tuple) else size
    return (Problem(f"inputs of {shown} are not supported, only square ones", _SIZES),)


def _facts_of_torchvision(arguments: Mapping[str, Any]) -> RecipeFacts:
    """The preset of torchvision's ``references/classification``, which always normalises by ImageNet's mean."""
    interpolation, problems = _interpolation(arguments.get("interpolation"))
    mean, std = NORMALISATIONS["imagenet"]
    return RecipeFacts(
        resize_px=_pixels(arguments.get("val_resize_size")),
        crop_px=_pixels(arguments.get("val_crop_size")),
        interpolation=interpolation,
        fit="short",
        mean=mean,
        std=std,
        source="the arguments of torchvision's train.py in it",
        problems=problems,
    )


def facts_of_processor(config: Mapping[str, Any], source: str) -> RecipeFacts:
    """What the ``preprocessor_config.json`` of transformers says.

    Its kinds of size: ``{"height", "width"}`` squashes to it; ``{"shortest_edge"}`` keeps the aspect ratio; one number
    is either, by the kind of the processor. ConvNeXt's resizes to ``shortest_edge / crop_pct`` and crops, from 384
    pixels on it squashes.
    """
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    geometry, problems = _processor_geometry(config, kind)
    interpolation, more = _interpolation(config.get("resample"))
    problems += more
    mean, std = (_channels(config.get(f"image_{name}")) for name in ("mean", "std"))
    if config.get("do_normalize") is False:
        mean, std = NORMALISATIONS["none"]
    elif mean is None or std is None:
        problems += (Problem("the mean and deviation of its pixels are not said", _NORMALISATION),)
    scale = _number(config.get("rescale_factor")) if config.get("do_rescale") is not False else 1.0
    if scale is not None and not math.isclose(scale, _BYTE_SCALE, rel_tol=1e-3):  # pixels are on 0-255 * scale there
        problems += (Problem(f"pixels are scaled by {scale:g} and not by 1/255", _NORMALISATION),)
    if config.get("do_flip_channel_order"):
        problems += (Problem("its channels are in the order blue, green, red, which is not supported"),)
    return replace(geometry, interpolation=interpolation, mean=mean, std=std, source=source, problems=problems)


def _processor_geometry(config: Mapping[str, Any], kind: str) -> tuple[RecipeFacts, tuple[Problem, ...]]:
    """Sizes and fit of a processor."""
    size, fit = _processor_size(config.get("size"), kind)
    if config.get("do_resize") is False:
        return RecipeFacts(), (Problem("images are not resized", _SIZES),)
    if size is None:
        return RecipeFacts(), (Problem(f"a size of {config.get('size')!r} is not understood, or not square", _SIZES),)
    crop = config.get("crop_size")
    if crop is not None and config.get("do_center_crop", True):
        if (side := _side(crop)) is None:
            return RecipeFacts(), (Problem(f"a crop of {crop!r} is not understood, or not square", _SIZES),)
        return RecipeFacts(resize_px=size, crop_px=side, fit=fit), ()
    if kind.startswith(_CONVNEXT):
        if size >= _CONVNEXT_SQUASHES_FROM:
            return RecipeFacts(resize_px=size, crop_px=size, fit="squash"), ()
        crop_pct = _number(config.get("crop_pct")) or _CONVNEXT_CROP_PCT
        return RecipeFacts(resize_px=int(size / crop_pct), crop_px=size, fit="short"), ()
    if fit == "short":
        return RecipeFacts(), (Problem("images are resized by their shorter side and not cropped", _SIZES),)
    return RecipeFacts(resize_px=size, crop_px=size, fit=fit), ()


def _processor_size(size: Any, kind: str) -> tuple[int | None, Fit]:  # noqa: ANN401 - JSON
    """Side to which images are resized, and how; None where it is not understood."""
    if isinstance(size, Mapping) and "shortest_edge" in size:
        return _pixels(size["shortest_edge"]), "short"
    if isinstance(size, int):
        if kind.startswith(_SHORTER_SIDE):
            return _pixels(size), "short"
        if kind and not kind.startswith(_BOTH_SIDES):
            return None, "squash"
    return _side(size), "squash"


def _side(size: Any) -> int | None:  # noqa: ANN401 - JSON
    """The side of a square: ``224``, ``[224, 224]``, ``{"height": 224, "width": 224}``; None for anything else."""
    sides = [size.get("height"), size.get("width")] if isinstance(size, Mapping) else size
    if isinstance(sides, list):
        size = sides[0] if len(sides) == 2 and sides[0] == sides[1] else None
    return _pixels(size)


def _input_side(size: Any) -> int | None:  # noqa: ANN401 - JSON, or what a trainer saved
    """The side of a square: ``[channels, height, width]``, or one number; None for anything else."""
    if isinstance(size, int):
        return _pixels(size)
    if not isinstance(size, list | tuple) or len(size) != 3 or size[1] != size[2]:
        return None
    return _pixels(size[1])


def _pixels(value: Any) -> int | None:  # noqa: ANN401 - JSON
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _interpolation(value: Any) -> tuple[str | None, tuple[Problem, ...]]:  # noqa: ANN401 - JSON
    if value is None or value in ("", "random"):  # random is what timm trains with; it evaluates with its default then
        return None, ()
    name = _PIL_FILTERS.get(value) if isinstance(value, int) else str(value).lower()
    if name in _INTERPOLATIONS:
        return name, ()
    return None, (Problem(f"interpolation {value!r} is not supported, only {', '.join(_INTERPOLATIONS)}", ("interp",)),)


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
    said = {name: value for name in RecipeFacts.__slots__ if (value := getattr(stronger, name)) not in (None, "", ())}
    return replace(weaker, **said)
