"""Promised precision: the lowest score threshold at which enough labels are right, with a known risk.

Images whose score is at least the threshold are accepted. A share of at least ``target`` of their labels is right,
except with a risk of ``delta``: of all random draws of the truth, at most that share leads to a promise that does not
hold. Thresholds are tested from strict to loose, each at level ``delta`` with the lower Clopper-Pearson bound; the
first failure ends the sequence. The promise can only be wrong if the first threshold that is too low passes its test,
so many tests carry no more risk than one.

It holds if

* the truth was drawn at random from the images that are selected from: the collection after de-duplication and after
  all other filters (``shardlabel sample`` draws it). Truths of images that a filter drops must be left out;
* the truths that certify are used for nothing else. Half of the truths certify, chosen by a hash
  (:func:`certifying_mask`), so that every run has the same half. The thresholds come from the scores of the other
  half. A calibration must also be fitted on the other half, or on other truth;
* the accepted images are not filtered further, by class for example. The promise is about all classes together.

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
from pipeline.trust.intervals import binomial_tail, clopper_pearson_lower, wilson_upper

NUM_LEVELS = 20
CERTIFYING_SHARE = 0.5
_FIRST_ERRORS = (2, 1, 0)  # errors that the strictest level should tolerate, best first
_MAX_FIRST_SHARE = 0.5  # share of the images that the strictest level may hold to tolerate them

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Level:
    """One threshold that was tested.

    Attributes:
        threshold: Images of at least this score are accepted.
        accepted: Certifying images among them.
        right: Of these, with the right label.
    """

    threshold: float
    accepted: int
    right: int


@dataclass(frozen=True, slots=True)
class Promise:
    """A promised precision and the tests behind it.

    Attributes:
        target: Requested precision, 0-1.
        delta: Risk that the promise does not hold, 0-1.
        threshold: Accept images of at least this score; None where no precision can be promised.
        precision_low: Lower bound of the precision at the threshold, 0-1; at the strictest level where there is none.
        accepted: Certifying images at or above the threshold; at the strictest level where there is none.
        right: Of these, with the right label.
        coverage: Share of all images with truth at or above the threshold, 0-1; 0 without a threshold.
        num_truths: Images with truth, both halves.
        num_certifying: Of these, in the half that certifies.
        least_certifying: Certifying images that would be enough if all were accepted and right.
        missing: Lower bound of the additional truths needed for any promise, in both halves together; it assumes that
            all of them are right. 0 where there is a threshold.
        levels: The tested levels, strict to loose; the last one failed, unless all passed.
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


def certifying_mask(shards: Iterable[str], keys: Iterable[str]) -> Array:
    """Whether each image is in the half that certifies: bool (N,), by a hash of shard and key, equal in every run."""
    return np.fromiter((_is_certifying(shard, key) for shard, key in zip(shards, keys, strict=True)), bool)


def _is_certifying(shard: str, key: str) -> bool:
    name = f"{shard}\n{key}".encode("utf-8", "surrogateescape")
    return hashlib.blake2b(name, digest_size=1, person=b"certify").digest()[0] < 256 * CERTIFYING_SHARE


def certify(
    scores_N: Array,
    right_N: Array,
    target: float,
    delta: float = 0.1,
    *,
    certifying_N: Array,
    levels_from: Array | None = None,
) -> Promise:
    """Find the lowest threshold whose precision can be promised.

    Args:
        scores_N: float, scores of the images with truth; larger is better, on any scale.
        right_N: bool, whether their labels are right.
        target: Requested precision, above 0 and below 1.
        delta: Risk that the promise does not hold, above 0 and below 1.
        certifying_N: bool, whether the image is in the half that certifies (:func:`certifying_mask`).
        levels_from: Scores that the thresholds are taken from, never those of the certifying half alone; None for the
            other half. The scores of the whole collection serve as well.

    Raises:
        RequestError: Target or delta are not between 0 and 1.
    """
    for name, value in (("target precision", target), ("delta", delta)):
        if not 0 < value < 1:
            raise RequestError(f"{name} {value:g}: must be above 0 and below 1")
    scores, right = scores_N[certifying_N], right_N[certifying_N]
    thresholds = _choose_thresholds(
        scores_N[~certifying_N] if levels_from is None else levels_from, len(scores), target, delta
    )
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
    least = _min_accepted(0, target, delta)
    return Promise(
        target=target,
        delta=delta,
        threshold=best.threshold if best else None,
        precision_low=clopper_pearson_lower(shown.right, shown.accepted, delta),
        accepted=shown.accepted,
        right=shown.right,
        coverage=float((scores_N >= best.threshold).mean()) if best else 0.0,
        num_truths=len(scores_N),
        num_certifying=len(scores),
        least_certifying=least,
        missing=0 if best else _num_missing(accepted, rights, len(scores), target, delta),
        levels=tuple(tested),
    )


def _choose_thresholds(scores: Array, num_certifying: int, target: float, delta: float) -> Array:
    """At most NUM_LEVELS thresholds, strict to loose, in even steps of coverage; all are scores that occur.

    A first level with too few truths to pass would end the sequence at once, and one that passes only without errors
    would often end it. So the first level holds enough truths for two errors, with a margin of one standard
    deviation; for fewer errors where that would take more than half of the images.
    """
    needed = [_min_accepted(errors, target, delta) for errors in _FIRST_ERRORS]
    if not len(scores) or num_certifying < needed[-1]:
        return scores[:0]
    shares = [wilson_upper(count, num_certifying, z=1.0) for count in needed if count <= num_certifying]
    first = next((share for share in shares if share <= _MAX_FIRST_SHARE), shares[-1])
    places = np.ceil(np.linspace(first, 1, NUM_LEVELS) * len(scores)).astype(np.int64) - 1
    return np.unique(np.sort(scores)[::-1][places])[::-1]


def _num_missing(accepted: Array, rights: Array, num_certifying: int, target: float, delta: float) -> int:
    """How many more truths would let some level pass if all of them were right."""
    least = _min_accepted(0, target, delta)
    if num_certifying < least or not accepted.any():
        return math.ceil(max(1, least - num_certifying) / CERTIFYING_SHARE)
    found = [
        (_min_accepted(taken - right, target, delta) - taken) * num_certifying / taken
        for taken, right in zip(accepted.tolist(), rights.tolist(), strict=True)
        if taken
    ]
    return math.ceil(max(1.0, float(min(found))) / CERTIFYING_SHARE)


def _min_accepted(errors: int, target: float, delta: float) -> int:
    """The smallest number of accepted images that pass with so many errors."""
    low, high = errors, errors + 1
    while binomial_tail(high - errors, high, target) > delta:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if binomial_tail(middle - errors, middle, target) <= delta else (middle, high)
    return high
