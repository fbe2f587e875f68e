"""Members that were trained on other classes: their probabilities become ones over the job's classes.

Such a member has C classes of its own, and knows some of the K classes of the job: each of these is one of its own,
which may be coarser. It tells how probability is divided among what it knows, and nothing else. So the pool P of the
members that have the job's classes is moved no further than that, by Jeffrey's rule: S are all classes that it knows, L
those of them that are one of its own, c, and q its probabilities, divided by their sum over what is in S::

    lifted(k) = P(S) * q(c) * P(k) / P(L)    for k in L
    lifted(k) = P(k)                         for k outside of S

Of all distributions with these sums it is the nearest to P, in relative entropy.
Source: Jeffrey, "The logic of decision", 1965; Diaconis & Zabell, "Updating subjective probability", Journal of the
American Statistical Association 1982 (the nearest).

Shapes: M members, B images, K classes of the job, C of the member, S classes that both know, N of the member's that
are among them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipeline.models.consensus import Rule
from pipeline.models.weights import MemberSpec
from pipeline.taxonomy.member_columns import NOT_KNOWN

# Sums are those of whole numbers, which are exact in any order: on any device, for any number of images at once.
_STEPS = 2.0**60  # in a probability of 1; int64 holds eight of them
_STEPS_OF_SHARE = 2.0**44  # in a share of 1, of which int64 holds one for each of half a million classes
_LEAST_MASS = 2.0**-24  # half a unit in the last place of a float32 of 1: a sum below it is that of rounding


class Lifting:
    """Lifts the probabilities of an ensemble's members to the classes of the job.

    Args:
        specs: The members, in order; at least one has the job's classes.
        factors_M: Their factors, float64, (M,), on the device where probabilities will be.
        rule: Of the consensus. The pool of those that have the classes is its; of a vote, whose shares are coarse, the
            mean.
    """

    def __init__(self, specs: Sequence[MemberSpec], factors_M: torch.Tensor, rule: Rule) -> None:
        self._members = [
            _OwnClasses(spec.own_classes, factors_M.device) if spec.own_classes else None for spec in specs
        ]
        self._factors = [float(factor) for factor in factors_M]
        self._is_geometric = rule == "geometric"

    def stack(self, probs: Sequence[torch.Tensor]) -> torch.Tensor:
        """The members' probabilities over the classes of the job.

        Args:
            probs: Of each member, float32, (B, K), or (B, C) of one with other classes.

        Returns:
            float32, (M, B, K).
        """
        if not any(self._members):
            return torch.stack(list(probs))
        pool_BK = self._pool([probs_BK for probs_BK, own in zip(probs, self._members, strict=True) if own is None])
        return torch.stack(
            [
                probs_BX if own is None else own.lift(probs_BX, pool_BK)
                for probs_BX, own in zip(probs, self._members, strict=True)
            ]
        )

    def _pool(self, probs: Sequence[torch.Tensor]) -> torch.Tensor:
        """float64, (B, K), of the members that have the job's classes."""
        factors = [factor for factor, own in zip(self._factors, self._members, strict=True) if own is None]
        weights = [factor / max(factors) for factor in factors]  # so that no sum overflows
        total = sum(weights)
        pool_BK = torch.zeros_like(probs[0], dtype=torch.float64)
        tiny = torch.finfo(torch.float32).tiny
        for probs_BK, weight in zip(probs, weights, strict=True):
            values_BK = probs_BK.clamp_min(tiny).double().log() if self._is_geometric else probs_BK.double()
            pool_BK += values_BK * (weight / total)
        return pool_BK.softmax(dim=1) if self._is_geometric else pool_BK


class _OwnClasses:
    """The classes of one member, and those of the job that are one of them."""

    def __init__(self, own_classes: Sequence[int], device: torch.device) -> None:
        known = [leaf for leaf, own in enumerate(own_classes) if own != NOT_KNOWN]
        named = sorted({own_classes[leaf] for leaf in known})
        self._known_S = torch.tensor(known, device=device)
        self._own_N = torch.tensor(named, device=device)
        self._places_S = torch.tensor([named.index(own_classes[leaf]) for leaf in known], device=device)

    def lift(self, probs_BC: torch.Tensor, pool_BK: torch.Tensor) -> torch.Tensor:
        """float32, (B, K): the pool, with what the member knows divided as it does."""
        own_BN = probs_BC.index_select(1, self._own_N).double()
        mass_B1 = _sum(own_BN)
        pool_BS = pool_BK.index_select(1, self._known_S)
        lifted_BS = _sum(pool_BS) * (own_BN / mass_B1).index_select(1, self._places_S) * self._within(pool_BS)
        lifted_BK = pool_BK.index_copy(1, self._known_S, lifted_BS)
        return lifted_BK.where(mass_B1 > _LEAST_MASS, pool_BK).float()

    def _within(self, pool_BS: torch.Tensor) -> torch.Tensor:
        """Shares of the classes among those that are the same one for the member; equal ones where none has any."""
        places_BS = self._places_S.expand_as(pool_BS)
        shape_BN = (len(pool_BS), len(self._own_N))
        # divided by the largest first, so that classes of 1e-30 keep their order
        largest_BN = pool_BS.new_zeros(shape_BN).scatter_reduce_(1, places_BS, pool_BS, "amax")
        largest_BS = largest_BN.gather(1, places_BS)
        steps_BS = torch.where(largest_BS > 0, pool_BS / largest_BS, 1.0).mul(_STEPS_OF_SHARE).long()
        sums_BN = steps_BS.new_zeros(shape_BN).scatter_add_(1, places_BS, steps_BS)
        return steps_BS.double() / sums_BN.gather(1, places_BS).double()


def _sum(values_BX: torch.Tensor) -> torch.Tensor:
    """float64, (B, 1)."""
    return values_BX.mul(_STEPS).long().sum(dim=1, keepdim=True).double() / _STEPS
