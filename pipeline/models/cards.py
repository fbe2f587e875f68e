"""Model cards: what ``shardlabel models`` shows of an architecture and its published weights."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.errors import ModelError
from pipeline.models.catalog import Architecture, PublishedWeights, WeightsInfo
from pipeline.models.cost import known_cost
from pipeline.models.families import family_of
from pipeline.models.known_names import TIMM_PREFIX
from pipeline.models.locate import AmbiguousWeightsError, Locator
from pipeline.models.networks import NetworkShape

_HUB_PAGE = "https://huggingface.co/"
_IMAGENET_CLASSES = 1000


@dataclass(frozen=True, slots=True)
class WeightsCard:
    """Published weights, as ``shardlabel models`` shows them; None for what is not published.

    Attributes:
        weights: Its name, as in ``ARCH@WEIGHTS``.
        num_params, gmacs, top1, top5, file_mb, licence: See :class:`pipeline.models.catalog.WeightsInfo`.
        input_px: Side of the network's square input, pixels.
        resize_px: Length of the shorter side before the crop (of both sides, with ``fit`` squash), pixels.
        interpolation: Interpolation of the resize.
        fit: ``short`` keeps the aspect ratio, ``squash`` does not.
        mean, std: Per channel, RGB, on the range 0-1.
        weights_file: Name of its file.
        url: Where it is published.
        found: Path or URI of the file here; None if it is not here.
    """

    weights: str
    num_params: int | None
    gmacs: float | None
    top1: float | None
    top5: float | None
    file_mb: float | None
    licence: str | None
    input_px: int
    resize_px: int
    interpolation: str
    fit: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights_file: str
    url: str | None
    found: str | None


@dataclass(frozen=True, slots=True)
class ArchitectureCard:
    """An architecture and all its published weights, the default first."""

    name: str
    library: Literal["torchvision", "timm"]
    family: str | None
    year: int | None
    paper: str | None
    paper_url: str | None
    published: tuple[WeightsCard, ...]

    def to_dict(self) -> dict[str, Any]:
        """Make a dict for JSON, with the fields of the default weights at the top level as well."""
        values = dataclasses.asdict(self)
        return {**values, **values["published"][0], "published": values["published"]}


def make_card(architecture: Architecture, locator: Locator, *, counted: bool) -> ArchitectureCard:
    """Make the card of an architecture.

    Args:
        architecture: The architecture.
        locator: Searches for the files of its weights.
        counted: Whether to count parameters and operations that are not published, about a second each.
    """
    family = family_of(architecture.name)
    return ArchitectureCard(
        name=architecture.name,
        library="timm" if architecture.name.startswith(TIMM_PREFIX) else "torchvision",
        family=family.name if family else None,
        year=family.year if family else None,
        paper=family.paper if family else None,
        paper_url=family.url if family else None,
        published=tuple(
            _weights_card(architecture, entry, locator, counted=counted) for entry in architecture.published
        ),
    )


def _weights_card(
    architecture: Architecture, entry: PublishedWeights, locator: Locator, *, counted: bool
) -> WeightsCard:
    geometry = entry.recipe.geometry
    info = _count_missing(architecture, entry) if counted else entry.info
    return WeightsCard(
        weights=entry.name,
        **dataclasses.asdict(info),
        input_px=geometry.crop_px,
        resize_px=geometry.resize_px,
        interpolation=geometry.interpolation,
        fit=geometry.fit,
        mean=entry.recipe.mean,
        std=entry.recipe.std,
        weights_file=entry.file_name,
        url=_HUB_PAGE + entry.hub_id if entry.hub_id else entry.url,
        found=_find_file(architecture, entry, locator),
    )


def _count_missing(architecture: Architecture, entry: PublishedWeights) -> WeightsInfo:
    """Published facts; parameters and operations are counted if they are not published."""
    info = entry.info
    if info.num_params is not None:
        return info
    try:
        cost = known_cost(NetworkShape(architecture, _IMAGENET_CLASSES, entry.recipe.geometry.crop_px))
    except ModelError:
        return info
    return dataclasses.replace(info, num_params=cost.num_params, gmacs=cost.macs / 1e9)


def _find_file(architecture: Architecture, entry: PublishedWeights, locator: Locator) -> str | None:
    """Find the file of exactly these weights; None if it is not here, or if several files may be it."""
    try:
        return locator.find_local(architecture, entry, by_name=True)
    except AmbiguousWeightsError:
        return None
