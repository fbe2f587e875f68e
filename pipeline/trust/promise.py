"""A promise of precision: the lowest score from which on labels are right often enough, with a known risk.

Images whose score is at least the threshold are accepted. Of everything that could be accepted so, a share of at
least ``target`` is right, but for a risk of ``delta``: in that share of cases, at most, truth drawn at random makes a
promise that does not hold. Thresholds are tried from strict to loose, each tested at level ``delta`` with the lower
Clopper-Pearson bound, and the first failure ends it: the promise can only be wrong if the first threshold that is too
low passes its test, so that many tests cost no more than one.

It holds if

* the truth was drawn at random from the images that are to be selected from: the collection after de-duplication and
  after all other filters (``shardlabel sample`` draws it). Truths of images that a filter drops must be left out;
* the truths that certify have been used for nothing else. Half of the truths certify, found by hash
  (:func:`certifying`), so that everybody finds the same half. The thresholds come from the scores of the others. What
  is fitted to the truth, a calibration say, must be fitted to the others as well, or to other truth;
* what is accepted is not chosen from any further: per class, say. The promise is about all classes together.

Source: fixed-sequence testing in Angelopoulos, Bates, Candes, Jordan & Lei, "Learn then test", arXiv 2110.01052;
Clopper & Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial", Biometrika 1934.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pipeline.errors import RequestError
from pipeline.trust.intervals import binomial_tail, clopper_pearson_low, wilson_high

NUM_LEVELS = 20
CERTIFYING_SHARE = 0.5
_FIRST_ERRORS = (2, 1, 0)  # which the strictest level should have room for, best first
_MOST_FIRST = 0.5  # of the images, that the strictest level may hold for that room

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Level:
    """One threshold that was tested.

    Attributes:
        threshold: Images of at least this score are accepted.
        accepted: Certifying images among them.
        right: Of these, rightly labelled.
    """

    threshold: float
    accepted: int
    right: int


@dataclass(frozen=True, slots=True)
class Promise:
    """What can be promised, and what it rests on.

    Attributes:
        target: Precision asked for, 0-1.
        delta: Risk that the promise does not hold, 0-1.
        threshold: Accept images of at least this score; None: nothing can be promised, so accept none.
        precision_low: Lower bound of the precision at the threshold; without one at the strictest level; 0-1.
        accepted: Certifying images of at least the threshold, or at the strictest level.
        right: Of these, rightly labelled.
        coverage: Share of all images with truth that has at least the threshold, 0-1; 0 without one.
        num_truths: Images with truth, both halves.
        num_certifying: Of these, in the half that certifies.
        least_certifying: So many would be enough if all of them were accepted and right.
        missing: So many more truths are needed, at least and in both halves together, for any promise: if all further
            ones are right. 0 where there is a threshold.
        levels: The levels that were tested, strict to loose; the last one failed, unless all passed.
    """

    target: float
    delta: float
    threshold: float | None
    precision_low: float
    accepted: int
    right: int
    coverage: float
    num_truths: int
    num_certifying: int
    least_certifying: int
    missing: int
    levels: tuple[Level, ...]


def certifying(shards: Iterable[str], keys: Iterable[str]) -> Array:
    """Which images are in the half that certifies, by a hash of shard and key: bool, the same in every run."""
    return np.fromiter((_certifies(shard, key) for shard, key in zip(shards, keys, strict=True)), bool)


def _certifies(shard: str, key: str) -> bool:
    name = f"{shard}\n{key}".encode("utf-8", "surrogateescape")
    return hashlib.blake2b(name, digest_size=1, person=b"certify").digest()[0] < 256 * CERTIFYING_SHARE


def certify(
    scores_N: Array,
    right_N: Array,
    target: float,
    delta: float = 0.1,
    *,
    certifies_N: Array,
    levels_from: Array | None = None,
) -> Promise:
    """Find the lowest threshold whose precision can be promised.

    Args:
        scores_N: Float, of the images with truth, any scale, larger is better.
        right_N: Bool, whether their labels are right.
        target: Precision to be promised, above 0 and below 1.
        delta: Risk that the promise does not hold, above 0 and below 1.
        certifies_N: Bool, whose truth certifies (:func:`certifying`).
        levels_from: Scores that the thresholds are taken from, never those that certify alone; None for the images
            with truth that do not certify. The scores of the whole collection serve as well.

    Raises:
        RequestError: Target or delta are no such numbers.
    """
    for name, value in (("target precision", target), ("delta", delta)):
        if not 0 < value < 1:
            raise RequestError(f"{name} {value:g}: must be above 0 and below 1")
    scores, right = scores_N[certifies_N], right_N[certifies_N]
    thresholds = _thresholds(scores_N[~certifies_N] if levels_from is None else levels_from, len(scores), target, delta)
    order = np.argsort(scores, kind="stable")[::-1]
    accepted = np.searchsorted(-scores[order], -thresholds, side="right")
    rights = np.concatenate([[0], np.cumsum(right[order])])[accepted]
    tested, passed = [], 0
    for level in map(Level, thresholds.tolist(), accepted.tolist(), rights.tolist()):
        tested.append(level)
        if binomial_tail(level.right, level.accepted, target) > delta:
            break
        passed = len(tested)
    best = tested[passed - 1] if passed else None
    shown = best or (tested[0] if tested else Level(math.inf, 0, 0))
    least = _least_accepted(0, target, delta)
    return Promise(
        target=target,
        delta=delta,
        threshold=best.threshold if best else None,
        precision_low=clopper_pearson_low(shown.right, shown.accepted, delta),
        accepted=shown.accepted,
        right=shown.right,
        coverage=float((scores_N >= best.threshold).mean()) if best else 0.0,
        num_truths=len(scores_N),
        num_certifying=len(scores),
        least_certifying=least,
        missing=0 if best else _missing(accepted, rights, len(scores), target, delta),
        levels=tuple(tested),
    )


def _thresholds(scores: Array, num_certifying: int, target: float, delta: float) -> Array:
    """At most NUM_LEVELS thresholds, strict to loose, in even steps of coverage; all are scores that occur.

    A first level that holds too few truths to pass would end it at once, and one that passes only without any error
    would often. So it is made to hold enough of them, but for one standard deviation, for two errors; for fewer, where
    that takes more than half of the images.
    """
    needed = [_least_accepted(errors, target, delta) for errors in _FIRST_ERRORS]
    if not len(scores) or num_certifying < needed[-1]:
        return scores[:0]
    shares = [wilson_high(count, num_certifying, z=1.0) for count in needed if count <= num_certifying]
    first = next((share for share in shares if share <= _MOST_FIRST), shares[-1])
    places = np.ceil(np.linspace(first, 1, NUM_LEVELS) * len(scores)).astype(np.int64) - 1
    return np.unique(np.sort(scores)[::-1][places])[::-1]


def _missing(accepted: Array, rights: Array, num_certifying: int, target: float, delta: float) -> int:
    """How many truths more would let some level pass, if all of them were right."""
    least = _least_accepted(0, target, delta)
    if num_certifying < least or not accepted.any():
        return math.ceil(max(1, least - num_certifying) / CERTIFYING_SHARE)
    found = [
        (_least_accepted(taken - right, target, delta) - taken) * num_certifying / taken
        for taken, right in zip(accepted.tolist(), rights.tolist(), strict=True)
        if taken
    ]
    return math.ceil(max(1.0, float(min(found))) / CERTIFYING_SHARE)


def _least_accepted(errors: int, target: float, delta: float) -> int:
    """The smallest number of accepted images that pass with so many errors."""
    low, high = errors, errors + 1
    while binomial_tail(high - errors, high, target) > delta:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if binomial_tail(middle - errors, middle, target) <= delta else (middle, high)
    return high
