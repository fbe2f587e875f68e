"""Which groups of own classes images were given, counted part by part.

Shapes: B images of a part, L columns of groups, the finest first, G groups of a column, N groups of the tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from pipeline.output.parts import PartName
from pipeline.page.streaming_histogram import Histogram, HistogramBuilder
from pipeline.taxonomy.tree import NO_GROUP, Taxonomy
from pipeline.trust.group_reader import GroupReader

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class ColumnCounts:
    """Images of one column of groups: a level of a file, or WordNet's names.

    Attributes:
        name: Of the column.
        numbers_G: int64, (G,), numbers of its groups in the tree.
        given_G: int64, (G,), images that were given each group.
        ended_G: int64, (G,), of these, those without a group in any finer column.
        none: Images that were given no group.
        score: Of the images with a group, the sum of its probabilities, 0-1.
    """

    name: str
    numbers_G: Array
    given_G: Array
    ended_G: Array
    none: int
    score: Histogram


@dataclass(frozen=True, slots=True)
class GroupCounts:
    """Images by group.

    Attributes:
        taxonomy: The tree.
        source: Where the groups come from, as :class:`GroupReader` has it.
        columns: The L columns, the finest first.
        nowhere: Images that were given no group in any column.
        apart: Images with a group that does not lie in the one that they were given above it: each level is chosen
            for itself.
    """

    taxonomy: Taxonomy
    source: Literal["columns", "probabilities", "top-k"]
    columns: tuple[ColumnCounts, ...]
    nowhere: int
    apart: int

    @property
    def images_by_group(self) -> Array:
        """int64, (N,), images that were given each group; in a tree without levels also one below it."""
        images_N = self._by_number("given_G")
        if not self.taxonomy.level_names:
            for number in reversed(range(len(images_N))):  # what lies below comes behind
                if (parent := self.taxonomy.groups[number].parent) != NO_GROUP:
                    images_N[parent] += images_N[number]
        return images_N

    @property
    def ended_by_group(self) -> Array:
        """int64, (N,), images whose finest group is this one."""
        return self._by_number("ended_G")

    def _by_number(self, attribute: str) -> Array:
        found_N = np.zeros(len(self.taxonomy.groups), np.int64)
        for column in self.columns:
            found_N[column.numbers_G] = getattr(column, attribute)
        return found_N


class GroupTally:
    """Counts groups; memory grows with the tree alone.

    Args:
        reader: Reads the groups of a part.

    Attributes:
        columns: Columns of the predictions that :meth:`add` needs.
    """

    def __init__(self, reader: GroupReader) -> None:
        taxonomy = reader.taxonomy
        self._reader = reader
        self.columns = reader.columns
        self._numbers = [np.arange(len(taxonomy.groups), dtype=np.int64)]
        if taxonomy.levels:
            self._numbers = [level.groups_G.astype(np.int64) for level in taxonomy.levels]
        self._given = [np.zeros(len(numbers_G), np.int64) for numbers_G in self._numbers]
        self._ended = [np.zeros(len(numbers_G), np.int64) for numbers_G in self._numbers]
        self._none = [0] * len(self._numbers)
        self._scores = [HistogramBuilder(1.0) for _ in self._numbers]
        self._nowhere = self._apart = 0
        column_N = np.zeros(len(taxonomy.groups), np.int64)
        self._parents_N = np.array([group.parent for group in taxonomy.groups], np.int64)
        for at, numbers_G in enumerate(self._numbers):
            column_N[numbers_G] = at
        self._parent_columns_N = np.where(self._parents_N == NO_GROUP, 0, column_N[self._parents_N])

    def add(self, name: PartName, table: pa.Table) -> None:
        """Count the rows of one part.

        Args:
            name: Of the part.
            table: Its rows, with :attr:`columns`.
        """
        groups_LB, scores_LB = self._reader.read(name, table)
        is_named_LB = groups_LB != NO_GROUP
        is_finest_LB = is_named_LB & (is_named_LB.cumsum(axis=0) == 1)
        for at, groups_B in enumerate(groups_LB):
            many = len(self._given[at])
            self._given[at] += np.bincount(groups_B[is_named_LB[at]], minlength=many)
            self._ended[at] += np.bincount(groups_B[is_finest_LB[at]], minlength=many)
            self._none[at] += int((~is_named_LB[at]).sum())
            self._scores[at].add(scores_LB[at][is_named_LB[at]].astype(np.float64))
        self._nowhere += int((~is_named_LB.any(axis=0)).sum())
        if len(groups_LB) > 1:
            self._apart += self._count_apart(groups_LB)

    def _count_apart(self, groups_LB: Array) -> int:
        numbers_LB = np.stack(
            [
                np.where(groups_B == NO_GROUP, NO_GROUP, numbers_G[groups_B])
                for groups_B, numbers_G in zip(groups_LB, self._numbers, strict=True)
            ]
        )
        is_apart_B = np.zeros(groups_LB.shape[1], bool)
        for numbers_B in numbers_LB:
            parents_B = np.where(numbers_B == NO_GROUP, NO_GROUP, self._parents_N[numbers_B])
            above_B = np.take_along_axis(numbers_LB, self._parent_columns_N[numbers_B][None], axis=0)[0]
            is_apart_B |= (parents_B != NO_GROUP) & (above_B != parents_B)
        return int(is_apart_B.sum())

    def counts(self) -> GroupCounts:
        """The counts of all parts."""
        columns = tuple(
            ColumnCounts(
                name=column.name,
                numbers_G=self._numbers[at],
                given_G=self._given[at],
                ended_G=self._ended[at],
                none=self._none[at],
                score=self._scores[at].build(),
            )
            for at, column in enumerate(self._reader.group_columns)
        )
        return GroupCounts(self._reader.taxonomy, self._reader.source, columns, self._nowhere, self._apart)
