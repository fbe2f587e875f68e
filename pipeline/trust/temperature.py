"""One temperature for the pool: p^(1/T), normalised, with T fitted on labelled images.

The temperature is fitted after pooling: calibrated members do not make a calibrated pool (Rahaman & Thiery,
"Uncertainty quantification and deep ensembles", NeurIPS 2021, arXiv 2007.08792). It may be
below 1: networks trained with label smoothing or mixup are less certain than they could be. It never changes which
class comes first.

Only the top k probabilities are stored. What is missing to 1 is spread evenly over the other classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.errors import RequestError

MIN_TRUTHS = 50
NUM_FOLDS = 5
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0

_GOLDEN = (math.sqrt(5) - 1) / 2
_TOLERANCE = 1e-5  # of the logarithm of the temperature
_LEAST_REST = 2.0**-24  # what float32 scores can leave of 1: a smaller rest is unknown, not 0
_SEED = 0

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Pooled:
    """Pooled distributions of N labelled images, of which the top k of K classes are known.

    Attributes:
        logs_Nk: float64, logarithms of the known probabilities, best first.
        log_rest_N: float64, logarithm of the probability of each other class; without any, minus infinity.
        log_truth_N: float64, logarithm of the probability of the true class.
        num_rest: K - k.
    """

    logs_Nk: Array
    log_rest_N: Array
    log_truth_N: Array
    num_rest: int

    @classmethod
    def of(cls, scores_Nk: Array, places_N: Array, num_classes: int) -> Pooled:
        """From what is stored.

        Args:
            scores_Nk: Float, top k probabilities, best first.
            places_N: Where the true class is among them, from 0; -1 where it is not.
            num_classes: K, at least k.
        """
        exact_Nk = scores_Nk.astype(np.float64)
        num_rest = num_classes - exact_Nk.shape[1]
        log_rest_N = np.full(len(exact_Nk), -np.inf)
        if num_rest:
            log_rest_N = np.log(np.maximum(1 - exact_Nk.sum(axis=1), _LEAST_REST) / num_rest)
        logs_Nk = np.log(np.maximum(exact_Nk, np.finfo(np.float32).tiny))
        known_N = np.take_along_axis(logs_Nk, np.maximum(places_N, 0)[:, None], axis=1)[:, 0]
        return cls(logs_Nk, log_rest_N, np.where(places_N >= 0, known_N, log_rest_N), num_rest)

    def __len__(self) -> int:
        return len(self.log_truth_N)

    def take(self, rows: Array) -> Pooled:
        """Some of the images."""
        return Pooled(self.logs_Nk[rows], self.log_rest_N[rows], self.log_truth_N[rows], self.num_rest)

    def nll(self, temperature: float) -> Array:
        """Negative log-likelihood of the truth of each image at a temperature, nats, (N,)."""
        nll_N: Array = self._log_sum(temperature) - self.log_truth_N / temperature
        return nll_N

    def scores(self, temperature: float) -> Array:
        """The largest probability of each image at a temperature, (N,)."""
        scores_N: Array = np.exp(self.logs_Nk[:, 0] / temperature - self._log_sum(temperature))
        return scores_N

    def _log_sum(self, temperature: float) -> Array:
        """Logarithm of the sum over classes of p^(1/T)."""
        largest_N = np.maximum(self.logs_Nk[:, 0], self.log_rest_N) / temperature
        total_N = np.exp(self.logs_Nk / temperature - largest_N[:, None]).sum(axis=1)
        if self.num_rest:
            total_N += self.num_rest * np.exp(self.log_rest_N / temperature - largest_N)
        log_sum_N: Array = np.log(total_N) + largest_N
        return log_sum_N


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What temperatures say of images that they were not fitted on.

    Attributes:
        nll_N: Negative log-likelihoods, nats.
        scores_N: Largest probabilities.
    """

    nll_N: Array
    scores_N: Array


def fit_temperature(pooled: Pooled) -> float:
    """The temperature with the smallest mean negative log-likelihood.

    The likelihood is convex in 1 / T, so that there is one minimum along any monotone scale of it.

    Args:
        pooled: Labelled images.

    Raises:
        RequestError: The images do not say: the smallest or largest temperature is the best.

    Source: Guo et al., "On calibration of modern neural networks", ICML 2017.
    """
    low, high = math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)
    found = _golden_section(lambda log: float(pooled.nll(math.exp(log)).mean()), low, high)
    if min(found - low, high - found) < 100 * _TOLERANCE:
        raise RequestError(
            f"{len(pooled):,} truths do not say which temperature fits: the best is {MIN_TEMPERATURE:g} or less "
            f"(are all labels right?), or {MAX_TEMPERATURE:g} or more (are these truths of other images?); "
            "give more or other ones"
        )
    return math.exp(found)


def cross_validate(pooled: Pooled) -> HeldOut:
    """Fit on four fifths of the images what is said of the last fifth, five times. The folds are always the same.

    Raises:
        RequestError: As for :func:`fit_temperature`.
    """
    fold_N = np.random.default_rng(_SEED).permutation(len(pooled)) % NUM_FOLDS
    nll_N, scores_N = np.empty(len(pooled)), np.empty(len(pooled))
    for fold in range(NUM_FOLDS):
        held_N = fold_N == fold
        temperature = fit_temperature(pooled.take(~held_N))
        held = pooled.take(held_N)
        nll_N[held_N], scores_N[held_N] = held.nll(temperature), held.scores(temperature)
    return HeldOut(nll_N, scores_N)


def _golden_section(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one minimum has it.

    Source: Kiefer, "Sequential minimax search for a maximum", Proceedings of the AMS 1953.
    """
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > _TOLERANCE:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = function(right)
    return (low + high) / 2
