"""Which rows the page shows, chosen in one pass; the same output always gives the same rows."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np

from pipeline.annotation.hashing import GOLDEN_GAMMA, mix64

Array = np.ndarray


@dataclass(frozen=True, slots=True, order=True)
class RowRef:
    """A row of the predictions.

    Attributes:
        part: Name of its part.
        row: Its number in the part, from 0.
    """

    part: str
    row: int


class LowestRows:
    """Keeps the rows with the lowest values; of equal values, those with the lowest tie-breakers."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._rows: list[tuple[float, int, str, int]] = []

    def add(self, values_B: Array, ties_B: Array, part: str) -> None:
        """Consider the rows of a part: values float64 (B,), NaN for none, and tie-breakers uint64 (B,)."""
        limit = self._rows[-1][0] if len(self._rows) == self._max_rows else math.inf
        near = np.flatnonzero(values_B <= limit)  # never true of NaN
        near = near[np.lexsort((ties_B[near], values_B[near]))[: self._max_rows]]
        candidates = zip(values_B[near].tolist(), ties_B[near].tolist(), near.tolist(), strict=True)
        self._rows = heapq.nsmallest(
            self._max_rows, [*self._rows, *((value, tie, part, row) for value, tie, row in candidates)]
        )

    def row_refs(self) -> tuple[RowRef, ...]:
        """The rows kept, lowest first."""
        return tuple(RowRef(part, row) for _, _, part, row in self._rows)


class FirstRowsOfClasses:
    """Keeps the rows with the lowest tie-breakers of each class: a random choice of each."""

    def __init__(self, num_classes: int, max_rows: int) -> None:
        self._max_rows = max_rows
        self._labels_R = np.zeros(0, np.int32)
        self._ties_R = np.zeros(0, np.uint64)
        self._parts_R = np.zeros(0, np.int32)
        self._rows_R = np.zeros(0, np.int32)
        self._limit_K = np.full(num_classes, np.iinfo(np.uint64).max, np.uint64)

    def add(self, labels_B: Array, ties_B: Array, ordinal: int) -> None:
        """Consider the rows of a part: labels int32 (B,), tie-breakers uint64 (B,), and the number of the part."""
        near = np.flatnonzero(ties_B < self._limit_K[labels_B])
        if not len(near):
            return
        labels_R = np.concatenate([self._labels_R, labels_B[near]])
        ties_R = np.concatenate([self._ties_R, ties_B[near]])
        parts_R = np.concatenate([self._parts_R, np.full(len(near), ordinal, np.int32)])
        rows_R = np.concatenate([self._rows_R, near.astype(np.int32)])
        order = np.lexsort((ties_R, labels_R))
        sorted_R = labels_R[order]
        ranks_R = np.arange(len(order)) - np.searchsorted(sorted_R, sorted_R)
        last = order[ranks_R == self._max_rows - 1]
        self._limit_K[labels_R[last]] = ties_R[last]
        kept = order[ranks_R < self._max_rows]
        self._labels_R, self._ties_R = labels_R[kept], ties_R[kept]
        self._parts_R, self._rows_R = parts_R[kept], rows_R[kept]

    def rows(self, label: int) -> list[tuple[int, int]]:
        """The rows kept of a class, lowest tie-breaker first: number of the part, and of the row in it."""
        own = self._labels_R == label
        return list(zip(self._parts_R[own].tolist(), self._rows_R[own].tolist(), strict=True))


def tie_breakers(unit_id: str, index_B: Array) -> Array:
    """A pseudorandom number for each row, by its unit and index alone: uint64 (B,).

    The upper 16 bits depend on the unit alone. So rows are drawn from as few units as possible: the originals of shown
    images must be read again, and a unit may be a gigabyte.
    """
    unit = mix64(np.array([int(unit_id, 16)], np.uint64) + GOLDEN_GAMMA)
    rows_B = mix64((unit ^ index_B.astype(np.uint64)) + GOLDEN_GAMMA)
    tied_B: Array = (unit & np.uint64(0xFFFF000000000000)) | (rows_B >> np.uint64(16))
    return tied_B
