"""The consensus of members: pure arithmetic on probabilities.

Shapes: M members, B images, K classes. Formulas follow the opinion-pool literature.
Source: Genest & Zidek, "Combining probability distributions", Statistical Science 1986 (linear and
logarithmic pools); Lakshminarayanan et al., "Deep ensembles", NeurIPS 2017, and Gal, "Uncertainty in
deep learning", 2016 (disagreement as mutual information); Guo et al., "On calibration of modern neural
networks", ICML 2017 (temperature).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Rule = Literal["mean", "geometric", "vote"]

# Shares of votes that differ by less than one step are equal: 1/10 + 2/10 is 3/10.
_SHARE_STEPS = 2**30


@dataclass(frozen=True, slots=True)
class Consensus:
    """The consensus for a batch.

    Attributes:
        labels_Bk: int64, (B, k), best first.
        scores_Bk: float32, (B, k), 0-1, at the pool's temperature.
        agreement_B: float32, (B,), weighted share of members whose top-1 is the consensus label, 0-1.
        entropy_B: float32, (B,), entropy of the pooled distribution at its temperature, nats.
        disagreement_B: float32, (B,), mutual information of the members, nats, at least 0; without temperature.
        pooled_BK: float32, (B, K), the whole distribution at its temperature; of a vote the shares.
    """

    labels_Bk: torch.Tensor
    scores_Bk: torch.Tensor
    agreement_B: torch.Tensor
    entropy_B: torch.Tensor
    disagreement_B: torch.Tensor
    pooled_BK: torch.Tensor


def combine(
    probs_MBK: torch.Tensor, factors_M: torch.Tensor, rule: Rule, top_k: int, temperature: float = 1.0
) -> Consensus:
    """Pool the members' probabilities.

    Args:
        probs_MBK: float32, (M, B, K), each row sums to 1.
        factors_M: Positive weights, of any scale.
        rule: ``mean``: sum of w p. ``geometric``: product of p^w, normalised; a p of 0 counts as the smallest
            normal float. ``vote``: weighted share of members whose top-1 is the class; equal shares are
            ordered by the mean.
        top_k: How many classes to return; at most K are.
        temperature: The pool becomes p^(1/T), normalised, with its classes in the same order; a p of 0 counts as
            above. A vote has shares, not probabilities: its temperature is 1.
    """
    num_members, num_images, num_classes = probs_MBK.shape
    exact_M = factors_M.double() / factors_M.max()  # relative to the largest, so that no sum overflows
    exact_M = exact_M / exact_M.sum()
    weights_M = exact_M.to(probs_MBK)
    mean_BK = torch.einsum("m,mbk->bk", weights_M, probs_MBK)
    top_MB = probs_MBK.argmax(dim=2)
    k = min(top_k, num_classes)

    # clamped, so that classes of probability 0 for one member keep an order among each other
    tiny = torch.finfo(probs_MBK.dtype).tiny
    if rule == "mean":
        pooled_BK = mean_BK
    elif rule == "geometric":
        logs_BK = torch.einsum("m,mbk->bk", weights_M, probs_MBK.clamp_min(tiny).log())
        pooled_BK = logs_BK.softmax(dim=1)
    else:
        # in float64, so that equal shares stay equal when they are rounded below
        shares_BK = exact_M.new_zeros((num_images, num_classes))
        for member in range(num_members):
            shares_BK.scatter_add_(1, top_MB[member, :, None], exact_M[member].expand(num_images, 1))
        pooled_BK = shares_BK.to(probs_MBK)

    if rule == "vote":
        by_mean_BK = stable_topk(mean_BK, num_classes)[1]
        ordered_BK = shares_BK.gather(1, by_mean_BK).mul(_SHARE_STEPS).round()
        labels_Bk = by_mean_BK.gather(1, stable_topk(ordered_BK, k)[1])
        scores_Bk = pooled_BK.gather(1, labels_Bk)
    else:
        scores_Bk, labels_Bk = stable_topk(pooled_BK, k)
        if temperature != 1:
            # classes keep the pool's order: rounding must not turn a near tie into a tie with another label
            pooled_BK = (pooled_BK.clamp_min(tiny).log() / temperature).softmax(dim=1)
            scores_Bk = pooled_BK.gather(1, labels_Bk)

    agreement_B = torch.einsum("m,mb->b", weights_M, (top_MB == labels_Bk[None, :, 0]).to(weights_M))
    disagreement_B = entropy(mean_BK) - torch.einsum("m,mb->b", weights_M, entropy(probs_MBK))
    return Consensus(
        labels_Bk, scores_Bk, agreement_B.clamp(0, 1), entropy(pooled_BK), disagreement_B.clamp_min(0), pooled_BK
    )


def stable_topk(values_BK: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the k largest values of each row and their indices; of equal values the first index comes first.

    ``torch.topk`` leaves the order of equal values open, so that a member's top-1 might not be its argmax.
    """
    ordered, places = values_BK.sort(dim=1, descending=True, stable=True)
    return ordered[:, :k], places[:, :k]


def entropy(probs: torch.Tensor) -> torch.Tensor:
    """Shannon entropy over the last axis, in nats; 0 log 0 is 0."""
    total: torch.Tensor = torch.special.entr(probs).sum(dim=-1)
    return total
