"""The thresholds of a promise, fixed by scores alone: no label decides where they are.

A level is a threshold and the images of the whole selection at or above it. Levels go from strict to loose in even
steps of the selection, and hold images of equal scores together. They depend on the scores of the selection, on the
number of truths, the target and the risk. So they are the same whatever the truths turn out to be, and every truth is
left to certify.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.trust.intervals import wilson_upper

NUM_LEVELS = 100
# Errors that the strictest level should tolerate, if it can hold so many truths. A first level that passes only without
# errors often ends the sequence at once, even where looser ones would pass.
_FIRST_ERRORS = 24
_SHARE_STEPS = 2_000

Array = np.ndarray
Passes = Callable[[int, int, int], bool]  # wrong truths, truths and images at a level: whether its test passes


@dataclass(frozen=True, slots=True)
class Levels:
    """Nested thresholds, strict to loose.

    Attributes:
        thresholds_L: float64, images of at least this score are accepted.
        images_L: int64, images of the selection that are accepted.
        total: Images of the selection.
    """

    thresholds_L: Array
    images_L: Array
    total: int

    def __len__(self) -> int:
        return len(self.thresholds_L)


def choose_levels(
    scores: Iterable[tuple[Array, Array]], total: int, num_truths: int, passes: Passes, max_first_share: float
) -> Levels:
    """Choose at most :data:`NUM_LEVELS` levels.

    Args:
        scores: Distinct scores of the selection from high to low and the images of each, batch by batch.
        total: Images of the selection.
        num_truths: Truths that certify.
        passes: The test of a level.
        max_first_share: Share of the selection that the strictest level may hold to tolerate errors, 0-1.
    """
    share = first_share(total, num_truths, passes, max_first_share)
    if share is None:
        return Levels(np.zeros(0), np.zeros(0, np.int64), total)
    places = np.ceil(np.linspace(share, 1, NUM_LEVELS) * total - 1e-9).clip(1, total).astype(np.int64)
    thresholds: list[float] = []
    images: list[int] = []
    above = 0
    for scores_B, images_B in scores:
        sums_B = above + np.cumsum(images_B)
        waiting = places[len(thresholds) :]
        found = np.searchsorted(sums_B, waiting[waiting <= sums_B[-1]])
        thresholds += scores_B[found].astype(np.float64).tolist()
        images += sums_B[found].tolist()
        above = int(sums_B[-1])
    images_L, kept = np.unique(np.array(images, np.int64), return_index=True)
    return Levels(np.array(thresholds)[kept], images_L, total)


def first_share(total: int, num_truths: int, passes: Passes, limit: float) -> float | None:
    """The share of the selection at the strictest level; None if the truths are too few for any.

    It holds enough truths for some errors, with a margin of one standard deviation of their number.

    Args:
        total: Images of the selection.
        num_truths: Truths that certify.
        passes: The test of a level.
        limit: Share that the level may hold to tolerate errors, 0-1.
    """
    least: float | None = None
    for errors in range(_FIRST_ERRORS, -1, -1):
        share = _share_for(errors, total, num_truths, passes)
        if share is not None and share <= limit:
            return share
        least = share if least is None else min(least, share or 1.0)
    return least


def _share_for(errors: int, total: int, num_truths: int, passes: Passes) -> float | None:
    """The smallest share whose expected truths pass with so many errors, with the margin."""

    def is_enough(step: int) -> bool:
        share = step / _SHARE_STEPS
        truths = math.floor(share * num_truths)
        return truths > errors and passes(errors, truths, max(truths, round(share * total)))

    if not num_truths or not is_enough(_SHARE_STEPS):
        return None
    low, high = 0, _SHARE_STEPS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    truths = min(num_truths, math.ceil(high / _SHARE_STEPS * num_truths))
    return wilson_upper(truths, num_truths, z=math.sqrt(max(0.0, 1 - num_truths / total)))


def count_scores(scores_N: Array) -> Iterator[tuple[Array, Array]]:
    """Distinct scores from high to low and the images of each, of scores in memory."""
    found, images = np.unique(scores_N, return_counts=True)
    if len(found):
        yield found[::-1], images[::-1]


def at_or_above(scores_n: Array, thresholds_L: Array) -> Array:
    """How many of some scores are at or above each threshold: int64 (L,)."""
    ordered = np.sort(scores_n)
    counts: Array = len(ordered) - np.searchsorted(ordered, thresholds_L.astype(ordered.dtype), side="left")
    return counts
