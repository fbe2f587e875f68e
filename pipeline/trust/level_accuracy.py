"""Accuracy at the levels of classes of one's own, where a truth is a class or a group.

A truth tells the group of a level if all its classes are in that group: a beagle tells the kind `dog`, and the family
`animal`. `animal` tells no kind, and the image counts at the levels that it tells. What is in no group of a level, and
what no class fits, is right where no group was given.

WordNet has no levels. There a name is right if the truth lies at or below it, and a truth that lies above it tells
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.labels import NO_CLASS
from pipeline.taxonomy.choosing import group_columns
from pipeline.taxonomy.nodes import NOT_TOLD, Nodes, nodes_of
from pipeline.taxonomy.tree import NO_GROUP, Level, Taxonomy
from pipeline.trust.intervals import Interval, wilson_interval
from pipeline.trust.matched import MatchedImages
from pipeline.trust.per_class import ClassMetrics, Confusion, compute_class_metrics, find_confused_classes, macro_f1

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class LevelAccuracy:
    """Accuracy at one level.

    Attributes:
        name: Of the level; ``wordnet`` for the finest name of WordNet.
        num_groups: Groups that there are.
        images: Images whose truth tells the group, or that there is none.
        not_told: Images whose truth is coarser, which count at coarser levels only.
        outside: Of ``images``, those whose truth is in no group.
        accuracy: Share of ``images`` with the right group, 0-1; none is right for those outside.
        accuracy_interval: Wilson's, 95 %.
        named: Of ``images``, those that were given a group.
        precision: Share of these with the right group, 0-1; None where there are none.
        precision_interval: Wilson's, 95 %.
        by_label: Share of ``images`` whose label, one class, lies in the right group, 0-1: what folding labels would
            give. None for WordNet, where the label is no group.
        bits: Mean information of the groups that were given: log2 of all classes over the group's.
        macro_f1: Unweighted mean F1 of the groups, 0-1; None for WordNet.
        classes: Each group that is the truth or was given, by place; none for WordNet.
        confused: The pairs that are confused most often; of WordNet truths of any level with the names given.
    """

    name: str
    num_groups: int
    images: int
    not_told: int
    outside: int
    accuracy: float
    accuracy_interval: Interval
    named: int
    precision: float | None
    precision_interval: Interval
    by_label: float | None
    bits: float
    macro_f1: float | None
    classes: tuple[ClassMetrics, ...]
    confused: tuple[Confusion, ...]


def compute_level_accuracy(taxonomy: Taxonomy, matched: MatchedImages) -> tuple[LevelAccuracy, ...]:
    """Accuracy at each level, the finest first.

    Args:
        taxonomy: The tree.
        matched: Images with known truth and their groups, of the same tree.
    """
    nodes = nodes_of(taxonomy)
    if not taxonomy.levels:
        return (_of_wordnet(nodes, matched.truth_N, matched.groups_LN[0]),)
    return tuple(
        _of_level(nodes, level, matched, groups_N)
        for level, groups_N in zip(taxonomy.levels, matched.groups_LN, strict=True)
    )


def _of_level(nodes: Nodes, level: Level, matched: MatchedImages, groups_N: Array) -> LevelAccuracy:
    group_of_V = nodes.at_level(level)
    truth_N = np.where(matched.truth_N == NO_CLASS, NO_GROUP, group_of_V[matched.truth_N])
    told_N = truth_N != NOT_TOLD
    truth_N, groups_N = truth_N[told_N], groups_N[told_N]
    by_label_N = group_of_V[matched.label_N[told_N]] == truth_N
    sizes_G = nodes.sizes_V[nodes.taxonomy.num_classes + level.groups_G]
    classes = compute_class_metrics(truth_N, groups_N, level.names)
    return LevelAccuracy(
        name=level.name,
        num_groups=len(level.names),
        not_told=int((~told_N).sum()),
        outside=int((truth_N == NO_GROUP).sum()),
        by_label=float(by_label_N.mean()) if len(by_label_N) else 0.0,
        bits=_mean(np.log2(nodes.taxonomy.num_classes / sizes_G[groups_N[groups_N != NO_GROUP]])),
        macro_f1=macro_f1(classes),
        classes=classes,
        confused=find_confused_classes(truth_N, groups_N, level.names),
        **_shares(truth_N == groups_N, groups_N != NO_GROUP),
    )


def _of_wordnet(nodes: Nodes, truth_N: Array, groups_N: Array) -> LevelAccuracy:
    num_classes = nodes.taxonomy.num_classes
    (column,) = group_columns(nodes.taxonomy)
    given_N = np.where(groups_N == NO_GROUP, NO_CLASS, groups_N + num_classes)
    above_N = nodes.is_at_or_below(given_N, truth_N) & (given_N != truth_N)
    truth_N, given_N = truth_N[~above_N], given_N[~above_N]
    right_N = nodes.is_at_or_below(truth_N, given_N)
    named_N = given_N != NO_CLASS
    wrong_N = named_N & ~right_N
    return LevelAccuracy(
        name=column.name,
        num_groups=len(column.groups),
        not_told=int(above_N.sum()),
        outside=int((truth_N == NO_CLASS).sum()),
        by_label=None,
        bits=_mean(nodes.bits[given_N[named_N]]),
        macro_f1=None,
        classes=(),
        confused=find_confused_classes(truth_N[wrong_N], given_N[wrong_N], nodes.names),
        **_shares(right_N, named_N),
    )


def _shares(right_N: Array, named_N: Array) -> dict[str, Any]:
    """The figures of a level that are counts of images that are right and that were given a group."""
    images, right = len(right_N), int(right_N.sum())
    named, named_right = int(named_N.sum()), int((right_N & named_N).sum())
    return {
        "images": images,
        "accuracy": right / max(1, images),
        "accuracy_interval": wilson_interval(right, images),
        "named": named,
        "precision": named_right / named if named else None,
        "precision_interval": wilson_interval(named_right, named),
    }


def _mean(values_n: Array) -> float:
    return float(values_n.mean()) if len(values_n) else 0.0
