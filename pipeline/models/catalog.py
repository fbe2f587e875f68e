"""Which networks there are, how each is built, and what is published for it."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from torch import nn
from torchvision import models as tv

from pipeline.errors import ModelError
from pipeline.models.recipe import Recipe, timm_recipe, torchvision_recipe

if TYPE_CHECKING:
    from collections.abc import Callable

TIMM_PREFIX = "timm/"

# Auxiliary heads serve training only. The published weights of both networks were ported from
# checkpoints that expect inputs normalised to [-1, 1], which transform_input restores.
_BUILD_OPTIONS: Mapping[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "transform_input": True, "init_weights": False},
    "inception_v3": {"aux_logits": False, "transform_input": True, "init_weights": False},
}
TRAINING_ONLY_KEYS = re.compile(r"^(aux1|aux2|AuxLogits)\.")


@dataclass(frozen=True, slots=True)
class Published:
    """Weights that somebody published for an architecture.

    Attributes:
        name: ``IMAGENET1K_V2`` and the like; timm's tag.
        file_name: The name its file has when downloaded.
        url: Where torchvision gets it, or None.
        hub_id: Its repository on the Hugging Face hub, or None.
        recipe: Its preprocessing.
    """

    name: str
    file_name: str
    url: str | None
    hub_id: str | None
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class Architecture:
    """One architecture, of torchvision or of timm.

    Attributes:
        name: As it is asked for: ``resnet50``, ``timm/legacy_xception``.
        published: What is published, the default first.
    """

    name: str
    published: tuple[Published, ...]

    @property
    def short_name(self) -> str:
        """Its name without ``timm/``."""
        return self.name.removeprefix(TIMM_PREFIX)

    def build(self, num_classes: int) -> nn.Module:
        """A network without weights, in evaluation mode."""
        if self.name.startswith(TIMM_PREFIX):
            import timm

            network: nn.Module = timm.create_model(self.short_name, pretrained=False, num_classes=num_classes)
        else:
            options = _BUILD_OPTIONS.get(self.name, {})
            network = tv.get_model(self.name, weights=None, num_classes=num_classes, **options)
        return network.eval()

    def choose(self, name: str | None) -> Published:
        """The published weights of a name, or the default.

        Raises:
            ModelError: There are none of that name.
        """
        if name is None:
            return self.published[0]
        for entry in self.published:
            if entry.name.lower() == name.lower():
                return entry
        known = ", ".join(entry.name for entry in self.published)
        raise ModelError(f"{self.name} has no weights called {name!r}; it has {known}")

    def matching(self, file_name: str) -> Published | None:
        """The published weights whose file has this name."""
        return next((entry for entry in self.published if entry.file_name == file_name), None)


@functools.cache
def torchvision_names() -> tuple[str, ...]:
    """Names of torchvision's image classifiers."""
    return tuple(tv.list_models(module=tv))


def find(name: str) -> Architecture:
    """Look an architecture up.

    Raises:
        ModelError: It is unknown; the message lists the closest names.
    """
    if name.startswith(TIMM_PREFIX):
        return _timm(name)
    if name not in torchvision_names():
        raise ModelError(_unknown(name, torchvision_names(), _timm_names))
    weights = tv.get_model_weights(name)
    default = weights.DEFAULT  # type: ignore[attr-defined]  # every weights enum has one
    entries = [default, *(entry for entry in weights if entry is not default)]
    return Architecture(name, tuple(_torchvision_entry(entry) for entry in entries))


def _torchvision_entry(entry: Any) -> Published:  # noqa: ANN401 - torchvision's enums have no common public type
    file_name = PurePosixPath(urlsplit(entry.url).path).name
    return Published(entry.name, file_name, entry.url, None, torchvision_recipe(entry))


def _timm_names() -> tuple[str, ...]:
    import timm

    return tuple(TIMM_PREFIX + name for name in timm.list_models())


def _timm(name: str) -> Architecture:
    import timm
    from timm.data import resolve_data_config
    from timm.models import get_pretrained_cfg

    short = name.removeprefix(TIMM_PREFIX)
    if not timm.is_model(short):
        raise ModelError(_unknown(name, _timm_names(), lambda: ()))
    config = get_pretrained_cfg(short, allow_unregistered=True)
    details = config.to_dict() if config is not None else {}
    try:
        recipe = timm_recipe(resolve_data_config({}, pretrained_cfg=details))
    except ValueError as error:
        raise ModelError(f"{name}: {error}") from error
    url = details.get("url") or None
    file_name = PurePosixPath(urlsplit(url).path).name if url else f"{short}.safetensors"
    entry = Published(details.get("tag") or "default", file_name, url, details.get("hf_hub_id") or None, recipe)
    return Architecture(name, (entry,))


def _unknown(name: str, known: tuple[str, ...], more: Callable[[], tuple[str, ...]]) -> str:
    near = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
    near += [other for other in more() if other.removeprefix(TIMM_PREFIX) == name]
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    return f"unknown model {name!r}{hint}"
