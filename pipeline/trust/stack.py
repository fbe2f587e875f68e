"""A log-stack: p proportional to exp(sum over members of a_m log p_m), with weights a_m >= 0 fitted on labelled images.

It is a geometric pool with the weights a_m / sum a at the temperature 1 / sum a: the weights say whom to believe, their
sum how much. The negative log-likelihood is convex in a, so that there is one best fit, and it is found by a projected
Newton method. What keeps few truths from saying too much is a pull of the weights towards each other, half its strength
times the sum of (a_m - mean a)^2. It leaves their sum free: pulled hardest this is the plain geometric pool at its best
temperature. The strength is chosen by cross-validation.

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
from pipeline.trust.temperature import MIN_TEMPERATURE, NUM_FOLDS, Pooled

STRENGTHS = (10.0, 1.0, 0.1, 0.01, 0.001)  # the hardest first: of equals it is taken
_INNER_FOLDS = 3  # when a strength is chosen for a fold of the cross-validation
_MOST = 1 / MIN_TEMPERATURE
_BLOCK = 512  # images at a time: 5 members and 1,000 classes take 20 MB
_MAX_STEPS = 60
_FLAT = 1e-7
_RIDGE = 1e-9
_SEED = 0

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class MemberLogProbs:
    """What M members said of N labelled images.

    Attributes:
        logs_NMK: float32, logarithms of their probabilities.
        truth_N: int64, the true classes.
    """

    logs_NMK: torch.Tensor
    truth_N: torch.Tensor

    def __len__(self) -> int:
        return len(self.truth_N)

    def take(self, rows: Array) -> MemberLogProbs:
        """Some of the images."""
        places = torch.from_numpy(np.asarray(rows))
        return MemberLogProbs(self.logs_NMK[places], self.truth_N[places])

    def blocks(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """A few images at a time, in float64."""
        for start in range(0, len(self), _BLOCK):
            yield self.logs_NMK[start : start + _BLOCK].double(), self.truth_N[start : start + _BLOCK]


@dataclass(frozen=True, slots=True)
class Stacked:
    """What stacks say of images that they were not fitted on.

    Attributes:
        nll_N: Negative log-likelihoods, nats.
        scores_N: Largest probabilities.
        right_N: Whether the first class is the true one.
    """

    nll_N: Array
    scores_N: Array
    right_N: Array


def fit_stack(log_probs: MemberLogProbs) -> tuple[Array, float]:
    """The weights that fit best, and the strength of the pull that they were fitted with.

    Args:
        log_probs: Labelled images.

    Returns:
        float64, (M,), and the strength.

    Raises:
        RequestError: The images do not say.
    """
    strength = _choose_strength(log_probs, NUM_FOLDS)
    weights_M = _fit(log_probs, strength, None)
    larger = _objective(log_probs, 1.5 * weights_M, strength)[0]
    if weights_M.max() <= 0 or weights_M.max() >= _MOST or larger <= _objective(log_probs, weights_M, strength)[0]:
        raise RequestError(
            f"{len(log_probs):,} truths do not say which weights fit: the best are "
            f"{'0 (are these truths of other images?)' if weights_M.max() <= 0 else 'without end (are all right?)'}; "
            "give more or other ones"
        )
    return weights_M, strength


def cross_validate(log_probs: MemberLogProbs) -> Stacked:
    """Fit on four fifths of the images, strength and weights, what is said of the last fifth, five times."""
    held = Stacked(np.empty(len(log_probs)), np.empty(len(log_probs)), np.empty(len(log_probs), bool))
    for fold_N in _folds(len(log_probs), NUM_FOLDS):
        rest = log_probs.take(np.flatnonzero(~fold_N))
        weights_M = _fit(rest, _choose_strength(rest, _INNER_FOLDS), None)
        found = say(log_probs.take(np.flatnonzero(fold_N)), weights_M)
        held.nll_N[fold_N], held.scores_N[fold_N], held.right_N[fold_N] = found.nll_N, found.scores_N, found.right_N
    return held


def say(log_probs: MemberLogProbs, weights_M: Array) -> Stacked:
    """What a stack says.

    Args:
        log_probs: Of images.
        weights_M: Its weights.
    """
    weights = torch.from_numpy(weights_M)
    nll, scores, right = [], [], []
    for logs_BMK, truth_B in log_probs.blocks():
        logs_BK = torch.einsum("m,bmk->bk", weights, logs_BMK).log_softmax(dim=1)
        best_B = logs_BK.max(dim=1)
        nll.append(-logs_BK.gather(1, truth_B[:, None])[:, 0])
        scores.append(best_B.values.exp())
        right.append(best_B.indices == truth_B)
    return Stacked(torch.cat(nll).numpy(), torch.cat(scores).numpy(), torch.cat(right).numpy())


def pooled(log_probs: MemberLogProbs, factors_M: Array, rule: str) -> Pooled:
    """The pool of the members as they are, whole.

    Args:
        log_probs: Of images.
        factors_M: Of the members.
        rule: ``geometric``; ``mean``, which also stands in for a vote, whose shares are no probabilities.
    """
    weights_M = torch.from_numpy(factors_M / factors_M.sum())
    logs, truths = [torch.zeros(0, log_probs.logs_NMK.shape[2]).double()], [torch.zeros(0).double()]
    for logs_BMK, truth_B in log_probs.blocks():
        if rule == "geometric":
            pool_BK = torch.einsum("m,bmk->bk", weights_M, logs_BMK).log_softmax(dim=1)
        else:
            pool_BK = (logs_BMK + weights_M.log()[:, None]).logsumexp(dim=1)
        logs.append(pool_BK.sort(dim=1, descending=True).values)
        truths.append(pool_BK.gather(1, truth_B[:, None])[:, 0])
    logs_NK = torch.cat(logs).numpy()
    return Pooled(logs_NK, np.full(len(logs_NK), -np.inf), torch.cat(truths).numpy(), 0)


def _folds(num_images: int, num_folds: int) -> Iterator[Array]:
    """Which images are held out, fold by fold; always the same."""
    fold_N = np.random.default_rng(_SEED).permutation(num_images) % num_folds
    for fold in range(num_folds):
        yield fold_N == fold


def _choose_strength(log_probs: MemberLogProbs, num_folds: int) -> float:
    """The strength whose fits say most of what is held out."""
    if log_probs.logs_NMK.shape[1] == 1:
        return STRENGTHS[0]  # there is nothing to pull
    totals = dict.fromkeys(STRENGTHS, 0.0)
    for fold_N in _folds(len(log_probs), num_folds):
        rest, held = log_probs.take(np.flatnonzero(~fold_N)), log_probs.take(np.flatnonzero(fold_N))
        weights_M = None
        for strength in STRENGTHS:
            weights_M = _fit(rest, strength, weights_M)
            totals[strength] += float(say(held, weights_M).nll_N.sum())
    return min(totals, key=lambda strength: totals[strength])


def _fit(log_probs: MemberLogProbs, strength: float, start_M: Array | None) -> Array:
    """The weights with the smallest mean negative log-likelihood and pull, each 0 to :data:`_MOST`."""
    num_members = log_probs.logs_NMK.shape[1]
    weights_M = np.full(num_members, 1 / num_members) if start_M is None else start_M
    value, slope_M, curve_MM = _objective(log_probs, weights_M, strength)
    for _ in range(_MAX_STEPS):
        fixed_M = ((weights_M <= 0) & (slope_M > 0)) | ((weights_M >= _MOST) & (slope_M < 0))
        free = np.flatnonzero(~fixed_M)
        if not len(free) or np.abs(slope_M[free]).max() < _FLAT:
            break
        step_M = np.zeros(num_members)
        curve = curve_MM[np.ix_(free, free)] + _RIDGE * np.eye(len(free))
        step_M[free] = -np.linalg.solve(curve, slope_M[free])
        for length in 0.5 ** np.arange(30):
            tried_M = np.clip(weights_M + length * step_M, 0, _MOST)
            found = _objective(log_probs, tried_M, strength)
            if found[0] <= value + 1e-4 * float(slope_M @ (tried_M - weights_M)):
                break
        else:
            break  # no step is any better, as far as float64 can tell
        weights_M, (value, slope_M, curve_MM) = tried_M, found
    return weights_M


def _objective(log_probs: MemberLogProbs, weights_M: Array, strength: float) -> tuple[float, Array, Array]:
    """What is minimised, its gradient (M,) and its second derivatives (M, M).

    With p the stack's distribution, the gradient of the negative log-likelihood is E_p[log p_m] - log p_m(truth), and
    its second derivatives are the covariances of log p_m and log p_l under p.
    """
    num_members = len(weights_M)
    weights = torch.from_numpy(weights_M)
    value, slope, curve = 0.0, torch.zeros(num_members).double(), torch.zeros(num_members, num_members).double()
    for logs_BMK, truth_B in log_probs.blocks():
        pool_BK = torch.einsum("m,bmk->bk", weights, logs_BMK)
        logs_BK = pool_BK.log_softmax(dim=1)
        value -= float(logs_BK.gather(1, truth_B[:, None]).sum())
        weighed_BMK = logs_BMK * logs_BK.exp()[:, None]
        mean_BM = weighed_BMK.sum(dim=2)
        truth_B11 = truth_B[:, None, None].expand(-1, num_members, 1)
        slope += (mean_BM - logs_BMK.gather(2, truth_B11)[:, :, 0]).sum(dim=0)
        curve += torch.einsum("bmk,blk->ml", weighed_BMK, logs_BMK) - mean_BM.T @ mean_BM
    apart_M = weights_M - weights_M.mean()
    pull = strength * (np.eye(num_members) - 1 / num_members)
    number = len(log_probs)
    return (
        value / number + strength / 2 * float(apart_M @ apart_M),
        slope.numpy() / number + strength * apart_M,
        curve.numpy() / number + pull,
    )
