"""Probabilities of groups: sums over their classes, for NumPy arrays and for torch's tensors on any device.

In the order of a tree the classes of each group lie together, so one running sum over all classes has every group's in
it: the difference between where it ends and where it begins. That is K additions an image however many groups there
are. A matrix of zeros and ones would take K times N, and on a GPU ``index_add`` would add in no fixed order.

The running sum is in float64, and results are rounded once. So they do not depend on how many images are computed at
once, a group has never less than a group in it, and groups of the same classes have the same.

Shapes: B images, K classes, N groups of a tree, G groups of a level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from pipeline.taxonomy.tree import NO_GROUP, Level, Taxonomy

if TYPE_CHECKING:  # torch takes seconds to load, and who has tensors has it
    import torch

Numbers = TypeVar("Numbers", np.ndarray, "torch.Tensor")


@dataclass(frozen=True, slots=True)
class TopGroups(Generic[Numbers]):
    """The first group of a level, by image.

    Attributes:
        groups_B: int64, (B,), which of the level's G groups has the largest sum; of equal sums the first.
        scores_B: Its sum, (B,), 0-1, of the probabilities' type.
        none_B: Sum over the classes that are in no group of the level, (B,), 0-1, of the same type.
    """

    groups_B: Numbers
    scores_B: Numbers
    none_B: Numbers


class GroupSums(Generic[Numbers]):
    """Adds up the probabilities of a tree's groups.

    Args:
        taxonomy: The tree.
        like: An array, or a tensor on the device where probabilities will be.
    """

    def __init__(self, taxonomy: Taxonomy, like: Numbers) -> None:
        self._taxonomy = taxonomy
        self._order: Numbers = _indices(taxonomy.leaves_L, like)
        self._first_N: Numbers = _indices(taxonomy.first_N, like)
        self._last_N: Numbers = _indices(taxonomy.last_N, like)
        self._groups: dict[str, Numbers] = {level.name: _indices(level.groups_G, like) for level in taxonomy.levels}
        outside = {level.name: np.flatnonzero(level.group_of_leaf_K == NO_GROUP) for level in taxonomy.levels}
        self._outside: dict[str, Numbers] = {name: _indices(leaves, like) for name, leaves in outside.items()}

    def all_groups(self, probs_BK: Numbers) -> Numbers:
        """Sums of all groups of the tree.

        Args:
            probs_BK: float32 or float64, (B, K), each row sums to 1.

        Returns:
            (B, N), 0-1, of the same type and on the same device.
        """
        return self._sums(probs_BK, self._first_N, self._last_N)

    def level(self, level: Level, probs_BK: Numbers) -> Numbers:
        """Sums of the groups of a level, (B, G), as :meth:`all_groups` has them."""
        chosen = self._groups[level.name]
        return self._sums(probs_BK, self._first_N[chosen], self._last_N[chosen])

    def top(self, level: Level, probs_BK: Numbers) -> TopGroups[Numbers]:
        """The first group of a level and its sum."""
        sums_BG = self.level(level, probs_BK)
        groups_B = sums_BG.argmax(1)
        none_BX = probs_BK[:, self._outside[level.name]]
        if isinstance(none_BX, np.ndarray):
            scores_B = np.take_along_axis(sums_BG, groups_B[:, None], 1)[:, 0]
            none_B = np.minimum(none_BX.sum(1, dtype=np.float64), 1).astype(probs_BK.dtype)
        else:
            scores_B = sums_BG.gather(1, groups_B[:, None])[:, 0]
            none_B = none_BX.double().sum(1).clamp_max(1).to(probs_BK.dtype)
        return TopGroups(groups_B, scores_B, none_B)

    def _sums(self, probs_BK: Numbers, first_G: Numbers, last_G: Numbers) -> Numbers:
        if isinstance(probs_BK, np.ndarray):
            running = np.zeros((len(probs_BK), len(self._order) + 1))
            np.cumsum(probs_BK[:, self._order], axis=1, dtype=np.float64, out=running[:, 1:])
            return np.minimum(running[:, last_G] - running[:, first_G], 1).astype(probs_BK.dtype)
        exact = probs_BK.index_select(1, self._order).double()
        running = exact.new_zeros((exact.shape[0], exact.shape[1] + 1))
        running[:, 1:] = exact.cumsum(1)
        sums = running.index_select(1, last_G) - running.index_select(1, first_G)
        return sums.clamp_max(1).to(probs_BK.dtype)


def _indices(values: np.ndarray, like: Numbers) -> Numbers:
    """int64, where ``like`` is."""
    if isinstance(like, np.ndarray):
        return values.astype(np.int64)
    return like.new_tensor(values.tolist()).long()
