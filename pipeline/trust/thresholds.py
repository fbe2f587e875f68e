"""Accuracy by score and by agreement, and operating points: the coverage at a precision.

Operating points are *observed*: the threshold is picked on the same truth that measures its precision. On other images
it misses its target about half of the time; :mod:`pipeline.trust.promise` finds thresholds that hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.trust.intervals import Interval, wilson_interval

PRECISIONS = (0.99, 0.98, 0.95)
SCORE_EDGES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_MAX_LEVELS = 12
_LEVEL_DIGITS = 4  # agreements that differ by less differ by rounding only

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class AccuracyGroup:
    """Accuracy of the images whose score or agreement lies in a range.

    Attributes:
        low, high: The range, 0-1, from ``low`` to below ``high`` (to 1, if that is 1); equal where it is one value.
        images: How many.
        accuracy: Share of them that is right, 0-1.
        interval: Of the accuracy, Wilson's.
    """

    low: float
    high: float
    images: int
    accuracy: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The lowest threshold that reaches a precision on this truth; no promise for other images.

    Attributes:
        target: Requested precision, 0-1.
        threshold: Images of at least this score are kept; None if no threshold reaches the target.
        images: How many are kept.
        coverage: Share of all images that is kept, 0-1.
        precision: Share of the kept images with the right label, 0-1; None if none are kept.
        interval: Of the precision, Wilson's, as if the threshold had been known beforehand.
    """

    target: float
    threshold: float | None
    images: int
    coverage: float
    precision: float | None
    interval: Interval


def group_by_score(scores_N: Array, right_N: Array) -> tuple[AccuracyGroup, ...]:
    """Accuracy in ranges of the score, narrower near 1, without empty ranges.

    Args:
        scores_N: float, 0-1.
        right_N: bool, whether the labels are right.
    """
    return _by_edges(scores_N, right_N, np.asarray(SCORE_EDGES))


def group_by_agreement(agreement_N: Array, right_N: Array) -> tuple[AccuracyGroup, ...]:
    """Accuracy for each value of the agreement, or in tenths where there are many values.

    Args:
        agreement_N: float, 0-1.
        right_N: bool, whether the labels are right.
    """
    levels, groups_N = np.unique(np.round(agreement_N.astype(np.float64), _LEVEL_DIGITS), return_inverse=True)
    if len(levels) > _MAX_LEVELS:
        return _by_edges(agreement_N, right_N, np.arange(10) / 10)
    images = np.bincount(groups_N, minlength=len(levels))
    rights = np.bincount(groups_N[right_N], minlength=len(levels))
    return tuple(
        _accuracy_group(float(level), float(level), int(number), int(good))
        for level, number, good in zip(levels, images, rights, strict=True)
    )


def _by_edges(values_N: Array, right_N: Array, edges: Array) -> tuple[AccuracyGroup, ...]:
    # edges in the values' own type: 0.9 in float32 is below 0.9 in float64, but belongs to the range from 0.9 on
    groups_N = np.clip(np.searchsorted(edges.astype(values_N.dtype), values_N, side="right") - 1, 0, len(edges) - 1)
    images = np.bincount(groups_N, minlength=len(edges))
    rights = np.bincount(groups_N[right_N], minlength=len(edges))
    return tuple(
        _accuracy_group(float(low), float(high), int(number), int(good))
        for low, high, number, good in zip(edges, [*edges[1:], 1.0], images, rights, strict=True)
        if number
    )


def _accuracy_group(low: float, high: float, images: int, right: int) -> AccuracyGroup:
    return AccuracyGroup(low, high, images, right / images, wilson_interval(right, images))


def find_operating_points(
    scores_N: Array, right_N: Array, targets: tuple[float, ...] = PRECISIONS
) -> tuple[OperatingPoint, ...]:
    """For each target, the lowest threshold that reaches this precision on this truth.

    Args:
        scores_N: float, 0-1.
        right_N: bool, whether the labels are right.
        targets: Requested precisions, 0-1.
    """
    num_images = len(scores_N)
    order_N = np.argsort(scores_N, kind="stable")[::-1]
    sorted_N = scores_N[order_N]
    rights_N = np.cumsum(right_N[order_N])
    # images of equal scores are kept together
    lengths = np.flatnonzero(np.append(sorted_N[1:] != sorted_N[:-1], True)) + 1 if num_images else np.zeros(0, int)
    precisions = rights_N[lengths - 1] / lengths
    found = []
    for target in targets:
        enough = np.flatnonzero(precisions >= target)
        if not len(enough):
            found.append(OperatingPoint(target, None, 0, 0.0, None, wilson_interval(0, 0)))
            continue
        kept = int(lengths[enough[-1]])
        right = int(rights_N[kept - 1])
        threshold = float(sorted_N[kept - 1])
        found.append(
            OperatingPoint(target, threshold, kept, kept / num_images, right / kept, wilson_interval(right, kept))
        )
    return tuple(found)
