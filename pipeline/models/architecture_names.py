"""Names of architectures: all of them, or those of a family or a pattern."""

from __future__ import annotations

import fnmatch

from pipeline.errors import ModelError
from pipeline.models.catalog import find, torchvision_names
from pipeline.models.families import families
from pipeline.models.known_names import TIMM_PREFIX
from pipeline.vision import timm_package


def list_names(name: str | None) -> list[str]:
    """List the names of architectures.

    Args:
        name: An architecture, a family, or a pattern (``resnet*``, ``timm/*xception*``); None for all of torchvision
            and the families that only timm has.

    Raises:
        ModelError: No name matches the pattern.
    """
    known = [arch for family in families() for arch in family.architectures]
    known += [arch for arch in torchvision_names() if arch not in known]  # newer than the list of families
    if name is None:
        return known
    if any(sign in name for sign in "*?["):
        names = _timm_names() if name.startswith(TIMM_PREFIX) else known
        if not (found := fnmatch.filter(names, name)):
            raise ModelError(f"no model is called like {name!r}; patterns for timm begin with {TIMM_PREFIX}")
        return [arch for arch in found if _is_usable(arch)]
    family = next((family for family in families() if family.name.casefold() == name.casefold()), None)
    if name not in known and family is not None:
        return list(family.architectures)
    return [name]


def _timm_names() -> list[str]:
    """All of timm's names; they contain the tag of the published weights."""
    return [TIMM_PREFIX + arch for arch in timm_package().list_models(pretrained=True)]


def _is_usable(arch: str) -> bool:
    """Whether an architecture can be used; some of timm's have inputs or crops that are not supported."""
    try:
        find(arch)
    except ModelError:
        return False
    return True
