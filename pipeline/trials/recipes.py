"""Which of the usual preprocessings suits a checkpoint: its network run over images whose class is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.config.member_options import NORMALISATIONS
from pipeline.models.classifier import Classifier
from pipeline.models.preprocessing import Geometry, Recipe, crop
from pipeline.models.recipes import describe
from pipeline.models.weights import ResolvedMember
from pipeline.trials.known_images import KnownImage
from pipeline.trust.intervals import Gain, Interval, paired_gain, wilson_interval

_BATCH_IMAGES = 16
_CERTAIN = 0.05  # p-value, shared among the comparisons by Bonferroni's rule

Watch = Callable[[str, int, int], None]  # a recipe, how many are done, how many there are


@dataclass(frozen=True, slots=True)
class TriedRecipe:
    """A preprocessing, and how often the network is right with it.

    Attributes:
        words: As a request says it: ``resize=256&crop=224&interp=bilinear``.
        top1: Share of images whose first class is right, 0-1.
        interval: Wilson's 95 % interval of it.
        gain: Against the present preprocessing, on the same images; None for that one.
    """

    words: str
    top1: float
    interval: Interval
    gain: Gain | None


@dataclass(frozen=True, slots=True)
class RecipeTrial:
    """What came of a trial.

    Attributes:
        num_images: Images with known class.
        tried: The present preprocessing first, then the others, the best first.
        better: The one that is certainly better than the present one; None if the images do not tell.
    """

    num_images: int
    tried: tuple[TriedRecipe, ...]
    better: TriedRecipe | None

    def to_dict(self) -> dict[str, Any]:
        """Make a dict for JSON."""
        return dataclasses.asdict(self)


def try_recipes(member: ResolvedMember, images: Sequence[KnownImage], watch: Watch = lambda *_: None) -> RecipeTrial:
    """Run a network over images with its own preprocessing and the usual ones: normalisations first, then sizes.

    Args:
        member: The network, with the preprocessing that it has now.
        images: At least one.
        watch: Called before each.
    """
    classifier = Classifier(member.spec, member.blob, torch.device("cpu"), "fp32", batch_size=_BATCH_IMAGES)
    labels_N = np.array([image.label for image in images])
    right: dict[Recipe, np.ndarray] = {}

    def run(recipes: Iterator[Recipe]) -> Recipe:
        """Try recipes; returns the one with the most right images, the earliest of equals."""
        listed = [recipe for recipe in dict.fromkeys(recipes) if recipe not in right]
        for number, recipe in enumerate(listed):
            watch(describe(recipe), number, len(listed))
            right[recipe] = _predict(classifier.with_recipe(recipe), images) == labels_N
        return max(right, key=lambda recipe: int(right[recipe].sum()))

    own = member.spec.recipe
    best = run(_normalisations(own))
    run(_sizes(best))
    return _compare(own, right)


def _predict(classifier: Classifier, images: Sequence[KnownImage]) -> np.ndarray:
    """The first class of each image, int64 (N,)."""
    geometry = classifier.spec.recipe.geometry
    found = []
    for at in range(0, len(images), _BATCH_IMAGES):
        crops = torch.stack([crop(image.pixels_CHW, geometry) for image in images[at : at + _BATCH_IMAGES]])
        found.append(classifier.logits(crops).argmax(dim=1).numpy())
    return np.concatenate(found)


def _normalisations(own: Recipe) -> Iterator[Recipe]:
    yield own
    for mean, std in NORMALISATIONS.values():
        yield dataclasses.replace(own, mean=mean, std=std)


def _sizes(recipe: Recipe) -> Iterator[Recipe]:
    """The usual sizes for a network's input: the crop as it is, what is around it differs."""
    side = recipe.geometry.crop_px
    for interpolation in ("bilinear", "bicubic"):
        for crop_pct in (0.875, 0.95, 1.0):
            yield dataclasses.replace(recipe, geometry=Geometry(int(side / crop_pct), side, interpolation))
        yield dataclasses.replace(recipe, geometry=Geometry(side, side, interpolation, "squash"))


def _compare(own: Recipe, right: dict[Recipe, np.ndarray]) -> RecipeTrial:
    total = len(right[own])
    tried = [_tried(recipe, right[recipe], None if recipe == own else right[own]) for recipe in right]
    present, *others = tried
    others.sort(key=lambda one: -one.top1)
    enough = _CERTAIN / max(1, len(others))
    better = next((one for one in others if one.gain and one.gain.difference > 0 and one.gain.p_value < enough), None)
    return RecipeTrial(total, (present, *others), better)


def _tried(recipe: Recipe, right_N: np.ndarray, present_N: np.ndarray | None) -> TriedRecipe:
    num_right, total = int(right_N.sum()), len(right_N)
    gain = None
    if present_N is not None:
        gain = paired_gain("now", int((right_N & ~present_N).sum()), int((present_N & ~right_N).sum()), total)
    return TriedRecipe(describe(recipe), num_right / total, wilson_interval(num_right, total), gain)
