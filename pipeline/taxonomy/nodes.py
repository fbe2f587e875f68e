"""Names at any level: the classes and the groups of a tree as one set of numbers.

A node is a class or a group: class k has the number k, and group n has the number K + n. So a truth, a label or an
exported name may be either, and where there is no tree only classes are left.

Shapes: K classes, N groups of a tree, V = K + N nodes, B images.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence

import numpy as np

from pipeline.labels import distinct_names
from pipeline.taxonomy.tree import NO_GROUP, Level, Taxonomy
from pipeline.taxonomy.wordnet import WORDNET

NOT_TOLD = -2  # at a level that is finer than the node
CLASS_LEVEL = "class"  # of a node that is a class

Array = np.ndarray


class Nodes:
    """The nodes of a tree.

    Args:
        taxonomy: The tree.

    Attributes:
        taxonomy: The tree.
        names: Of the V nodes, each once. Classes keep theirs; the level is added to the name of a group that a class or
            a group of another level has, too: ``amphibian (order)``.
        levels: Of the V nodes: ``class``, the name of the group's level, or ``wordnet``.
        sizes_V: int64, (V,), classes at or below each node, 1 to K.
        depths_V: int64, (V,), groups around each node.
    """

    def __init__(self, taxonomy: Taxonomy) -> None:
        self.taxonomy = taxonomy
        num_classes = taxonomy.num_classes
        self.names = _node_names(taxonomy)
        self.levels = (CLASS_LEVEL,) * num_classes + tuple(group.level or WORDNET for group in taxonomy.groups)
        # where the classes of each node lie in the order of the tree; those in no group lie behind it
        places_K = np.full(num_classes, -1, np.int64)
        places_K[taxonomy.leaves_L] = np.arange(len(taxonomy.leaves_L))
        outside = np.flatnonzero(places_K < 0)
        places_K[outside] = len(taxonomy.leaves_L) + np.arange(len(outside))
        self._first_V = np.concatenate([places_K, taxonomy.first_N.astype(np.int64)])
        self._last_V = np.concatenate([places_K + 1, taxonomy.last_N.astype(np.int64)])
        self.sizes_V = self._last_V - self._first_V
        group_depths = [len(taxonomy.path_from(group.parent)) for group in taxonomy.groups]
        class_depths = (taxonomy.leaf_paths != NO_GROUP).sum(axis=1)
        self.depths_V: Array = np.concatenate([class_depths, np.array(group_depths, np.int64)]).astype(np.int64)

    def __len__(self) -> int:
        return len(self.names)

    @functools.cached_property
    def bits(self) -> Array:
        """float64, (V,), what a name tells: log2 of K over the classes at or below it, 0 for all of them."""
        found: Array = np.log2(self.taxonomy.num_classes / self.sizes_V)
        return found

    def is_at_or_below(self, inner: Array, outer: Array) -> Array:
        """Whether nodes lie at or below others: bool, of the arguments' common shape.

        Args:
            inner: int, nodes; anything negative lies nowhere.
            outer: int, likewise.
        """
        is_known = (inner >= 0) & (outer >= 0)
        inside = np.where(is_known, inner, 0)
        around = np.where(is_known, outer, 0)
        holds = (self._first_V[around] <= self._first_V[inside]) & (self._last_V[inside] <= self._last_V[around])
        below: Array = is_known & holds & (self.depths_V[inside] >= self.depths_V[around])  # a chain has equal classes
        return below

    def at_level(self, level: Level) -> Array:
        """The group of a level that each node lies in.

        Returns:
            int32, (V,), 0 to G - 1; :data:`NO_GROUP` where all its classes are in no group of the level;
            :data:`NOT_TOLD` where they are in several.
        """
        taxonomy = self.taxonomy
        ordered_L = level.group_of_leaf_K[taxonomy.leaves_L]
        found_V = np.full(len(self), NOT_TOLD, np.int32)
        found_V[: taxonomy.num_classes] = level.group_of_leaf_K
        for number, (first, last) in enumerate(zip(taxonomy.first_N, taxonomy.last_N, strict=True)):
            if (ordered_L[first:last] == ordered_L[first]).all():
                found_V[taxonomy.num_classes + number] = ordered_L[first]
        return found_V


@functools.lru_cache(maxsize=4)
def nodes_of(taxonomy: Taxonomy) -> Nodes:
    """The nodes of a tree, made once."""
    return Nodes(taxonomy)


def carry_groups(older: Taxonomy | None, newer: Taxonomy | None) -> tuple[int, ...]:
    """The groups of one tree as nodes of another one above the same classes.

    Returns:
        For each group of ``older`` the node in ``newer`` that has its level and its name, or else the only one that has
        its name; :data:`NOT_TOLD` where there is none.
    """
    if older is None or newer is None:
        return () if older is None else (NOT_TOLD,) * len(older.groups)
    by_level = {(group.level, group.name): number for number, group in enumerate(newer.groups)}
    by_name: dict[str, int | None] = {}
    for number, group in enumerate(newer.groups):
        by_name[group.name] = None if group.name in by_name else number
    found = (by_level.get((group.level, group.name), by_name.get(group.name)) for group in older.groups)
    return tuple(NOT_TOLD if number is None else newer.num_classes + number for number in found)


def carry_label(label: int | None, num_classes: int, carried: Sequence[int]) -> int | None:
    """A class or a group of one tree as it is in another; None for a group that is none there.

    Args:
        label: A stored truth: class, group, or -1 where no class fits.
        num_classes: K.
        carried: Of :func:`carry_groups`.
    """
    if label is None or label < num_classes:
        return label
    number = label - num_classes
    node = carried[number] if number < len(carried) else NOT_TOLD
    return None if node == NOT_TOLD else node


def _node_names(taxonomy: Taxonomy) -> tuple[str, ...]:
    classes = distinct_names(taxonomy.class_names)
    times = Counter([*{*classes}, *(group.name for group in taxonomy.groups)])
    groups = (
        group.name if times[group.name] == 1 else f"{group.name} ({group.level or WORDNET})"
        for group in taxonomy.groups
    )
    return distinct_names([*classes, *groups])
