"""A promised precision with names of any level: an image that is not sure enough gets the name of a group instead.

At a threshold t each image gets the finest name whose sum of probabilities is at least t
(:mod:`pipeline.taxonomy.name_paths`), or none, and is then not exported. A name is right if the truth is this node or
lies below it. A truth that is coarser than the name counts as wrong, as one that no class fits: nobody knows whether
the name is right. Precision is the share of right names among all exported images, whatever their levels.

**Why the promise holds.** :mod:`pipeline.trust.promise` proves it for a sequence of sets of images that is fixed before
labels are looked at, each image of a set either right or wrong; the sets are tested one after the other at ``delta``,
up to the first failure. Here set j is what is exported at the threshold t_j, with the names of t_j. The name of an
image depends on its probabilities and t_j alone. So whether it is right is fixed, though it may be wrong at t_j and
right at t_i, and given how many truths fall among the N_j images, the number of right ones is hypergeometric as before.
That an image has another name at each threshold, that precision may rise and fall along the sequence, and what the rule
is by which names are found, do not matter: the promise is wrong only if the first set of too low a precision passes its
test. Images that a calibration was fitted on count as what they are, as before.

**The sequence** is read off the selection without its labels: a histogram over a fixed grid of thresholds counts the
images that have a name and the bits of the names (:attr:`pipeline.taxonomy.nodes.Nodes.bits`), in memory that does not
grow with the images. The strictest threshold exports enough images for some errors, within the same share as in
:mod:`pipeline.trust.levels`: a larger one (60 %) kept up to a fifth of the images more with 150 truths at 95 % where
the networks are good, and next to nothing where they are weak; so did shares that the scores themselves gave. From
there on the others are even steps of bits: where the names are classes alone, that is even steps of images. Bits are
added as whole numbers, so that the order of the images is of no effect. The grid has even steps of log-odds, because
probabilities pile up at 1, and its values are those of float32, which sums are compared as.

Source: the task is that of Goren, Galil & El-Yaniv, "Hierarchical selective classification", arXiv 2405.11533; accuracy
against information from Deng, Krause, Berg & Fei-Fei, "Hedging your bets", CVPR 2012. What differs from the former:
there each image gets a name, at last the root's, which is always right, and accuracy counts those; here names of less
than one bit are none, and precision is that of what is exported. There the threshold is a quantile of the thresholds
from which on the calibration images are right, as in split conformal prediction, which needs that a name once right
stays right as the threshold rises; here the precision of this selection is tested, which holds for any rule. Their code
has the rule of the finest node, too, as "max coverage"; what they recommend is to climb from the likeliest class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.taxonomy.name_paths import NamePaths
from pipeline.taxonomy.nodes import Nodes
from pipeline.trust.levels import NUM_LEVELS, Levels, at_or_above, first_share
from pipeline.trust.promise import PrecisionTest

_GRID_SIZE = 2_000
_LOWEST_LOGIT, _HIGHEST_LOGIT = -12.0, 16.7  # 6e-6, and one step of float32 below 1
_BITS_UNIT = 2.0**-20  # so that sums over 10^8 images of 10^6 classes are exact in float64

Array = np.ndarray


def threshold_grid() -> Array:
    """float32, (G,), the thresholds of which the levels are some, ascending, from above 0 to 1."""
    logits = np.linspace(_LOWEST_LOGIT, _HIGHEST_LOGIT, _GRID_SIZE - 2)
    values = (1 / (1 + np.exp(-logits))).astype(np.float32)
    grid: Array = np.unique(np.concatenate([[np.finfo(np.float32).tiny], values, [1]]).astype(np.float32))
    return grid


class BackOffLevels:
    """Chooses the thresholds of a promise from the paths of a selection, which are given batch by batch.

    Args:
        nodes: Of the tree.

    Attributes:
        total: Images that were added.
    """

    def __init__(self, nodes: Nodes) -> None:
        self.total = 0
        self._grid_G = threshold_grid()
        self._units_V = np.round(nodes.bits / _BITS_UNIT)
        # by the largest threshold of the grid at which they count
        self._images_G = np.zeros(len(self._grid_G))
        self._bits_G = np.zeros(len(self._grid_G))

    def add(self, paths: NamePaths) -> None:
        """Count images of the selection.

        Args:
            paths: Theirs; an image without a name counts, too.
        """
        self.total += len(paths)
        is_name_BD = paths.nodes_BD >= 0
        units_BD = np.where(is_name_BD, self._units_V[paths.nodes_BD], 0)
        gains_BD = units_BD - np.pad(units_BD[:, 1:], ((0, 0), (0, 1)))  # over the next coarser name
        places_BD = np.searchsorted(self._grid_G, paths.sums_BD, side="right") - 1
        counts_BD = is_name_BD & (places_BD >= 0)
        size = len(self._grid_G)
        self._bits_G += np.bincount(places_BD[counts_BD], gains_BD[counts_BD], size)
        places_B = np.searchsorted(self._grid_G, paths.largest, side="right") - 1
        self._images_G += np.bincount(places_B[places_B >= 0], minlength=size)

    def choose(self, num_truths: int, test: PrecisionTest) -> Levels:
        """Choose at most :data:`pipeline.trust.levels.NUM_LEVELS` levels, strict to loose.

        Args:
            num_truths: Truths that certify.
            test: The test of a level.

        Returns:
            Thresholds, which are values of float32; the images that are exported at each.
        """
        share = first_share(self.total, num_truths, test.passes, test.max_first_share) if self.total else None
        images_G, bits_G = np.cumsum(self._images_G[::-1]), np.cumsum(self._bits_G[::-1])  # from strict to loose
        if share is None or not images_G[-1]:
            return Levels(np.zeros(0), np.zeros(0, np.int64), self.total)
        first = np.searchsorted(images_G, min(share * self.total - 1e-9, images_G[-1]))
        aims = np.linspace(bits_G[first], bits_G[-1], NUM_LEVELS)
        chosen = np.unique(np.maximum(np.searchsorted(bits_G, aims), first))
        return Levels(self._grid_G[::-1][chosen].astype(np.float64), images_G[chosen].astype(np.int64), self.total)

    def mean_bits(self, threshold: float) -> float:
        """What the names at a threshold tell, a mean over all images: bits, 0 for an image that is not exported.

        Args:
            threshold: One of the levels.
        """
        first = np.searchsorted(self._grid_G, np.float32(threshold))
        return float(self._bits_G[first:].sum()) * _BITS_UNIT / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class JudgedNames:
    """Images whose truth is known, with the names that they may get; what :class:`pipeline.trust.promise.Judged` is.

    Attributes:
        paths: Of the n images.
        right_nD: bool, (n, D), whether each of their names is right.
    """

    paths: NamePaths
    right_nD: Array

    @classmethod
    def judge(cls, nodes: Nodes, paths: NamePaths, truth_n: Array) -> JudgedNames:
        """Judge the names of images.

        Args:
            nodes: Of the tree.
            paths: Of the n images.
            truth_n: int, (n,), the node of each; anything negative is at or below no name.
        """
        return cls(paths, nodes.is_at_or_below(truth_n[:, None], paths.nodes_BD))

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def scores_n(self) -> Array:
        """float32, (n,), the largest threshold at which each image is exported; 0 for none."""
        return self.paths.largest

    def count(self, thresholds_L: Array) -> tuple[Array, Array]:
        """Images that are exported at each threshold, and those with a right name: int64 (L,) each.

        Args:
            thresholds_L: float, (L,), above 0; compared as float32.
        """
        # a name is given where it reaches the threshold and the next finer one does not
        finer_nD = np.pad(self.paths.sums_BD[:, :-1], ((0, 0), (1, 0)))
        right_L = at_or_above(self.paths.sums_BD[self.right_nD], thresholds_L)
        return at_or_above(self.scores_n, thresholds_L), right_L - at_or_above(finer_nD[self.right_nD], thresholds_L)
