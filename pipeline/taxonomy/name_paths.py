"""The names that an image may get: for any threshold the finest class or group that has at least so much probability.

**The rule.** Of all nodes of the tree whose sum reaches a threshold, the finest is the name: the one of the fewest
classes, of equally fine ones that with the largest sum, of equal sums the first. As the threshold falls, the name gets
finer, and at last it is the most likely class. So all that an image may be called is the frontier of (classes, sum):
the nodes that no other is as fine as and more likely than. That is a short path, of 5 to 10 nodes for WordNet.

**Above one half** the nodes that reach the threshold lie in each other, because two that share no class would have more
than 1. The finest is then where the way down from the top to the likeliest child ends. **Below one half** there are
several such chains, and rules differ. Going down follows the likelier group into many unlikely classes and passes by a
likelier class elsewhere. Climbing from the likeliest class passes by finer groups beside it, also above one half, where
that class is not in the likeliest group. The rule here is the only one that does as it says at every threshold.

At the same promise the rules hardly differ (``examples/back_off_rates.py --rules finest,descend,climb,mixed``): by less
than 0.2 % of the images and 0.02 bits where probabilities are calibrated or too far from even. Where they are too near
to even, climbing keeps up to 2 % and 0.2 bits more at a target of 90 %, which a calibration makes up for. A rule that
weighs bits against expected errors (``hedge``) tells 4 to 6 % more bits of calibrated collections, but names 3 to 5 %
fewer of the images; with 150 truths of 300 photographs, at 95 %, it names 35 to 63 % where this one names 57 to 95 %,
because its strictest names are fine ones, and the first of these that is wrong ends the sequence.

**Names that tell nothing** are none. In WordNet a name must tell at least one bit: at most half of the classes lie
below it. In a file every group counts, because somebody wrote it. A group whose only child has all its classes is never
the finest.

Shapes: B images, K classes, N groups of a tree, C nodes that may be names, D names of the longest path.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.taxonomy.nodes import Nodes
from pipeline.taxonomy.sums import GroupSums
from pipeline.taxonomy.tree import NO_GROUP

NO_NAME = -1
_CHUNK = 64  # images at once, so that what is computed stays in a core's cache
_WORD = 32  # bits of a float32

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class NamePaths:
    """The names that images may get, finest first.

    Attributes:
        nodes_BD: int32, (B, D), nodes, each of fewer classes than the next; :data:`NO_NAME` behind the last.
        sums_BD: float32, (B, D), their probabilities, above 0, at most 1 and strictly ascending; 0 behind the last.
    """

    nodes_BD: Array
    sums_BD: Array

    def __len__(self) -> int:
        return len(self.nodes_BD)

    @property
    def lengths(self) -> Array:
        """int64, (B,), names of each image."""
        lengths: Array = (self.nodes_BD >= 0).sum(axis=1)
        return lengths

    @property
    def largest(self) -> Array:
        """float32, (B,), the largest threshold at which an image gets a name; 0 without any."""
        largest: Array = self.sums_BD.max(axis=1, initial=0)
        return largest

    def at(self, threshold: float) -> tuple[Array, Array]:
        """The names at a threshold.

        Args:
            threshold: Above 0, at most 1; compared as float32.

        Returns:
            int32, (B,), the finest node that reaches it, :data:`NO_NAME` for none; float32, (B,), its sum, or 0.
        """
        reach_BD = np.pad(self.sums_BD >= np.float32(threshold), ((0, 0), (0, 1)), constant_values=True)
        first_B1 = reach_BD.argmax(axis=1)[:, None]  # behind all names for none
        nodes_BD = np.pad(self.nodes_BD, ((0, 0), (0, 1)), constant_values=NO_NAME)
        sums_BD = np.pad(self.sums_BD, ((0, 0), (0, 1)))
        return np.take_along_axis(nodes_BD, first_B1, 1)[:, 0], np.take_along_axis(sums_BD, first_B1, 1)[:, 0]

    def take(self, rows: slice | Array) -> NamePaths:
        """Select some of the images."""
        return NamePaths(self.nodes_BD[rows], self.sums_BD[rows])

    @classmethod
    def join(cls, paths: list[NamePaths]) -> NamePaths:
        """The paths of several batches, at least one."""
        longest = max(each.nodes_BD.shape[1] for each in paths)
        widths = [((0, 0), (0, longest - each.nodes_BD.shape[1])) for each in paths]
        nodes = [
            np.pad(each.nodes_BD, width, constant_values=NO_NAME) for each, width in zip(paths, widths, strict=True)
        ]
        sums = [np.pad(each.sums_BD, width) for each, width in zip(paths, widths, strict=True)]
        return cls(np.concatenate(nodes), np.concatenate(sums))


class PathFinder:
    """Finds the paths of images.

    Args:
        nodes: Of the tree.
    """

    def __init__(self, nodes: Nodes) -> None:
        taxonomy = nodes.taxonomy
        self._sums: GroupSums[Array] = GroupSums(taxonomy, np.zeros(0, np.float32))
        self._num_classes = taxonomy.num_classes
        may_be_V = np.ones(len(nodes), bool)
        if not taxonomy.level_names:
            may_be_V = 2 * nodes.sizes_V <= self._num_classes
        parents_V = np.concatenate([taxonomy.parent_of_leaf_K, [group.parent for group in taxonomy.groups]])
        below = np.flatnonzero(parents_V != NO_GROUP)
        above = self._num_classes + parents_V[below].astype(np.int64)
        may_be_V[above[nodes.sizes_V[above] == nodes.sizes_V[below]]] = False
        found = np.flatnonzero(may_be_V)
        # finest first; of the same size the first node comes first
        self._nodes_C = found[np.argsort(nodes.sizes_V[found], kind="stable")].astype(np.int32)
        _, self._starts_S = np.unique(nodes.sizes_V[self._nodes_C], return_index=True)
        self._ranks_C1 = (len(self._nodes_C) - 1 - np.arange(len(self._nodes_C)))[:, None]

    def find(self, probs_BK: Array) -> NamePaths:
        """The paths of a batch.

        Args:
            probs_BK: float32, (B, K), each row sums to 1.
        """
        if not len(probs_BK) or not len(self._nodes_C):
            return NamePaths(np.full((len(probs_BK), 1), NO_NAME, np.int32), np.zeros((len(probs_BK), 1), np.float32))
        return NamePaths.join(
            [self._find(probs_BK[first : first + _CHUNK]) for first in range(0, len(probs_BK), _CHUNK)]
        )

    def _find(self, probs_BK: Array) -> NamePaths:
        sums_BV = np.concatenate([np.minimum(probs_BK, np.float32(1)), self._sums.all_groups(probs_BK)], axis=1)
        sums_CB = np.ascontiguousarray(sums_BV.T[self._nodes_C])
        # floats from 0 are ordered as their bits are; behind them stands which node it is, the first one largest
        keys_CB = (sums_CB.view(np.int32).astype(np.int64) << _WORD) | self._ranks_C1
        best_SB = np.maximum.reduceat(keys_CB, self._starts_S, axis=0)  # the likeliest of each size, finest first
        bits_SB = best_SB >> _WORD
        before_SB = np.zeros_like(bits_SB)
        before_SB[1:] = np.maximum.accumulate(bits_SB, axis=0)[:-1]
        images, sizes = np.nonzero((bits_SB > before_SB).T)
        chosen = best_SB[sizes, images]
        lengths_B = np.bincount(images, minlength=len(probs_BK))
        places = np.arange(len(images)) - (np.cumsum(lengths_B) - lengths_B)[images]
        shape = len(probs_BK), max(1, int(lengths_B.max()))
        nodes_BD, sums_BD = np.full(shape, NO_NAME, np.int32), np.zeros(shape, np.float32)
        nodes_BD[images, places] = self._nodes_C[len(self._nodes_C) - 1 - (chosen & ((1 << _WORD) - 1))]
        sums_BD[images, places] = (chosen >> _WORD).astype(np.int32).view(np.float32)
        return NamePaths(nodes_BD, sums_BD)
