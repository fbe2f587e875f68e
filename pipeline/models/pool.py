"""The consensus of members whose probabilities are stored: the arithmetic of a full run, without networks.

What is stored of a member is float16, but for its top k, which are float32. So the top k take the place of what is
stored of them, and no other class comes before them: which class leads is not left to float16's rounding, neither
within a member nor, as long as the leading classes are in every member's top k, in the pool. What is too small for
float16 is stored as its least number, 6e-8; such classes share what is left of 1, which a geometric pool, where
logarithms count, needs to know.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pipeline.models.consensus import Rule, best_first, combine
from pipeline.models.ensemble import LEAST_STORED, MemberPredictions, Predictions
from pipeline.output.probabilities import MemberProbs

LEAST_RESTORED = 2.0**-32  # of a class that is stored as the least there is


def pool(
    words: Sequence[MemberProbs],
    factors: Sequence[float],
    rule: Rule,
    top_k: int,
    temperature: float = 1.0,
    *,
    keep_probs: bool = False,
) -> Predictions:
    """Pool what members said of a batch.

    Args:
        words: Of each member, of the same B images.
        factors: Of each member.
        rule: See :func:`pipeline.models.consensus.combine`.
        top_k: Likewise.
        temperature: Likewise.
        keep_probs: Whether the predictions are to hold what is stored.
    """
    restored = [restored_probs(word) for word in words]
    found = combine(torch.stack(restored), torch.tensor(factors, dtype=torch.float64), rule, top_k, temperature)
    k = found.labels_Bk.shape[1]
    return Predictions(
        labels_Bk=found.labels_Bk.to(torch.int32).numpy(),
        scores_Bk=found.scores_Bk.numpy(),
        agreement_B=found.agreement_B.numpy(),
        entropy_B=found.entropy_B.numpy(),
        disagreement_B=found.disagreement_B.numpy(),
        members=tuple(_own(word, probs_BK, k) for word, probs_BK in zip(words, restored, strict=True)),
        probs_MBK=np.stack([word.probs_BK for word in words]) if keep_probs else None,
    )


def restored_probs(word: MemberProbs) -> torch.Tensor:
    """A member's probabilities, as near to what it said as what is stored allows.

    Returns:
        float32, (B, K).
    """
    probs_BK = torch.from_numpy(word.probs_BK.astype(np.float32))
    scores_Bk = torch.tensor(word.scores_Bk)
    below_B1 = torch.nextafter(scores_Bk[:, -1:], torch.zeros(1))
    probs_BK = torch.minimum(probs_BK, below_B1)
    probs_BK.scatter_(1, torch.tensor(word.labels_Bk, dtype=torch.int64), scores_Bk)
    least_BK = probs_BK == LEAST_STORED
    left_B = 1 - torch.where(least_BK, 0, probs_BK).sum(dim=1, dtype=torch.float64)
    share_B = (left_B / least_BK.sum(dim=1)).clamp(LEAST_RESTORED, LEAST_STORED).float()
    return torch.where(least_BK, share_B[:, None], probs_BK)


def _own(word: MemberProbs, probs_BK: torch.Tensor, k: int) -> MemberPredictions:
    """A member's own top k: as stored, as far as it is."""
    if k <= word.labels_Bk.shape[1]:
        return MemberPredictions(word.labels_Bk[:, :k], word.scores_Bk[:, :k], word.energy_B)
    scores_Bk, labels_Bk = best_first(probs_BK, k)
    return MemberPredictions(labels_Bk.to(torch.int32).numpy(), scores_Bk.numpy(), word.energy_B)
