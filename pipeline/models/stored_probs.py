"""The consensus of members whose probabilities are stored: the arithmetic of a full run, without networks.

A member's probabilities are stored as float16, and its top k as float32 as well. The float32 values replace the float16
ones of the same classes, and no other class may exceed them. So float16's rounding never decides which class leads:
neither within a member nor, as long as the leading classes are in every member's top k, in the pool. Probabilities too
small for float16 are stored as its smallest number, 6e-8. Such classes share what is missing to a sum of 1, because a
geometric pool depends on their logarithms.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pipeline.models.consensus import Rule, combine, stable_topk
from pipeline.models.ensemble import MIN_STORED_PROB, GroupPredictions, MemberPredictions, Predictions
from pipeline.output.probabilities import MemberProbs
from pipeline.taxonomy.choosing import cpu_chooser
from pipeline.taxonomy.tree import Taxonomy

MIN_RESTORED_PROB = 2.0**-32  # least probability of a class that is stored as MIN_STORED_PROB


def combine_stored(
    members: Sequence[MemberProbs],
    factors: Sequence[float],
    rule: Rule,
    top_k: int,
    temperature: float = 1.0,
    *,
    keep_probs: bool = False,
    taxonomy: Taxonomy | None = None,
) -> Predictions:
    """Combine stored probabilities of members.

    Args:
        members: The stored predictions of each member, for the same B images.
        factors: Weight of each member.
        rule: See :func:`pipeline.models.consensus.combine`.
        top_k: Likewise.
        temperature: Likewise.
        keep_probs: Whether to return the stored probabilities, too.
        taxonomy: See :class:`pipeline.models.ensemble.EnsembleOptions`.
    """
    restored = [restore_probs(member) for member in members]
    found = combine(torch.stack(restored), torch.tensor(factors, dtype=torch.float64), rule, top_k, temperature)
    k = found.labels_Bk.shape[1]
    chosen = () if taxonomy is None else cpu_chooser(taxonomy).choose(found.pooled_BK)
    return Predictions(
        labels_Bk=found.labels_Bk.to(torch.int32).numpy(),
        scores_Bk=found.scores_Bk.numpy(),
        agreement_B=found.agreement_B.numpy(),
        entropy_B=found.entropy_B.numpy(),
        disagreement_B=found.disagreement_B.numpy(),
        members=tuple(_top_k(member, probs_BK, k) for member, probs_BK in zip(members, restored, strict=True)),
        probs_MBK=np.stack([member.probs_BK for member in members]) if keep_probs else None,
        groups=tuple(GroupPredictions(own.groups_B.to(torch.int32).numpy(), own.scores_B.numpy()) for own in chosen),
    )


def pool_stored(
    members: Sequence[MemberProbs], factors: Sequence[float], rule: Rule, temperature: float = 1.0
) -> torch.Tensor:
    """The consensus' whole distribution of stored probabilities, as :func:`combine_stored` has it.

    Returns:
        float32, (B, K), 0-1; of a vote the shares.
    """
    restored = torch.stack([restore_probs(member) for member in members])
    return combine(restored, torch.tensor(factors, dtype=torch.float64), rule, 1, temperature).pooled_BK


def restore_probs(member: MemberProbs) -> torch.Tensor:
    """Restore a member's probabilities from what is stored, as exactly as that allows.

    Returns:
        float32, (B, K), 0-1.
    """
    probs_BK = torch.from_numpy(member.probs_BK.astype(np.float32))
    scores_Bk = torch.tensor(member.scores_Bk)
    below_B1 = torch.nextafter(scores_Bk[:, -1:], torch.zeros(1))
    probs_BK = torch.minimum(probs_BK, below_B1)
    probs_BK.scatter_(1, torch.tensor(member.labels_Bk, dtype=torch.int64), scores_Bk)
    least_BK = probs_BK == MIN_STORED_PROB
    left_B = 1 - torch.where(least_BK, 0, probs_BK).sum(dim=1, dtype=torch.float64)
    share_B = (left_B / least_BK.sum(dim=1)).clamp(MIN_RESTORED_PROB, MIN_STORED_PROB).float()
    return torch.where(least_BK, share_B[:, None], probs_BK)


def _top_k(member: MemberProbs, probs_BK: torch.Tensor, k: int) -> MemberPredictions:
    """A member's top k: the stored one, if it has that many classes."""
    if k <= member.labels_Bk.shape[1]:
        return MemberPredictions(member.labels_Bk[:, :k], member.scores_Bk[:, :k], member.energy_B)
    scores_Bk, labels_Bk = stable_topk(probs_BK, k)
    return MemberPredictions(labels_Bk.to(torch.int32).numpy(), scores_Bk.numpy(), member.energy_B)
