"""Promised precision: the lowest score threshold at which enough labels are right, with a known risk.

Images whose score is at least the threshold are accepted. A share of at least ``target`` of their labels is right,
except with a risk of ``delta``: of all random draws of the truth, at most that share leads to a promise that does not
hold.

**What is fixed and what is random.** The selection (what de-duplication and the other filters leave) is a given set of
images with given scores, each label right or wrong. The truths are a simple random draw from it, without replacement;
nothing else is random. A random draw from all labelled images is one from the selection too: given how many of it fall
into the selection, each set of so many is equally likely, because no filter looks at truths.

**Levels.** The thresholds t_1 > t_2 > ... come from the scores of the selection (:mod:`pipeline.trust.levels`), and
from no label. So they are fixed before anything is random, and all truths certify.

**One test.** Level j accepts N_j images, of which K_j are right. Given that k of the truths fall among them, these are
a random draw of k from N_j, and the number x of right ones is hypergeometric. The hypothesis "K_j < target * N_j" is
rejected if the chance of at least x is no more than delta for the largest such K_j, and then for all smaller ones.
That is exact for any N_j, and where all images of a level have a truth nothing is left to chance. Where only the
user's word says that the truth is a random draw, nothing is gained from the finite number: the larger of this chance
and that of the binomial test of Clopper and Pearson counts, whichever way the draw was.

**All tests.** Levels are tested from strict to loose, each at ``delta``. The first failure ends the sequence, and the
level before it is promised. The promise can be wrong only if the first level of too low a precision passes its test,
whatever the others do. So many tests carry no more risk than one, and precision need not fall along the levels.

**Truths that scores were fitted on** (by a calibration) are no random draw once the scores are fixed, and certify
nothing. But their labels are known: they are a part of the selection in which nothing is random. With x_0 right ones
among the k_0 of them at level j, the other N_j - k_0 images are tested for K_j - x_0 right ones. The truths that were
not fitted on are a random draw from these, if those to fit on were chosen without a look at the rest.

None of this needs that an image has the same label at all thresholds (:mod:`pipeline.trust.back_off`).

What the risk does not cover: truths that were skipped because they are hard; a target, filters or networks chosen
after a look at these truths; several attempts with more truths each time, of which each takes the risk again. The
promise is about all classes together.

Source: fixed-sequence testing in Angelopoulos, Bates, Candes, Jordan & Lei, "Learn then test", arXiv 2110.01052;
Clopper & Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial", Biometrika 1934;
the same for finite populations: Buonaccorsi, "A note on confidence intervals for proportions in finite populations",
The American Statistician 1987.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np

from pipeline.errors import RequestError
from pipeline.trust.intervals import binomial_tail, clopper_pearson_lower, hypergeometric_tail
from pipeline.trust.levels import NUM_LEVELS, Levels, at_or_above, choose_levels
from pipeline.trust.needed import Needed, estimate_needed

_OLD_CERTIFYING_SHARE = 0.5
# A strict start fails where few truths allow no error; a loose one where precision has fallen to the target by then,
# which comes sooner the higher the target. Best of those tried in examples/promise_rates.py.
_MAX_FIRST_SHARE, _MAX_FIRST_SHARE_ABOVE, _HIGH_TARGET = 0.45, 1 / 3, 0.95

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Level:
    """One threshold that was tested.

    Attributes:
        threshold: Images of at least this score are accepted.
        accepted: Certifying images among them.
        right: Of these, with the right label.
        images: Images of the selection that are accepted; None in promises of earlier versions.
    """

    threshold: float
    accepted: int
    right: int
    images: int | None = None


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
        coverage: Share of the selection at or above the threshold, 0-1; 0 without a threshold.
        num_truths: Images of the selection with truth.
        num_certifying: Of these, those that certify.
        least_certifying: Certifying images that would be enough if all were accepted and right.
        missing: Lower bound of the additional truths needed for any promise; it assumes that all of them are right. 0
            where there is a threshold.
        levels: The tested levels, strict to loose; the last one failed, unless all passed.
        num_selected: Images of the selection; None in promises of earlier versions.
        num_fitted: Images of the selection that the calibration was fitted on, which certify nothing.
        proven_random: Whether the list itself proves that the truth is a random draw; if not, that is the user's word.
        needed: What the truths let expect of further ones; None where there is a threshold, or too few.
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
    num_selected: int | None = None
    num_fitted: int = 0
    proven_random: bool = False
    needed: Needed | None = None

    @property
    def in_words(self) -> str:
        """What is promised, in a few words."""
        if self.threshold is None:
            return "none"
        return f"{100 * self.target:.6g} % of the labels are right; risk {100 * self.delta:.6g} %"


class JudgedImages(Protocol):
    """Images whose truth is known, and what they are labelled at each threshold."""

    @property
    def scores_n(self) -> Array:
        """float, (n,), the largest threshold at which each image is accepted."""

    def __len__(self) -> int:
        """Images, n."""

    def count(self, thresholds_L: Array) -> tuple[Array, Array]:
        """Images that are accepted at each threshold, and the right ones among them: int64 (L,) each."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Images with one label each whose truth is known.

    Attributes:
        scores_n: float, larger is better, on any scale.
        right_n: bool, whether their labels are right.
    """

    scores_n: Array
    right_n: Array

    @classmethod
    def none(cls) -> Judged:
        """No images."""
        return cls(np.zeros(0), np.zeros(0, bool))

    def __len__(self) -> int:
        return len(self.scores_n)

    def count(self, thresholds_L: Array) -> tuple[Array, Array]:
        """Images at or above each threshold, and the right ones among them: int64 (L,) each."""
        return at_or_above(self.scores_n, thresholds_L), at_or_above(self.scores_n[self.right_n], thresholds_L)


@dataclass(frozen=True, slots=True)
class PrecisionTest:
    """The test of one level.

    Attributes:
        target: Requested precision, above 0 and below 1.
        delta: Risk, above 0 and below 1.
        proven_random: Whether the truth is known to be a random draw without replacement.

    Raises:
        RequestError: Target or delta are not between 0 and 1.
    """

    target: float
    delta: float
    proven_random: bool = False

    def __post_init__(self) -> None:
        for name, value in (("target precision", self.target), ("delta", self.delta)):
            if not 0 < value < 1:
                raise RequestError(f"{name} {value:g}: must be above 0 and below 1")

    @property
    def max_first_share(self) -> float:
        """Share of the selection that the strictest level may hold to tolerate errors, 0-1."""
        return _MAX_FIRST_SHARE if self.target <= _HIGH_TARGET else _MAX_FIRST_SHARE_ABOVE

    def passes(self, wrong: int, truths: int, images: int, known: tuple[int, int] = (0, 0)) -> bool:
        """Whether the truths show that the precision of a level is at least the target.

        Args:
            wrong: Truths with a wrong label.
            truths: All truths that certify.
            images: Images of the level, with those that are known.
            known: Images with a truth that does not certify, and those of them that are right.
        """
        return self.chance(wrong, truths, images, known) <= self.delta

    def chance(self, wrong: int, truths: int, images: int, known: tuple[int, int] = (0, 0)) -> float:
        """The largest chance of so few wrong ones at a precision below the target, 0-1. Arguments as above."""
        needed = math.ceil(Fraction(repr(self.target)) * images)  # right ones, from which on the precision is enough
        others, good = images - known[0], needed - 1 - known[1]
        if good < 0:
            return 0.0
        if good >= others:
            return 1.0
        exact = hypergeometric_tail(truths - wrong, truths, good, others)
        if self.proven_random:
            return exact
        share = (self.target * images - known[1]) / others
        return max(exact, binomial_tail(truths - wrong, truths, share) if 0 < share < 1 else exact)

    def lower_bound(self, wrong: int, truths: int, images: int, known: tuple[int, int] = (0, 0)) -> float:
        """The smallest precision of a level that the truths do not rule out, 0-1. Arguments as above."""
        others = images - known[0]
        if not truths or not others:
            return known[1] / images if images else 0.0
        low, high = 0, others  # right ones among the others: low is ruled out or 0, high is not
        while high - low > 1:
            good = (low + high) // 2
            if hypergeometric_tail(truths - wrong, truths, good, others) <= self.delta:
                low = good
            else:
                high = good
        bound = high / others if hypergeometric_tail(truths - wrong, truths, low, others) <= self.delta else 0.0
        if not self.proven_random:
            bound = min(bound, clopper_pearson_lower(truths - wrong, truths, self.delta))
        return (bound * others + known[1]) / images

    def least_truths(self, images: int) -> int:
        """The smallest number of truths that pass if they are all of a level and right."""
        low, high = 0, 1
        while not self.passes(0, high, max(high, images)):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.passes(0, middle, max(middle, images)) else (middle, high)
        return high


def certify(test: PrecisionTest, truths: JudgedImages, levels: Levels, fitted: JudgedImages | None = None) -> Promise:
    """Find the lowest threshold whose precision can be promised.

    Args:
        test: The test of a level.
        truths: The truths that certify.
        levels: The thresholds, as :func:`pipeline.trust.levels.choose_levels` or
            :meth:`pipeline.trust.back_off.BackOffLevels.choose` makes them; fixed without a look at the truths.
        fitted: Images of the selection that scores were fitted on; not among the truths.
    """
    known: JudgedImages = Judged.none() if fitted is None else fitted
    accepted_L, right_L = truths.count(levels.thresholds_L)
    known_L = list(zip(*(counts.tolist() for counts in known.count(levels.thresholds_L)), strict=True))
    tested, passed = [], 0
    for at, level in enumerate(
        map(Level, levels.thresholds_L.tolist(), accepted_L.tolist(), right_L.tolist(), levels.images_L.tolist())
    ):
        tested.append(level)
        if not test.passes(level.accepted - level.right, level.accepted, levels.images_L[at].item(), known_L[at]):
            break
        passed = len(tested)
    best = tested[passed - 1] if passed else None
    shown = best or (tested[0] if tested else Level(math.inf, 0, 0, 0))
    images = shown.images or 0
    least = test.least_truths(levels.total)
    return Promise(
        target=test.target,
        delta=test.delta,
        threshold=best.threshold if best else None,
        precision_low=test.lower_bound(
            shown.accepted - shown.right, shown.accepted, images, known_L[max(0, passed - 1)] if tested else (0, 0)
        ),
        accepted=shown.accepted,
        right=shown.right,
        coverage=images / levels.total if best else 0.0,
        num_truths=len(truths),
        num_certifying=len(truths),
        least_certifying=least,
        missing=0 if best else _count_missing(test, truths, levels) or max(1, least - len(truths)),
        levels=tuple(tested),
        num_selected=levels.total,
        num_fitted=len(known),
        proven_random=test.proven_random,
    )


def choose_and_certify(
    test: PrecisionTest, truths: Judged, scores: Iterable[tuple[Array, Array]], total: int, fitted: Judged | None = None
) -> Promise:
    """Choose the levels, and certify; where nothing can be promised, estimate how many truths would do.

    Args:
        test: The test of a level.
        truths: The truths that certify.
        scores: Distinct scores of the selection from high to low and the images of each, batch by batch.
        total: Images of the selection.
        fitted: As for :func:`certify`.
    """
    levels = choose_levels(scores, total, len(truths), test.passes, test.max_first_share)
    return certify_or_estimate(test, truths, levels, fitted)


def certify_or_estimate(
    test: PrecisionTest, truths: JudgedImages, levels: Levels, fitted: JudgedImages | None = None
) -> Promise:
    """Certify; where nothing can be promised, estimate how many truths would do. Arguments as for :func:`certify`."""
    promise = certify(test, truths, levels, fitted)
    if promise.threshold is not None:
        return promise
    scores_n = np.sort(truths.scores_n)[::-1]
    needed = estimate_needed(*truths.count(scores_n), levels.total, test.passes, test.max_first_share)
    return dataclasses.replace(promise, needed=needed)


def _count_missing(test: PrecisionTest, truths: JudgedImages, levels: Levels) -> int | None:
    """How many more truths would let some threshold pass if all of them were right; None without levels.

    With more truths the strictest level is stricter. So the thresholds above it count, too: those of the truths.
    """
    if not len(levels):
        return None
    stricter = np.unique(truths.scores_n[truths.scores_n > levels.thresholds_L[0]])[::-1]
    thresholds = np.concatenate([levels.thresholds_L, stricter[:: math.ceil(len(stricter) / NUM_LEVELS) or 1]])
    accepted_T, right_T = truths.count(thresholds)
    images_T = np.round(accepted_T * (levels.total / len(truths))).astype(np.int64)
    images_T[: len(levels)] = levels.images_L
    least: int | None = None
    for accepted, right, images in zip(accepted_T.tolist(), right_T.tolist(), images_T.tolist(), strict=True):

        def is_enough(more: int, at: tuple[int, int, int] = (accepted, right, images)) -> bool:
            return _would_pass(test, at[0] - at[1], at[0] + round(more * at[2] / levels.total), at[2])

        if least is not None and not is_enough(least - 1):
            continue
        low, high = 0, 1
        while not is_enough(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if is_enough(middle) else (middle, high)
        least = high
    return least


def _would_pass(test: PrecisionTest, wrong: int, truths: int, images: int) -> bool:
    if truths <= images:
        return test.passes(wrong, truths, images)
    return (
        binomial_tail(truths - wrong, truths, test.target) <= test.delta
    )  # more than there are: in a larger selection


def certifying_mask(shards: Iterable[str], keys: Iterable[str]) -> Array:
    """For calibrations that do not tell what they were fitted on: whether an image certifies, bool (N,).

    Half of the images do, by a hash of shard and key, equal in every run; the calibration was to be fitted on others.
    """
    return np.fromiter((_is_certifying(shard, key) for shard, key in zip(shards, keys, strict=True)), bool)


def _is_certifying(shard: str, key: str) -> bool:
    name = f"{shard}\n{key}".encode("utf-8", "surrogateescape")
    return hashlib.blake2b(name, digest_size=1, person=b"certify").digest()[0] < 256 * _OLD_CERTIFYING_SHARE
