"""A log-stack: p proportional to exp(sum over members of a_m log p_m), with weights a_m >= 0 fitted on labelled images.

It is a geometric pool with the weights a_m / sum a at the temperature 1 / sum a. The negative log-likelihood is convex
in a, so there is one minimum; a projected Newton method finds it. A penalty against overfitting pulls the weights
towards their mean: strength / 2 times the sum of (a_m - mean a)^2. It leaves their sum free: at the largest strength
the fit is the geometric pool with equal weights at its best temperature. The strength is chosen by cross-validation.

Where no class fits an image, only the score says something about it (:mod:`pipeline.trust.temperature`). So the weights
are fitted to the other images, and then their sum, which is a temperature, to all.

Source: Genest & Zidek, "Combining probability distributions", Statistical Science 1986 (logarithmic pools); Wolpert,
"Stacked generalization", Neural Networks 1992; Bertsekas, "Projected Newton methods for optimization problems with
simple constraints", SIAM Journal on Control and Optimization 1982.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.errors import RequestError
from pipeline.labels import NO_CLASS
from pipeline.text import fmt
from pipeline.trust.temperature import (
    MIN_TEMPERATURE,
    NUM_FOLDS,
    PooledProbs,
    fit_temperature,
    split_folds,
    wrong_nll,
)

STRENGTHS = (10.0, 1.0, 0.1, 0.01, 0.001)  # of the penalty; the first of equally good ones is taken
_INNER_FOLDS = 3  # when a strength is chosen for a fold of the cross-validation
_MAX_WEIGHT = 1 / MIN_TEMPERATURE
_BLOCK_IMAGES = 512  # images at a time: 5 members and 1,000 classes take 20 MB
_MAX_STEPS = 60
_GRADIENT_TOLERANCE = 1e-7
_RIDGE = 1e-9

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class MemberLogProbs:
    """Log-probabilities of M members for N images with known truth.

    Attributes:
        logs_NMK: float32, logarithms of the probabilities.
        truth_N: int64, true classes, 0 to K - 1, or ``NO_CLASS``.
    """

    logs_NMK: torch.Tensor
    truth_N: torch.Tensor

    def __len__(self) -> int:
        return len(self.truth_N)

    def take(self, rows: Array) -> MemberLogProbs:
        """The images with these indices."""
        indices = torch.from_numpy(np.asarray(rows))
        return MemberLogProbs(self.logs_NMK[indices], self.truth_N[indices])

    @property
    def fits_N(self) -> Array:  # noqa: N802 - the shape
        """Whether a class fits each image: bool (N,)."""
        fits_N: Array = self.truth_N.numpy() != NO_CLASS
        return fits_N

    def blocks(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Log-probabilities (B, M, K) as float64 and truth (B,), a block of images at a time."""
        for start in range(0, len(self), _BLOCK_IMAGES):
            yield self.logs_NMK[start : start + _BLOCK_IMAGES].double(), self.truth_N[start : start + _BLOCK_IMAGES]


@dataclass(frozen=True, slots=True)
class StackScores:
    """Scores of a log-stack.

    Attributes:
        nll_N: float64, negative log-likelihoods of the truth, nats; of the label being wrong, where no class fits.
        scores_N: float64, largest probabilities, 0-1.
        right_N: bool, whether the first class is the true one.
    """

    nll_N: Array
    scores_N: Array
    right_N: Array


def fit_stack(log_probs: MemberLogProbs) -> tuple[Array, float]:
    """Fit the weights, with the strength of the penalty that cross-validation chooses.

    Args:
        log_probs: Images with known truth.

    Returns:
        The weights, float64 (M,), and the strength.

    Raises:
        RequestError: The best weights are 0 or at their upper limit: the images do not determine them.
    """
    fitting = log_probs.take(np.flatnonzero(log_probs.fits_N))
    strength = _choose_strength(fitting, NUM_FOLDS)
    weights_M = _fit_weights(fitting, strength, None)
    larger = _objective(fitting, 1.5 * weights_M, strength)[0]
    if weights_M.max() <= 0 or weights_M.max() >= _MAX_WEIGHT or larger <= _objective(fitting, weights_M, strength)[0]:
        raise RequestError(
            f"{fmt.plural(len(fitting), 'truth does', 'truths do')} not determine the weights: the best are "
            f"{'0 (are these truths of other images?)' if weights_M.max() <= 0 else 'without end (are all right?)'}; "
            "give more or other ones"
        )
    return _rescale(weights_M, log_probs), strength


def cross_validate(log_probs: MemberLogProbs) -> StackScores:
    """Scores of held-out images: strength and weights are fitted on four fifths, five times."""
    held = StackScores(np.empty(len(log_probs)), np.empty(len(log_probs)), np.empty(len(log_probs), bool))
    for fold_N in split_folds(len(log_probs), NUM_FOLDS):
        rest = log_probs.take(np.flatnonzero(~fold_N))
        fitting = rest.take(np.flatnonzero(rest.fits_N))
        weights_M = _fit_weights(fitting, _choose_strength(fitting, _INNER_FOLDS), None)
        found = score_stack(log_probs.take(np.flatnonzero(fold_N)), _rescale(weights_M, rest))
        held.nll_N[fold_N], held.scores_N[fold_N], held.right_N[fold_N] = found.nll_N, found.scores_N, found.right_N
    return held


def score_stack(log_probs: MemberLogProbs, weights_M: Array) -> StackScores:
    """Apply a log-stack.

    Args:
        log_probs: Of images.
        weights_M: float64, weights of the members.
    """
    weights = torch.from_numpy(weights_M)
    nll, scores, right = [], [], []
    for logs_BMK, truth_B in log_probs.blocks():
        logs_BK = torch.einsum("m,bmk->bk", weights, logs_BMK).log_softmax(dim=1)
        best_B = logs_BK.max(dim=1)
        nll.append(-logs_BK.gather(1, truth_B.clamp_min(0)[:, None])[:, 0])
        scores.append(best_B.values.exp())
        right.append(best_B.indices == truth_B)
    scores_N = torch.cat(scores).numpy()
    nll_N = np.where(log_probs.fits_N, torch.cat(nll).numpy(), wrong_nll(scores_N))
    return StackScores(nll_N, scores_N, torch.cat(right).numpy())


def pool_members(log_probs: MemberLogProbs, factors_M: Array, rule: str) -> PooledProbs:
    """Pool the members with their factors, over all classes.

    Args:
        log_probs: Of images.
        factors_M: float64, factors of the members.
        rule: ``geometric`` or ``mean``. Any other is pooled as ``mean``: the shares of a vote are no probabilities.
    """
    weights_M = torch.from_numpy(factors_M / factors_M.sum())
    logs, truths = [torch.zeros(0, log_probs.logs_NMK.shape[2]).double()], [torch.zeros(0).double()]
    for logs_BMK, truth_B in log_probs.blocks():
        if rule == "geometric":
            pool_BK = torch.einsum("m,bmk->bk", weights_M, logs_BMK).log_softmax(dim=1)
        else:
            pool_BK = (logs_BMK + weights_M.log()[:, None]).logsumexp(dim=1)
        logs.append(pool_BK.sort(dim=1, descending=True).values)
        truths.append(pool_BK.gather(1, truth_B.clamp_min(0)[:, None])[:, 0])
    logs_NK = torch.cat(logs).numpy()
    log_truth_N = np.where(log_probs.fits_N, torch.cat(truths).numpy(), np.nan)
    return PooledProbs(logs_NK, np.full(len(logs_NK), -np.inf), log_truth_N, np.zeros(len(logs_NK)))


def _rescale(weights_M: Array, log_probs: MemberLogProbs) -> Array:
    """The weights with the sum that fits all images best, those in which no class fits among them."""
    if log_probs.fits_N.all() or not weights_M.any():
        return weights_M
    temperature = fit_temperature(pool_members(log_probs, weights_M, "geometric"))
    rescaled_M: Array = weights_M / weights_M.sum() / temperature
    return rescaled_M


def _choose_strength(log_probs: MemberLogProbs, num_folds: int) -> float:
    """The strength with the lowest negative log-likelihood on held-out images."""
    if log_probs.logs_NMK.shape[1] == 1:
        return STRENGTHS[0]  # the penalty of one weight is 0
    totals = dict.fromkeys(STRENGTHS, 0.0)
    for fold_N in split_folds(len(log_probs), num_folds):
        rest, held = log_probs.take(np.flatnonzero(~fold_N)), log_probs.take(np.flatnonzero(fold_N))
        weights_M = None
        for strength in STRENGTHS:
            weights_M = _fit_weights(rest, strength, weights_M)
            totals[strength] += float(score_stack(held, weights_M).nll_N.sum())
    return min(totals, key=lambda strength: totals[strength])


def _fit_weights(log_probs: MemberLogProbs, strength: float, start_M: Array | None) -> Array:
    """The weights with the smallest mean negative log-likelihood plus penalty, each 0 to :data:`_MAX_WEIGHT`."""
    num_members = log_probs.logs_NMK.shape[1]
    weights_M = np.full(num_members, 1 / num_members) if start_M is None else start_M
    value, gradient_M, hessian_MM = _objective(log_probs, weights_M, strength)
    for _ in range(_MAX_STEPS):
        fixed_M = ((weights_M <= 0) & (gradient_M > 0)) | ((weights_M >= _MAX_WEIGHT) & (gradient_M < 0))
        free = np.flatnonzero(~fixed_M)
        if not len(free) or np.abs(gradient_M[free]).max() < _GRADIENT_TOLERANCE:
            break
        step_M = np.zeros(num_members)
        hessian = hessian_MM[np.ix_(free, free)] + _RIDGE * np.eye(len(free))
        step_M[free] = -np.linalg.solve(hessian, gradient_M[free])
        for length in 0.5 ** np.arange(30):
            candidate_M = np.clip(weights_M + length * step_M, 0, _MAX_WEIGHT)
            found = _objective(log_probs, candidate_M, strength)
            if found[0] <= value + 1e-4 * float(gradient_M @ (candidate_M - weights_M)):
                break
        else:
            break  # no step is better within the precision of float64
        weights_M, (value, gradient_M, hessian_MM) = candidate_M, found
    return weights_M


def _objective(log_probs: MemberLogProbs, weights_M: Array, strength: float) -> tuple[float, Array, Array]:
    """The objective, its gradient (M,) and its Hessian (M, M).

    With p the stack's distribution, the gradient of the negative log-likelihood is E_p[log p_m] - log p_m(truth), and
    its Hessian holds the covariances of log p_m and log p_l under p.
    """
    num_members = len(weights_M)
    weights = torch.from_numpy(weights_M)
    value, gradient, hessian = 0.0, torch.zeros(num_members).double(), torch.zeros(num_members, num_members).double()
    for logs_BMK, truth_B in log_probs.blocks():
        pool_BK = torch.einsum("m,bmk->bk", weights, logs_BMK)
        logs_BK = pool_BK.log_softmax(dim=1)
        value -= float(logs_BK.gather(1, truth_B[:, None]).sum())
        weighted_BMK = logs_BMK * logs_BK.exp()[:, None]
        mean_BM = weighted_BMK.sum(dim=2)
        truth_B11 = truth_B[:, None, None].expand(-1, num_members, 1)
        gradient += (mean_BM - logs_BMK.gather(2, truth_B11)[:, :, 0]).sum(dim=0)
        hessian += torch.einsum("bmk,blk->ml", weighted_BMK, logs_BMK) - mean_BM.T @ mean_BM
    centered_M = weights_M - weights_M.mean()
    penalty = strength * (np.eye(num_members) - 1 / num_members)
    number = len(log_probs)
    return (
        value / number + strength / 2 * float(centered_M @ centered_M),
        gradient.numpy() / number + strength * centered_M,
        hessian.numpy() / number + penalty,
    )
