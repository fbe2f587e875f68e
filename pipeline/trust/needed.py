"""How many truths a promise needs, if further ones are as often right as those that are known.

That is an expectation, not a bound: about half of all draws of so many truths need some more. What is needed at the
least, because it would do if all further truths were right, says nothing to who has wrong ones among the first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.trust.levels import Passes, first_share

_FEWEST = 20  # truths of the highest scores that tell how often such labels are right
_MOST_TRUTHS = 10_000_000
_GROWTH = 1.15  # from one number that is tried to the next one

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Needed:
    """What the known truths let expect.

    Attributes:
        truths: Truths that are needed in all; None where no number would do.
        judged: Truths with the highest scores that this was concluded from, at the most truths that were tried.
        right: Of these, with the right label.
    """

    truths: int | None
    judged: int
    right: int


def estimate_needed(
    accepted_n: Array, right_n: Array, total: int, passes: Passes, max_first_share: float
) -> Needed | None:
    """How many truths would let the strictest level pass, which is tested first; None if too few are known to tell.

    Args:
        accepted_n: int, (n,), how many of the n truths are accepted at the score of each, from high to low.
        right_n: int, (n,), how many of these are right.
        total: Images of the selection; no more truths than these are tried.
        passes: The test of a level.
        max_first_share: Share of the selection that the strictest level may hold to tolerate errors, 0-1.
    """
    known = len(accepted_n)
    if known < _FEWEST:
        return None
    judged = right = 0
    for truths in _numbers(known, min(total, _MOST_TRUTHS)):
        share = first_share(total, truths, passes, max_first_share)
        if share is None:
            continue
        place = min(known, max(_FEWEST, math.ceil(share * known)))
        judged, right = int(accepted_n[place - 1]), int(right_n[place - 1])  # equal scores are accepted together
        share = max(share, judged / known) if place > _FEWEST else share
        accepted, images = math.floor(share * truths), max(1, round(share * total))
        accepted = min(accepted, images)
        if accepted and passes(math.ceil(accepted * (judged - right) / judged - 1e-9), accepted, images):
            return Needed(max(truths, known + 1), judged, right)
    return Needed(None, judged, right)


def _numbers(known: int, most: int) -> list[int]:
    """Numbers of truths to try: from those that are known to the most, and these, with two digits each."""
    found = []
    number: float = known
    while number < most:
        found.append(_round_up(math.ceil(number)))
        number *= _GROWTH
    return sorted({*(each for each in found if each < most), most})


def _round_up(number: int) -> int:
    unit: int = 10 ** max(0, len(str(number)) - 2)
    return -(-number // unit) * unit
