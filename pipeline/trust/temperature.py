"""Temperature scaling of the pool: p^(1/T), normalised, with T fitted on images with known truth.

The temperature is fitted after pooling: calibrated members do not make a calibrated pool (Rahaman & Thiery,
"Uncertainty quantification and deep ensembles", NeurIPS 2021, arXiv 2007.08792). It may be below 1: networks trained
with label smoothing or mixup are underconfident. It never changes the order of the classes.

Only the top k probabilities are stored, and the entropy of all. The rest up to 1 is taken as spread evenly over as many
other classes as the entropy tells: the stored top k, entropy and number of classes are then those of the whole
distribution, and any other temperature is computed from them. With the top 5 of 1,000 classes this comes as close as
the top 20 without the entropy ([measured](../../examples/guides/trust.md)).

**Images in which no class fits** (truth ``none``). A calibrated score s is the share of such labels that is right, and
here no label is. Of the truth of such an image the model can only express that it is not the label: a coarsened
observation (Heitjan & Rubin, "Ignorability and coarse data", Annals of Statistics 1991), whose likelihood is 1 - s. So
scores are fitted to be right about the label, over all images of the collection (top-label calibration: Gupta & Ramdas,
ICLR 2022). To leave these images out would calibrate for a collection without them, and scores of this one would be too
high. A target that is uniform over the classes (Hendrycks, Mazeika & Dietterich, "Deep anomaly detection with outlier
exposure", ICLR 2019) trains networks; a single temperature would follow the tail of small probabilities, not the score.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.errors import RequestError
from pipeline.text import fmt

MIN_TRUTHS = 50
NUM_FOLDS = 5
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0

_GOLDEN = (math.sqrt(5) - 1) / 2
_TOLERANCE = 1e-5  # of the logarithm of the temperature
_MIN_REST = 2.0**-24  # the resolution of float32 scores: a smaller rest is unknown, not 0
_NUM_STEPS = 33  # from the smallest temperature to the largest
_SEED = 0

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class PooledProbs:
    """Pooled probabilities of N images with known truth; the top k of K classes are known.

    Attributes:
        logs_Nk: float64, logarithms of the known probabilities, best first.
        log_rest_N: float64, logarithm of the probability of each other class; minus infinity if k = K.
        log_truth_N: float64, logarithm of the probability of the true class; NaN where no class fits.
        num_rest_N: float64, number of other classes that share the rest, 0 to K - k.
    """

    logs_Nk: Array
    log_rest_N: Array
    log_truth_N: Array
    num_rest_N: Array

    @classmethod
    def from_top_k(
        cls, scores_Nk: Array, ranks_N: Array, num_classes: int, entropy_N: Array | None = None
    ) -> PooledProbs:
        """From the stored top k.

        Args:
            scores_Nk: float, top k probabilities, 0-1, best first.
            ranks_N: int, rank of the true class among them, from 0; -1 where it is not among them.
            num_classes: K, at least k.
            entropy_N: float, entropy of all K probabilities, nats; None to spread the rest over all other classes.
        """
        exact_Nk = scores_Nk.astype(np.float64)
        num_rest_N = np.full(len(exact_Nk), float(num_classes - exact_Nk.shape[1]))
        log_rest_N = np.full(len(exact_Nk), -np.inf)
        logs_Nk = np.log(np.maximum(exact_Nk, np.finfo(np.float32).tiny))
        if num_classes > exact_Nk.shape[1]:
            log_mass_N = np.log(np.maximum(1 - exact_Nk.sum(axis=1), _MIN_REST))
            if entropy_N is not None:
                left_N = entropy_N.astype(np.float64) + (exact_Nk * logs_Nk).sum(axis=1)
                log_number_N = left_N / np.exp(log_mass_N) + log_mass_N
                # no other class has more than the last known one
                log_least_N = np.maximum(0, log_mass_N - logs_Nk[:, -1])
                number_N = np.exp(np.clip(log_number_N, log_least_N, np.log(num_rest_N)))
                num_rest_N = np.where(np.isnan(number_N), num_rest_N, number_N)
            log_rest_N = log_mass_N - np.log(num_rest_N)
        known_N = np.take_along_axis(logs_Nk, np.maximum(ranks_N, 0)[:, None], axis=1)[:, 0]
        return cls(logs_Nk, log_rest_N, np.where(ranks_N >= 0, known_N, log_rest_N), num_rest_N)

    def __len__(self) -> int:
        return len(self.log_truth_N)

    def take(self, rows: Array) -> PooledProbs:
        """The images with these indices, or where this mask is true."""
        return PooledProbs(self.logs_Nk[rows], self.log_rest_N[rows], self.log_truth_N[rows], self.num_rest_N[rows])

    def without_truth(self, none_N: Array) -> PooledProbs:
        """The same images; no class fits those for which this mask is true."""
        return dataclasses.replace(self, log_truth_N=np.where(none_N, np.nan, self.log_truth_N))

    def nll(self, temperature: float) -> Array:
        """Negative log-likelihood of the truth at a temperature: float64 (N,), nats.

        Where no class fits it is that of the label being wrong.
        """
        nll_N: Array = self._log_sum(temperature) - self.log_truth_N / temperature
        none_N = np.isnan(self.log_truth_N)
        if none_N.any():
            nll_N[none_N] = wrong_nll(self.take(none_N).scores(temperature))
        return nll_N

    def scores(self, temperature: float) -> Array:
        """The largest probability of each image at a temperature: float64 (N,), 0-1."""
        scores_N: Array = np.exp(self.logs_Nk[:, 0] / temperature - self._log_sum(temperature))
        return scores_N

    def top_k(self, temperature: float) -> tuple[Array, Array]:
        """The known probabilities at a temperature, float64 (N, k), 0-1, and the entropy of all, float64 (N,), nats."""
        log_sum_N = self._log_sum(temperature)
        logs_Nk = self.logs_Nk / temperature - log_sum_N[:, None]
        probs_Nk = np.exp(logs_Nk)
        entropy_N = -(probs_Nk * logs_Nk).sum(axis=1)
        if np.isfinite(self.log_rest_N).any():
            log_each_N = self.log_rest_N / temperature - log_sum_N
            entropy_N -= self.num_rest_N * np.exp(log_each_N) * log_each_N
        return probs_Nk, entropy_N

    def _log_sum(self, temperature: float) -> Array:
        """Logarithm of the sum over classes of p^(1/T): float64 (N,)."""
        largest_N = np.maximum(self.logs_Nk[:, 0], self.log_rest_N) / temperature
        total_N = np.exp(self.logs_Nk / temperature - largest_N[:, None]).sum(axis=1)
        total_N += self.num_rest_N * np.exp(self.log_rest_N / temperature - largest_N)
        log_sum_N: Array = np.log(total_N) + largest_N
        return log_sum_N


@dataclass(frozen=True, slots=True)
class HeldOutScores:
    """Scores of images at a temperature that was fitted on other images.

    Attributes:
        nll_N: float64, negative log-likelihoods of the truth, nats.
        scores_N: float64, largest probabilities, 0-1.
    """

    nll_N: Array
    scores_N: Array


def fit_temperature(pooled: PooledProbs) -> float:
    """Fit the temperature with the smallest mean negative log-likelihood.

    It is convex in 1 / T, so there is one minimum along any monotone scale of T. Images in which no class fits may make
    several: then the search begins at the best of some steps.

    Args:
        pooled: Images with known truth.

    Raises:
        RequestError: The best temperature is at a limit: the images do not determine it.

    Source: Guo et al., "On calibration of modern neural networks", ICML 2017.
    """
    low, high = math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)

    def mean_nll(log: float) -> float:
        return float(pooled.nll(math.exp(log)).mean())

    around = (low, high)
    if np.isnan(pooled.log_truth_N).any():
        steps = np.linspace(low, high, _NUM_STEPS).tolist()
        best = min(range(_NUM_STEPS), key=lambda step: mean_nll(steps[step]))
        around = (steps[max(0, best - 1)], steps[min(_NUM_STEPS - 1, best + 1)])
    found = _golden_section(mean_nll, *around)
    if min(found - low, high - found) < 100 * _TOLERANCE:
        raise RequestError(
            f"{fmt.plural(len(pooled), 'truth does', 'truths do')} not determine the temperature: the best is "
            f"{MIN_TEMPERATURE:g} or less "
            f"(are all labels right?), or {MAX_TEMPERATURE:g} or more (are these truths of other images?); "
            "give more or other ones"
        )
    return math.exp(found)


def cross_validate(pooled: PooledProbs) -> HeldOutScores:
    """Scores of held-out images: the temperature is fitted on four fifths, five times.

    Raises:
        RequestError: As for :func:`fit_temperature`.
    """
    nll_N, scores_N = np.empty(len(pooled)), np.empty(len(pooled))
    for held_N in split_folds(len(pooled), NUM_FOLDS):
        temperature = fit_temperature(pooled.take(~held_N))
        held = pooled.take(held_N)
        nll_N[held_N], scores_N[held_N] = held.nll(temperature), held.scores(temperature)
    return HeldOutScores(nll_N, scores_N)


def wrong_nll(scores_N: Array) -> Array:
    """Negative log-likelihood of labels with these scores being wrong: float64 (N,), nats."""
    nll_N: Array = -np.log(np.maximum(1 - scores_N, _MIN_REST))
    return nll_N


def split_folds(num_images: int, num_folds: int) -> Iterator[Array]:
    """Masks of the held-out images of each fold: bool (N,); equal in every run."""
    fold_N = np.random.default_rng(_SEED).permutation(num_images) % num_folds
    for fold in range(num_folds):
        yield fold_N == fold


def _golden_section(function: Callable[[float], float], low: float, high: float) -> float:
    """The minimum of a function that has one.

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
