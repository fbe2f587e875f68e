"""A tree of groups above the K classes of a job, which are its leaves."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.taxonomy.member_columns import MemberColumn

NO_GROUP = -1  # where a class lies in no group, or a group in no other

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Group:
    """A group of classes.

    Attributes:
        name: As the file has it, or ``dog.n.01``. Unique among the groups of its level.
        title: A name to read: ``dog``; may be that of several groups of WordNet.
        level: Name of its level; empty in a tree without levels.
        parent: Number of the smallest group around it; :data:`NO_GROUP` if there is none.
    """

    name: str
    title: str
    level: str
    parent: int


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """A level: groups that share no class.

    Attributes:
        name: Of its column.
        names: Of its G groups, in the order of their first classes.
        groups_G: int32, (G,), their numbers in the tree.
        group_of_leaf_K: int32, (K,), for each class which of the G groups it is in; :data:`NO_GROUP` for none.
    """

    name: str
    names: tuple[str, ...]
    groups_G: Array
    group_of_leaf_K: Array


@dataclass(frozen=True, eq=False)
class Taxonomy:
    """N groups above K classes, as a tree, or several beside each other.

    Groups are numbered from above: each behind its parent, beside each other in the order of their first classes. So
    the numbers depend on what is in the file, and not on its order. Arrays cannot be written to.

    Attributes:
        source: Where it is from, for messages.
        class_names: Of the K classes.
        groups: The N groups.
        level_names: Finest first; empty for a tree without levels.
        parent_of_leaf_K: int32, (K,), the smallest group around each class; :data:`NO_GROUP` for none.
        leaves_L: int32, (L,), the classes that are in a group, so ordered that each group's lie together.
        first_N: int32, (N,), where in ``leaves_L`` the classes of a group begin.
        last_N: int32, (N,), where they end, exclusive.
        member_columns: What the file says of members with classes of their own.
    """

    source: str
    class_names: tuple[str, ...]
    groups: tuple[Group, ...]
    level_names: tuple[str, ...]
    parent_of_leaf_K: Array
    leaves_L: Array
    first_N: Array
    last_N: Array
    member_columns: tuple[MemberColumn, ...] = ()

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @functools.cached_property
    def levels(self) -> tuple[Level, ...]:
        """The levels, finest first."""
        return tuple(self._level(name) for name in self.level_names)

    @functools.cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """For each group the numbers of the groups right below it."""
        below: list[list[int]] = [[] for _ in self.groups]
        for number, group in enumerate(self.groups):
            if group.parent != NO_GROUP:
                below[group.parent].append(number)
        return tuple(map(tuple, below))

    @functools.cached_property
    def roots(self) -> tuple[int, ...]:
        """Numbers of the groups that lie in no other."""
        return tuple(number for number, group in enumerate(self.groups) if group.parent == NO_GROUP)

    @functools.cached_property
    def leaf_paths(self) -> Array:
        """int32, (K, D), for each class the groups around it, the smallest first, filled up with :data:`NO_GROUP`."""
        paths = [self.path_from(int(parent)) for parent in self.parent_of_leaf_K]
        paths_KD = np.full((len(paths), max(map(len, paths), default=0)), NO_GROUP, np.int32)
        for leaf, path in enumerate(paths):
            paths_KD[leaf, : len(path)] = path
        return _frozen(paths_KD)

    @functools.cached_property
    def groups_hash(self) -> str:
        """SHA-256 of levels and the groups around each class, 64 hexadecimal digits.

        Neither the file's format nor the order of its rows is in it.
        """
        return _hash(self._groups_content)

    @functools.cached_property
    def content_hash(self) -> str:
        """The same with members' classes: of all that changes results."""
        members = {column.alias: column.cells for column in self.member_columns}
        # left out without any, so that older outputs keep their fingerprint
        return _hash(self._groups_content | ({"members": members} if members else {}))

    @property
    def _groups_content(self) -> dict[str, Any]:
        leaves = [
            [leaf, [[self.groups[number].level, self.groups[number].name] for number in path if number != NO_GROUP]]
            for leaf, path in enumerate(self.leaf_paths.tolist())
        ]
        return {"levels": self.level_names, "leaves": leaves}

    def path_from(self, number: int) -> list[int]:
        """A group and the groups around it, the smallest first; nothing for :data:`NO_GROUP`."""
        path = []
        while number != NO_GROUP:
            path.append(number)
            number = self.groups[number].parent
        return path

    def leaves_of(self, number: int) -> list[int]:
        """All classes of a group, ascending."""
        return sorted(self.leaves_L[self.first_N[number] : self.last_N[number]].tolist())

    def leaves_right_below(self, number: int) -> list[int]:
        """The classes of a group that are in no smaller one; of :data:`NO_GROUP` those in no group at all."""
        return np.flatnonzero(self.parent_of_leaf_K == number).tolist()

    def _level(self, name: str) -> Level:
        numbers = [number for number, group in enumerate(self.groups) if group.level == name]
        numbers.sort(key=lambda number: self.leaves_of(number)[0])
        group_of_leaf_K = np.full(self.num_classes, NO_GROUP, np.int32)
        for at, number in enumerate(numbers):
            group_of_leaf_K[self.leaves_L[self.first_N[number] : self.last_N[number]]] = at
        names = tuple(self.groups[number].name for number in numbers)
        return Level(name, names, _frozen(np.array(numbers, np.int32)), _frozen(group_of_leaf_K))


def taxonomy_of_levels(
    source: str, class_names: Sequence[str], groups: Mapping[str, Sequence[str]], places: Mapping[str, Sequence[int]]
) -> Taxonomy:
    """The tree of levels that are known class by class.

    Args:
        source: Where it is from.
        class_names: Of the K classes.
        groups: Names of the groups of each level, the finest level first.
        places: For each level and each of the K classes its group, a place in ``groups``; :data:`NO_GROUP` for none.
    """
    found: list[Group] = []
    parent_of_leaf = [NO_GROUP] * len(class_names)
    for level in reversed(list(groups)):  # from above
        numbers: dict[int, int] = {}
        for leaf, place in enumerate(places[level]):
            if place == NO_GROUP:
                continue
            if place not in numbers:
                numbers[place] = len(found)
                name = groups[level][place]
                found.append(Group(name, name, level, parent_of_leaf[leaf]))
            parent_of_leaf[leaf] = numbers[place]
    return make_taxonomy(source, class_names, found, parent_of_leaf, tuple(groups))


def make_taxonomy(
    source: str,
    class_names: Sequence[str],
    groups: Sequence[Group],
    parent_of_leaf: Sequence[int],
    level_names: Sequence[str] = (),
) -> Taxonomy:
    """Number groups from above and order the classes by them. Groups without a class are left out.

    Args:
        source: Where it is from.
        class_names: Of the K classes.
        groups: In any order; parents are numbers in it.
        parent_of_leaf: For each of the K classes the number of the smallest group around it, or :data:`NO_GROUP`.
        level_names: Finest first.
    """
    first_leaf: dict[int, int] = {}
    own: dict[int, list[int]] = {}
    for leaf, smallest in enumerate(parent_of_leaf):
        own.setdefault(smallest, []).append(leaf)
        number = smallest
        while number != NO_GROUP and number not in first_leaf:
            first_leaf[number] = leaf
            number = groups[number].parent
    below: dict[int, list[int]] = {}
    for number in first_leaf:  # by first class, as they were found
        below.setdefault(groups[number].parent, []).append(number)

    order: list[int] = []
    leaves: list[int] = []
    first: list[int] = []
    waiting = below.get(NO_GROUP, [])[::-1]
    while waiting:
        number = waiting.pop()
        order.append(number)
        first.append(len(leaves))
        leaves += own.get(number, [])
        waiting += below.get(number, [])[::-1]
    number_of = {old: new for new, old in enumerate(order)} | {NO_GROUP: NO_GROUP}
    made = tuple(dataclasses.replace(groups[old], parent=number_of[groups[old].parent]) for old in order)
    last = [begin + len(own.get(old, [])) for begin, old in zip(first, order, strict=True)]
    for new in reversed(range(len(made))):  # what lies below comes behind
        if (parent := made[new].parent) != NO_GROUP:
            last[parent] = max(last[parent], last[new])
    return Taxonomy(
        source=source,
        class_names=tuple(class_names),
        groups=made,
        level_names=tuple(level_names),
        parent_of_leaf_K=_frozen(np.array([number_of[old] for old in parent_of_leaf], np.int32)),
        leaves_L=_frozen(np.array(leaves, np.int32)),
        first_N=_frozen(np.array(first, np.int32)),
        last_N=_frozen(np.array(last, np.int32)),
    )


def _frozen(array: Array) -> Array:
    array.flags.writeable = False
    return array


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()
