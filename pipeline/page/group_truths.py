"""How often each group of own classes is right, on images with known truth.

Shapes: N groups of a tree, M images with known truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.taxonomy.nodes import NOT_TOLD, Nodes, nodes_of
from pipeline.taxonomy.tree import NO_GROUP, Taxonomy
from pipeline.trust.matched import MatchedImages

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class GroupTruths:
    """Images with known truth by group; a truth that is too coarse for a group does not count there.

    In a tree without levels an image counts for a group if its name, or its truth, is the group or lies below it.

    Attributes:
        given_N: int64, (N,), images that were given the group.
        true_N: int64, (N,), images whose truth lies in it.
        right_N: int64, (N,), both.
    """

    given_N: Array
    true_N: Array
    right_N: Array


def count_group_truths(taxonomy: Taxonomy, matched: MatchedImages) -> GroupTruths:
    """Count images with known truth by group.

    Args:
        taxonomy: The tree.
        matched: The images, with their groups.
    """
    nodes = nodes_of(taxonomy)
    if taxonomy.levels:
        return _count_by_level(nodes, matched)
    return _count_below(nodes, matched)


def _count_by_level(nodes: Nodes, matched: MatchedImages) -> GroupTruths:
    found = np.zeros((3, len(nodes.taxonomy.groups)), np.int64)
    for level, given_M in zip(nodes.taxonomy.levels, matched.groups_LN, strict=True):
        truth_M = np.where(matched.truth_N < 0, NO_GROUP, nodes.at_level(level)[matched.truth_N])
        told_M = truth_M != NOT_TOLD
        for at, is_counted_M in enumerate(
            (told_M & (given_M != NO_GROUP), truth_M >= 0, (truth_M == given_M) & (truth_M >= 0))
        ):
            counted = given_M[is_counted_M] if at == 0 else truth_M[is_counted_M]
            found[at, level.groups_G] = np.bincount(counted, minlength=len(level.groups_G))
    return GroupTruths(*found)


def _count_below(nodes: Nodes, matched: MatchedImages) -> GroupTruths:
    taxonomy, num_classes = nodes.taxonomy, nodes.taxonomy.num_classes
    found = np.zeros((3, len(taxonomy.groups)), np.int64)
    codes_M = matched.truth_N.astype(np.int64) * (len(nodes) + 1) + matched.groups_LN[0] - NO_GROUP
    pairs, counts = np.unique(codes_M, return_counts=True)
    for pair, images in zip(pairs.tolist(), counts.tolist(), strict=True):
        truth, given = divmod(pair, len(nodes) + 1)
        given += NO_GROUP
        truths = []
        if truth >= 0:
            nearest = truth - num_classes if truth >= num_classes else int(taxonomy.parent_of_leaf_K[truth])
            truths = taxonomy.path_from(nearest)
        givens = taxonomy.path_from(given)
        if truth >= num_classes and truth - num_classes in givens[1:]:  # the truth tells nothing below itself
            givens = truths
        found[0, givens] += images
        found[1, truths] += images
        found[2, [number for number in givens if number in {*truths}]] += images
    return GroupTruths(*found)
