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
    options: MemberOptions,
    facts: RecipeFacts,
    published: PublishedWeights,
    *,
    input_px: int,
    is_guess: bool,
    where: str,
) -> ChosenRecipe:
    """Choose the preprocessing of a member: the request counts before the file, and the file before what is published.

    Args:
        options: What the request says.
        facts: What the file says of itself.
        published: Weights whose recipe fills what is left open.
        input_px: Side of the network's input, pixels: what the request or the file says, or what its tensors tell.
        is_guess: Whether nothing is known of its sizes but the architecture.
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
    facts_used, base = merge(said, facts), published.recipe
    resize_px = _resize_px(said, facts, published, input_px)
    if resize_px < input_px:
        raise WeightsError(
            f"{where}: a crop of {input_px} pixels does not fit into pictures resized to {resize_px}; "
            f"say both: ?resize={input_px}&crop={input_px}"
        )
    interpolation = facts_used.interpolation or base.geometry.interpolation
    recipe = dataclasses.replace(
        base,
        geometry=Geometry(resize_px, input_px, interpolation, facts_used.fit or base.geometry.fit),
        mean=facts_used.mean or base.mean,
        std=facts_used.std or base.std,
    )
    if is_guess and not words:
        note = (
            f"its preprocessing is not known; that of {published.name} is taken, as FILE?{describe(recipe)} says it; "
            "if it was trained with another, say that"
        )
        return ChosenRecipe(recipe, "; ".join(filter(None, (facts.source, f"a guess: {published.name}"))), note)
    sources = [f"{', '.join(words)} as requested"] if words else []
    sources += [facts.source] if facts.source else []
    sources += [] if facts_used.is_complete else [published.name]
    return ChosenRecipe(recipe, "; ".join(sources))


def _resize_px(said: RecipeFacts, facts: RecipeFacts, published: PublishedWeights, input_px: int) -> int:
    """Length of the shorter side after resizing, pixels: another input keeps the proportion of the two.

    Where ``squash`` is said, both are the same, if nothing else is.
    """
    if said.resize_px is not None:
        return said.resize_px
    if said.fit == "squash":
        return input_px
    if facts.crop_pct is not None:
        return math.floor(input_px / facts.crop_pct)
    if facts.resize_px is not None:
        return input_px * facts.resize_px // (facts.crop_px or input_px)
    if facts.fit == "squash":
        return input_px
    if published.crop_pct is not None:
        return math.floor(input_px / published.crop_pct)
    return input_px * published.recipe.geometry.resize_px // published.recipe.geometry.crop_px


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
