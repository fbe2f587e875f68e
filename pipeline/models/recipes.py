"""The preprocessing of a member: what the request says, what its file says of itself, or a published recipe."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from pipeline.checkpoints.own_recipe import RecipeFacts, facts_of_options, merge
from pipeline.config.member_options import NORMALISATIONS, MemberOptions
from pipeline.errors import WeightsError
from pipeline.models.catalog import PublishedWeights
from pipeline.models.preprocessing import Geometry, Recipe

_WORDS = ("resize", "crop", "interp", "fit", "mean", "std")


@dataclass(frozen=True, slots=True)
class ChosenRecipe:
    """A preprocessing, and where it comes from.

    Attributes:
        recipe: It.
        source: Where it comes from, in words for people.
        note: What a user should know, if it is a guess; else empty.
    """

    recipe: Recipe
    source: str
    note: str = ""


def choose_recipe(
    options: MemberOptions, facts: RecipeFacts, published: PublishedWeights, *, is_guess: bool, where: str
) -> ChosenRecipe:
    """Choose the preprocessing of a member: the request counts before the file, and the file before what is published.

    Args:
        options: What the request says.
        facts: What the file says of itself.
        published: Weights whose recipe fills what is left open.
        is_guess: Whether nothing is known but the architecture.
        where: The file, for messages.

    Raises:
        WeightsError: What is said does not go together, or the file asks for what nothing here does.
    """
    words = [name for name in _WORDS if getattr(options, name) is not None]
    for problem in facts.problems:
        if not problem.settled_by or not set(problem.settled_by) <= set(words):
            advice = "&".join(f"{word}=.." for word in problem.settled_by)
            raise WeightsError(f"{where}: {facts.source}: {problem.text}" + (f"; say FILE?{advice}" if advice else ""))
    said = facts_of_options(options)
    recipe = fill(said, fill(facts, published.recipe, where), where)
    if is_guess and not facts.source and not words:
        note = (
            f"its preprocessing is not known; that of {published.name} is taken, {describe(recipe)}; "
            "say another with FILE?resize=256&crop=224&interp=bilinear&mean=imagenet"
        )
        return ChosenRecipe(recipe, f"a guess: {published.name}", note)
    sources = [f"{', '.join(words)} as requested"] if words else []
    sources += [facts.source] if facts.source else []
    sources += [] if merge(said, facts).is_complete else [published.name]
    return ChosenRecipe(recipe, "; ".join(sources))


def fill(facts: RecipeFacts, base: Recipe, where: str = "") -> Recipe:
    """Fill what facts leave open from a recipe.

    A new crop without a resize keeps the proportion of the two; with ``squash`` both are the same.

    Raises:
        WeightsError: The crop would be larger than the resized picture.
    """
    geometry = base.geometry
    crop_px = facts.crop_px or geometry.crop_px
    fit = facts.fit or geometry.fit
    crop_pct = facts.crop_pct or (1.0 if facts.fit == "squash" else geometry.crop_px / geometry.resize_px)
    resize_px = facts.resize_px or math.floor(crop_px / crop_pct + 1e-6)
    if resize_px < crop_px:
        raise WeightsError(
            f"{where}: a crop of {crop_px} pixels does not fit into pictures resized to {resize_px}; "
            f"say both: ?resize={crop_px}&crop={crop_px}"
        )
    return dataclasses.replace(
        base,
        geometry=Geometry(resize_px, crop_px, facts.interpolation or geometry.interpolation, fit),
        mean=facts.mean or base.mean,
        std=facts.std or base.std,
    )


def describe(recipe: Recipe) -> str:
    """A recipe in the words of a request."""
    geometry = recipe.geometry
    words = f"resize={geometry.resize_px}&crop={geometry.crop_px}&interp={geometry.interpolation}"
    words += "&fit=squash" if geometry.fit == "squash" else ""
    named = next((name for name, values in NORMALISATIONS.items() if values == (recipe.mean, recipe.std)), None)
    if named is not None:
        return f"{words}&mean={named}"
    mean, std = ("/".join(f"{number:g}" for number in numbers) for numbers in (recipe.mean, recipe.std))
    return f"{words}&mean={mean}&std={std}"
