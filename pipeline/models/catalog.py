"""The model catalogue: the architectures, how to build them, and their published weights."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.models.families import family_of
from pipeline.models.known_names import TIMM_PREFIX, PublishesWeights, unknown_name
from pipeline.models.preprocessing import Recipe, timm_recipe, torchvision_recipe
from pipeline.vision import models as tv
from pipeline.vision import timm_package

_TORCHVISION_LICENCE = "BSD-3-Clause"  # licence of the library; most weights have no other

# Auxiliary heads serve training only. The published weights of both networks were ported from
# checkpoints that expect inputs normalised to [-1, 1], which transform_input restores.
_BUILD_OPTIONS: Mapping[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "transform_input": True, "init_weights": False},
    "inception_v3": {"aux_logits": False, "transform_input": True, "init_weights": False},
}


@dataclass(frozen=True, slots=True)
class WeightsInfo:
    """Published facts about weights; None if not published.

    Attributes:
        num_params: Number of parameters.
        gmacs: Multiply-accumulates for one image, in units of 10^9.
        top1, top5: Accuracy on ImageNet's validation set, percent.
        file_mb: Size of the file, in units of 2^20 bytes.
        licence: Name or address.
    """

    num_params: int | None = None
    gmacs: float | None = None
    top1: float | None = None
    top5: float | None = None
    file_mb: float | None = None
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """Published weights of an architecture.

    Attributes:
        name: ``IMAGENET1K_V2`` and the like; timm's tag.
        file_name: Name of its file when downloaded.
        url: Where torchvision downloads it from, or None.
        hub_id: Its repository on the Hugging Face hub, or None.
        recipe: Its preprocessing.
        info: Published facts about it.
        crop_pct: Side of the crop by the length of the resized shorter side, where its authors say that and not pixels.
    """

    name: str
    file_name: str
    url: str | None
    hub_id: str | None
    recipe: Recipe
    info: WeightsInfo = WeightsInfo()
    crop_pct: float | None = None


@dataclass(frozen=True, slots=True)
class Architecture(PublishesWeights[PublishedWeights]):
    """One architecture, of torchvision or of timm.

    Attributes:
        name: Its name, as ``-m`` takes it: ``resnet50``, ``timm/legacy_xception``.
        published: Its published weights, the default first.
    """

    name: str
    published: tuple[PublishedWeights, ...]

    @property
    def short_name(self) -> str:
        """Its name without ``timm/``."""
        return self.name.removeprefix(TIMM_PREFIX)

    @property
    def transforms_input(self) -> bool:
        """Whether its networks may normalise their input once more."""
        return "transform_input" in _BUILD_OPTIONS.get(self.name, {})

    @property
    def _is_timm(self) -> bool:
        return self.name.startswith(TIMM_PREFIX)

    def build(
        self, num_classes: int, input_px: int | None = None, options: Mapping[str, Any] = MappingProxyType({})
    ) -> nn.Module:
        """Build a network with random weights, in evaluation mode.

        Args:
            num_classes: Size of its head.
            input_px: Side of its input, pixels, if the network depends on it (torchvision's ViT); None for the
                architecture's default.
            options: More arguments of its constructor.
        """
        if self._is_timm:
            create = timm_package().create_model
            network: nn.Module = create(self.short_name, pretrained=False, num_classes=num_classes, **options)
        else:
            options = {**_BUILD_OPTIONS.get(self.name, {}), **options}
            if input_px is not None and self.name.startswith("vit_"):
                options["image_size"] = input_px
            network = tv.get_model(self.name, weights=None, num_classes=num_classes, **options)
        return network.eval()

    @property
    def checkpoint_converter(self) -> Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]] | None:
        """Function of timm that converts an author's checkpoint to timm's names, given the network; or None."""
        if not self._is_timm:
            return None
        module = sys.modules[timm_package().models.model_entrypoint(self.short_name).__module__]
        return getattr(module, "checkpoint_filter_fn", None)

    @property
    def namesake(self) -> Architecture | None:
        """Torchvision's architecture of the same name; None for its own, and where it has none."""
        name = self.short_name.partition(".")[0]
        return find(name) if self._is_timm and name in torchvision_names() else None

    @property
    def is_port(self) -> bool:
        """Whether its published weights are timm's copy of torchvision's, with the same preprocessing."""
        return self.short_name.partition(".")[2].startswith("tv")

    def has_namesake_for(self, file_name: str) -> bool:
        """Whether torchvision published a file of this name for its own architecture of the same name."""
        return self.namesake is not None and self.namesake.matching(file_name) is not None


@functools.cache
def torchvision_names() -> tuple[str, ...]:
    """Names of torchvision's image classifiers."""
    return tuple(tv.list_models(module=tv))


def is_architecture(name: str) -> bool:
    """Whether torchvision or timm has an architecture of this name, without ``timm/``."""
    return name in torchvision_names() or bool(timm_package().is_model(name))


def find(name: str) -> Architecture:
    """Find an architecture by name.

    Raises:
        ModelError: It is unknown; the message lists similar names.
    """
    if name.startswith(TIMM_PREFIX):
        return _find_timm(name)
    if name not in torchvision_names():
        raise ModelError(_unknown_message(name))
    weights = tv.get_model_weights(name)
    default = weights.DEFAULT
    entries = [default, *(entry for entry in weights if entry is not default and _has_head(entry))]
    return Architecture(name, tuple(_from_torchvision(entry) for entry in entries))


def _has_head(entry: Any) -> bool:  # noqa: ANN401 - torchvision's enums have no common public type
    """Whether weights have a classifier head; VGG16's IMAGENET1K_FEATURES have none, and an accuracy of NaN."""
    return not any(math.isnan(value) for value in entry.meta["_metrics"].get("ImageNet-1K", {}).values())


def _from_torchvision(entry: Any) -> PublishedWeights:  # noqa: ANN401 - torchvision's enums have no common public type
    meta = entry.meta
    accuracy = meta["_metrics"].get("ImageNet-1K", {})
    info = WeightsInfo(
        num_params=meta["num_params"],
        gmacs=meta["_ops"],
        top1=accuracy.get("acc@1"),
        top5=accuracy.get("acc@5"),
        file_mb=meta["_file_size"],
        licence=meta.get("license", _TORCHVISION_LICENCE),
    )
    return PublishedWeights(entry.name, _file_name(entry.url), entry.url, None, torchvision_recipe(entry), info)


def _file_name(url: str) -> str:
    return PurePosixPath(urlsplit(url).path).name


def _find_timm(name: str) -> Architecture:
    timm = timm_package()
    short = name.removeprefix(TIMM_PREFIX)
    if successor := timm.models.get_deprecated_models().get(short):
        raise ModelError(f"{name} is now called {TIMM_PREFIX}{successor}")
    if not timm.is_model(short):
        raise ModelError(_unknown_message(name))
    try:
        config = timm.models.get_pretrained_cfg(short, allow_unregistered=True)
    except RuntimeError as error:  # a tag that does not exist
        known = [TIMM_PREFIX + other for other in timm.list_pretrained(f"{short.split('.')[0]}.*")]
        raise ModelError(f"{name}: no such weights; there are {', '.join(known) or 'none'}") from error
    if config is None:
        raise ModelError(f"{name}: timm does not define its preprocessing, so it cannot be used")
    details = config.to_dict()
    try:
        resolved = timm.data.resolve_data_config({}, pretrained_cfg=details)
        recipe = timm_recipe(resolved)
    except ValueError as error:
        raise ModelError(f"{name}: {error}") from error
    url = details.get("url") or None
    file_name = _file_name(url) if url else f"{short}.safetensors"
    tag = details.get("tag") or "default"
    family = family_of(name)
    top1, top5 = (family.accuracy if family else {}).get(f"{short.split('.')[0]}.{tag}", (None, None))
    info = WeightsInfo(top1=top1, top5=top5, licence=details.get("license"))
    hub_id = details.get("hf_hub_id") or None
    entry = PublishedWeights(tag, file_name, url, hub_id, recipe, info, resolved["crop_pct"])
    return Architecture(name, (entry,))


def _unknown_message(name: str) -> str:
    timm = timm_package()
    return unknown_name(name, torchvision_names(), timm.list_models(), timm.models.get_deprecated_models())
