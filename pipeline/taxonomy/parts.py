"""A part of WordNet as a table: a file of classes to start from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.labels import imagenet_meanings
from pipeline.taxonomy.table import CLASS
from pipeline.taxonomy.tree import NO_GROUP, Taxonomy


@dataclass(frozen=True, slots=True)
class PartOfTree:
    """What ``--classes`` takes as a file.

    Attributes:
        header: ``class``, and the names of levels, the finest first.
        rows: For each class its name, and its groups; empty for none.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def take_part(taxonomy: Taxonomy, number: int, num_levels: int) -> PartOfTree:
    """The classes below a group, with the groups around them.

    The coarsest level has the groups right below it, the next one those below these, and so on. A group that has all
    classes of the group around it adds nothing, and is passed over: below ``dog.n.01`` there are kinds of dogs.

    Args:
        taxonomy: The tree.
        number: Of the group.
        num_levels: How many levels at most; there are fewer where there are no groups for them.
    """
    top = _branching(taxonomy, number)
    leaves = taxonomy.leaves_L[taxonomy.first_N[top] : taxonomy.last_N[top]].tolist()
    columns = []  # the coarsest first
    at = dict.fromkeys(leaves, top)
    for _ in range(num_levels):
        at = {leaf: _child_around(taxonomy, group, leaf) for leaf, group in at.items()}
        if all(group == NO_GROUP for group in at.values()):
            break
        columns.append(at)
    names = [
        _titles(taxonomy, list(column.values())) for column in reversed(columns or [dict.fromkeys(leaves, number)])
    ]
    header = (CLASS, *(f"level_{place}" for place in range(1, len(names) + 1)))
    return PartOfTree(header, tuple(zip(_class_texts(taxonomy, leaves), *names, strict=True)))


def _branching(taxonomy: Taxonomy, number: int) -> int:
    """The smallest group of the same classes."""
    size = taxonomy.last_N[number] - taxonomy.first_N[number]
    for below in taxonomy.children[number]:
        if taxonomy.last_N[below] - taxonomy.first_N[below] == size:
            return _branching(taxonomy, below)
    return number


def _child_around(taxonomy: Taxonomy, number: int, leaf: int) -> int:
    """The group right below a group that a class is in; :data:`NO_GROUP` if there is none."""
    if number == NO_GROUP:
        return NO_GROUP
    path = taxonomy.path_from(int(taxonomy.parent_of_leaf_K[leaf]))
    place = path.index(number)
    return _branching(taxonomy, path[place - 1]) if place else NO_GROUP


def _titles(taxonomy: Taxonomy, numbers: Sequence[int]) -> list[str]:
    """Readable names; those that several groups share stay ``crane.n.04``."""
    times = Counter(taxonomy.groups[number].title for number in {*numbers} - {NO_GROUP})
    shown = {
        number: group.title if times[group.title] == 1 else group.name
        for number, group in enumerate(taxonomy.groups)
        if number in {*numbers}
    }
    return [shown.get(number, "") for number in numbers]


def _class_texts(taxonomy: Taxonomy, leaves: Sequence[int]) -> list[str]:
    """``n02085620 Chihuahua``: the id is understood, whatever names a job has for ImageNet's classes."""
    names = taxonomy.class_names
    if meanings := imagenet_meanings(names):
        return [f"{meanings[leaf][0]} {names[leaf]}" for leaf in leaves]
    return [names[leaf] for leaf in leaves]
