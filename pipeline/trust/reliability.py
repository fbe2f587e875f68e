"""Reliability: whether labels with a score of 0.8 are right four times in five.

The expected calibration error (ECE) is estimated over bins of equal mass: most scores are near 1, and bins of equal
width would put them all into one. It is not 0 even for a perfectly calibrated predictor, because the accuracy of each
bin varies by chance. The floor says how large it would be then.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

NUM_BINS = 15

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Bin:
    """Images with neighbouring scores.

    Attributes:
        low, high: Their lowest and highest score, 0-1.
        images: How many.
        score: Their mean score, 0-1.
        accuracy: Share of them that is right, 0-1.
    """

    low: float
    high: float
    images: int
    score: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Reliability:
    """Calibration of scores.

    Attributes:
        ece: Expected calibration error, 0-1: mean distance of score and accuracy over the bins.
        floor: Expected ECE of a perfectly calibrated predictor with these scores, 0-1.
        bins: From low to high scores.
    """

    ece: float
    floor: float
    bins: tuple[Bin, ...]


def compute_reliability(scores_N: Array, right_N: Array, num_bins: int = NUM_BINS) -> Reliability:
    """Compare scores with the share of labels that are right.

    Args:
        scores_N: float, 0-1.
        right_N: bool, whether the labels are right.
        num_bins: Bins of equal mass at most; images with equal scores share a bin.

    Source: Naeini, Cooper & Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015;
    equal mass: Roelofs et al., "Mitigating bias in calibration error estimation", AISTATS 2022 (arXiv 2012.08668).
    """
    num_images = len(scores_N)
    if not num_images:
        return Reliability(0.0, 0.0, ())
    order_N = np.argsort(scores_N, kind="stable")
    sorted_N = scores_N[order_N].astype(np.float64)
    starts = _bin_starts(sorted_N, num_bins)
    counts = np.diff([*starts, num_images])
    means = np.clip(np.add.reduceat(sorted_N, starts) / counts, 0, 1)
    accuracies = np.add.reduceat(right_N[order_N].astype(np.float64), starts) / counts
    variances = np.add.reduceat(np.clip(sorted_N * (1 - sorted_N), 0, None), starts)
    ends = [*starts[1:], num_images]
    bins = tuple(
        Bin(float(sorted_N[start]), float(sorted_N[end - 1]), int(count), float(mean), float(accuracy))
        for start, end, count, mean, accuracy in zip(starts, ends, counts, means, accuracies, strict=True)
    )
    ece = float(np.abs(means - accuracies) @ counts) / num_images
    deviations = (
        _mean_deviation(int(count), float(mean), float(variance))
        for count, mean, variance in zip(counts, means, variances, strict=True)
    )
    return Reliability(ece, sum(deviations) / num_images, bins)


def _bin_starts(sorted_N: Array, num_bins: int) -> Array:
    """Start indices of bins of about equal mass; a cut inside a run of equal scores moves to its end."""
    num_images = len(sorted_N)
    cuts = np.arange(1, num_bins) * num_images // num_bins
    cuts = np.searchsorted(sorted_N, sorted_N[cuts[cuts > 0] - 1], side="right")
    return np.unique(np.concatenate([[0], cuts[cuts < num_images]])).astype(np.intp)


def _mean_deviation(count: int, mean: float, variance: float) -> float:
    """Expected distance, in images, between the number of right labels and the sum of calibrated scores.

    Exact where all scores are equal (a binomial), and in the limit of many images.

    Args:
        count: Images.
        mean: Of their scores.
        variance: Sum of p (1 - p) over them.

    Source: De Moivre's formula, in Diaconis & Zabell, "Closed form summation for classical distributions: variations
    on a theme of De Moivre", Statistical Science 1991.
    """
    if variance <= 0 or not 0 < mean < 1:
        return 0.0
    above = min(count, math.floor(count * mean) + 1)
    log_choose = math.lgamma(count + 1) - math.lgamma(above + 1) - math.lgamma(count - above + 1)
    log_power = above * math.log(mean) + (count - above + 1) * math.log1p(-mean)
    binomial = 2 * above * math.exp(log_choose + log_power)
    return binomial * math.sqrt(min(1.0, variance / (count * mean * (1 - mean))))
