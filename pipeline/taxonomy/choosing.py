"""Which group an image is given: the columns that groups have in predictions, and how they are filled.

A file's levels have a column each, with the group of the largest sum. Where more lies outside all groups of the level
than in any of them, there is none. WordNet has no levels, and one column: the finest group with more than half. Two
such groups share classes, so one is in the other, and there is only one finest.

Shapes: B images, K classes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.taxonomy.sums import GroupSums
from pipeline.taxonomy.tree import NO_GROUP, Level, Taxonomy
from pipeline.taxonomy.wordnet import WORDNET

if TYPE_CHECKING:  # torch takes seconds to load, and who has tensors has it
    import torch

_MORE_THAN = 0.5  # sum of a group of WordNet


@dataclass(frozen=True, slots=True)
class GroupColumn:
    """A column of groups.

    Attributes:
        name: Of the column.
        groups: Names of the groups that it may hold, each once.
    """

    name: str
    groups: tuple[str, ...]


def group_columns(taxonomy: Taxonomy) -> tuple[GroupColumn, ...]:
    """The columns of a tree's groups, the finest first."""
    if taxonomy.level_names:
        return tuple(GroupColumn(level.name, level.names) for level in taxonomy.levels)
    return (GroupColumn(WORDNET, tuple(group.name for group in taxonomy.groups)),)


@dataclass(frozen=True, slots=True)
class ChosenGroups:
    """What a column holds, for a batch.

    Attributes:
        groups_B: int64, (B,), places in :attr:`GroupColumn.groups`; :data:`NO_GROUP` for none.
        scores_B: float32, (B,), sum of the group's probabilities, 0-1; 0 for none.
    """

    groups_B: torch.Tensor
    scores_B: torch.Tensor


class GroupChooser:
    """Chooses the groups of images.

    Args:
        taxonomy: The tree.
        like: A tensor on the device where probabilities will be.
    """

    def __init__(self, taxonomy: Taxonomy, like: torch.Tensor) -> None:
        self._sums: GroupSums[torch.Tensor] = GroupSums(taxonomy, like)
        self._levels = taxonomy.levels

    def choose(self, probs_BK: torch.Tensor) -> tuple[ChosenGroups, ...]:
        """The groups of a batch, for each of :func:`group_columns`.

        Args:
            probs_BK: float32, (B, K), of the consensus.
        """
        if not self._levels:
            return (self._finest(probs_BK),)
        return tuple(self._largest(level, probs_BK) for level in self._levels)

    def _largest(self, level: Level, probs_BK: torch.Tensor) -> ChosenGroups:
        top = self._sums.top(level, probs_BK)
        is_in_B = top.none_B <= top.scores_B
        return ChosenGroups(top.groups_B.where(is_in_B, NO_GROUP), top.scores_B.where(is_in_B, 0))

    def _finest(self, probs_BK: torch.Tensor) -> ChosenGroups:
        sums_BN = self._sums.all_groups(probs_BK)
        # groups come behind those around them, so that the last one is the finest
        places_BN = (sums_BN > _MORE_THAN).long().cumsum(1)
        groups_B = places_BN.argmax(1)  # of equal values the first: where the last one is counted
        is_in_B = places_BN[:, -1] > 0
        scores_B = sums_BN.gather(1, groups_B[:, None])[:, 0]
        return ChosenGroups(groups_B.where(is_in_B, NO_GROUP), scores_B.where(is_in_B, 0))


@functools.lru_cache(maxsize=4)
def cpu_chooser(taxonomy: Taxonomy) -> GroupChooser:
    """The chooser of a tree for tensors in host memory; one for all threads."""
    import torch

    return GroupChooser(taxonomy, torch.from_numpy(np.zeros(0, np.float32)))
