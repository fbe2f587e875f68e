"""Confidence intervals of shares, and of the difference of two shares of the same images; 95 % by default."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Z_95 = 1.959963984540054  # quantile 0.975 of the standard normal distribution
_BOUND_TOLERANCE = 1e-9

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Gain:
    """How much more often one predictor is right than another, on the same images.

    Attributes:
        over: Name of the other predictor.
        difference: Share of images right, first minus other, -1 to 1.
        interval: Of the difference.
        only_first: Images where only the first is right.
        only_other: Images where only the other is right.
        p_value: Chance of a split at least as uneven where both are right equally often, two-sided.
    """

    over: str
    difference: float
    interval: Interval
    only_first: int
    only_other: int
    p_value: float


def wilson_interval(successes: int, total: int) -> Interval:
    """Wilson's score interval of a share.

    Args:
        successes: At most ``total``.
        total: Number of trials; for 0 the interval is (0, 1).

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927; recommended
    by Brown, Cai & DasGupta, "Interval estimation for a binomial proportion", Statistical Science 2001.
    """
    if not total:
        return 0.0, 1.0
    share, weight = successes / total, Z_95**2 / total
    centre = share + weight / 2
    half = Z_95 * math.sqrt(share * (1 - share) / total + weight / (4 * total))
    # at the ends rounding must not exclude what was observed
    low = 0.0 if successes == 0 else (centre - half) / (1 + weight)
    high = 1.0 if successes == total else (centre + half) / (1 + weight)
    return low, high


def wilson_upper(successes: int, total: int, z: float) -> float:
    """Upper end of Wilson's interval at z standard deviations.

    Args:
        successes: At most ``total``.
        total: Above 0.
        z: At least 0.
    """
    share, weight = successes / total, z**2 / total
    return min(1.0, (share + weight / 2 + z * math.sqrt((share * (1 - share) + weight / 4) / total)) / (1 + weight))


def binomial_tail(successes: int, total: int, share: float) -> float:
    """Probability of at least so many successes of a binomial distribution.

    Args:
        successes: At most ``total``.
        total: Number of trials.
        share: Probability of a success in each, above 0 and below 1.
    """
    failures = np.arange(1, total - successes + 1)
    log_choose = np.cumsum(np.log((total - failures + 1) / failures))
    logs = log_choose + failures * math.log1p(-share) + (total - failures) * math.log(share)
    return min(1.0, math.exp(total * math.log(share)) + float(np.exp(logs).sum()))


def hypergeometric_tail(successes: int, drawn: int, good: int, total: int) -> float:
    """Probability of at least so many good ones in a draw without replacement.

    Args:
        successes: At most ``drawn``.
        drawn: At most ``total``.
        good: Good ones among all, 0 to ``total``.
        total: All there are.
    """
    fewest, most = max(0, drawn - good), min(drawn - successes, total - good)  # bad ones in the draw
    if fewest > most:
        return 0.0
    if drawn <= good:
        steps = np.arange(drawn)
        first = np.log((good - steps) / (total - steps)).sum()  # no bad one
    else:
        steps = np.arange(good)
        first = np.log((drawn - steps) / (total - steps)).sum()  # all good ones
    bad = np.arange(fewest + 1, most + 1)
    ratios = (total - good - bad + 1) / bad * (drawn - bad + 1) / (good - drawn + bad)
    logs = first + np.concatenate([[0.0], np.cumsum(np.log(ratios))])
    return min(1.0, float(np.exp(logs).sum()))


def clopper_pearson_lower(successes: int, total: int, delta: float) -> float:
    """Exact one-sided lower bound of a share: BetaInv(delta; x, k - x + 1) for x successes of k.

    Args:
        successes: At most ``total``.
        total: Number of trials; for 0 the bound is 0.
        delta: Risk that the share is below the bound, above 0 and below 1.

    Source: Clopper & Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
    Biometrika 1934.
    """
    low, high = 0.0, successes / total if total else 0.0
    while high - low > _BOUND_TOLERANCE:
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_tail(successes, total, middle) <= delta else (low, middle)
    return low


def paired_gain(over: str, only_first: int, only_other: int, total: int) -> Gain:
    """Compare two predictors on the same images.

    The interval is Wald's after half an image is added to each of the four cells; the p-value is McNemar's
    exact one.

    Args:
        over: Name of the other predictor.
        only_first: Images where only the first is right.
        only_other: Images where only the other is right.
        total: All images, above 0.

    Source: Agresti & Min, "Simple improved confidence intervals for comparing matched proportions", Statistics in
    Medicine 2005; McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika 1947.
    """
    padded, first, other = total + 2, only_first + 0.5, only_other + 0.5
    centre = (first - other) / padded
    half = Z_95 * math.sqrt(first + other - (first - other) ** 2 / padded) / padded
    return Gain(
        over=over,
        difference=(only_first - only_other) / total,
        interval=(max(-1.0, centre - half), min(1.0, centre + half)),
        only_first=only_first,
        only_other=only_other,
        p_value=_sign_test(only_first, only_other),
    )


def _sign_test(wins: int, losses: int) -> float:
    """Two-sided probability that a fair coin, thrown wins + losses times, splits at least as unevenly."""
    throws, fewer = wins + losses, min(wins, losses)
    steps = np.arange(1, fewer + 1)
    log_choose = np.concatenate([[0.0], np.cumsum(np.log((throws - steps + 1) / steps))])
    tail = np.exp(log_choose - throws * math.log(2)).sum()
    return min(1.0, 2 * float(tail))
