"""Probabilities of groups: sums over their classes, for NumPy arrays and for torch's tensors on any device.

In the order of a tree the classes of each group lie together, so one running sum over all classes has every group's in
it: the difference between where it ends and where it begins. That is K additions an image however many groups there
are. A matrix of zeros and ones would take K times N, and on a GPU ``index_add`` would add in no fixed order.

Probabilities are added as whole numbers of 2^-60, which is exact in any order. So results do not depend on the device
or on how many images are computed at once, a group has never less than a group in it, and groups of the same classes
have the same.

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
_STEPS = 2.0**60  # in a probability of 1; int64 holds eight of them


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
        outside = {level.name: np.flatnonzero(level.group_of_leaf_K == NO_GROUP) for level in taxonomy.levels}
        groups = {level.name: level.groups_G for level in taxonomy.levels}
        self._order_L: Numbers = _indices(taxonomy.leaves_L, like)
        self._every: tuple[Numbers, Numbers] = _indices(taxonomy.first_N, like), _indices(taxonomy.last_N, like)
        self._of_level: dict[str, tuple[Numbers, Numbers]] = {
            name: (_indices(taxonomy.first_N[chosen], like), _indices(taxonomy.last_N[chosen], like))
            for name, chosen in groups.items()
        }
        self._outside: dict[str, Numbers] = {name: _indices(leaves, like) for name, leaves in outside.items()}

    def all_groups(self, probs_BK: Numbers) -> Numbers:
        """Sums of all groups of the tree.

        Args:
            probs_BK: float32 or float64, (B, K), each row sums to 1.

        Returns:
            (B, N), 0-1, of the same type and on the same device.
        """
        return self._sums(probs_BK, *self._every)

    def level(self, level: Level, probs_BK: Numbers) -> Numbers:
        """Sums of the groups of a level, (B, G), as :meth:`all_groups` has them."""
        return self._sums(probs_BK, *self._of_level[level.name])

    def top(self, level: Level, probs_BK: Numbers) -> TopGroups[Numbers]:
        """The first group of a level and its sum, and what is in no group."""
        sums_BG = self.level(level, probs_BK)
        groups_B = sums_BG.argmax(1)
        none_BX = _steps(probs_BK, self._outside[level.name])
        if isinstance(sums_BG, np.ndarray):
            scores_B = np.take_along_axis(sums_BG, groups_B[:, None], 1)[:, 0]
        else:
            scores_B = sums_BG.gather(1, groups_B[:, None])[:, 0]
        return TopGroups(groups_B, scores_B, _shares(none_BX.sum(1), probs_BK))

    def _sums(self, probs_BK: Numbers, first_G: Numbers, last_G: Numbers) -> Numbers:
        steps_BL = _steps(probs_BK, self._order_L)
        num_images, num_leaves = steps_BL.shape
        if isinstance(steps_BL, np.ndarray):
            running = np.zeros((num_images, num_leaves + 1), np.int64)
            np.cumsum(steps_BL, axis=1, out=running[:, 1:])
            return _shares(running[:, last_G] - running[:, first_G], probs_BK)
        running = steps_BL.new_zeros((num_images, num_leaves + 1))
        running[:, 1:] = steps_BL.cumsum(1)
        return _shares(running.index_select(1, last_G) - running.index_select(1, first_G), probs_BK)


def _indices(values: np.ndarray, like: Numbers) -> Numbers:
    """int64, where ``like`` is."""
    wide = values.astype(np.int64)
    if isinstance(like, np.ndarray):
        return wide
    import torch

    return torch.from_numpy(wide).to(like.device)


def _steps(probs_BK: Numbers, leaves_L: Numbers) -> Numbers:
    """int64, (B, L): probabilities of some classes as numbers of 2^-60."""
    if isinstance(probs_BK, np.ndarray):
        return (probs_BK[:, leaves_L].astype(np.float64) * _STEPS).astype(np.int64)
    return (probs_BK.index_select(1, leaves_L).double() * _STEPS).long()


def _shares(steps: Numbers, like: Numbers) -> Numbers:
    """Back to probabilities, at most 1, of the type of ``like``."""
    if isinstance(steps, np.ndarray):
        return np.minimum(steps / _STEPS, 1).astype(like.dtype)
    return (steps.double() / _STEPS).clamp_max(1).to(like.dtype)
