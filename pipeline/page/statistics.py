"""One pass over the predictions: what is counted of all images, and which of them are to be shown.

Memory does not grow with the number of images: histograms, counts by class and by pair of members, and some rows of
each class. Which rows are shown depends on the data alone, so the same output gives the same page.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.output.ledger import PREDICTIONS, Ledger
from pipeline.output.parts import PartName

PER_SHEET = 12
PER_CLASS = 6
SHOWN_CLASSES = 8
_FINE_BINS = 400
_LEVEL_DIGITS = 4  # agreements that differ by less are equal on paper
_COLUMNS = ("index", "label", "score", "agreement", "entropy", "disagreement", "truth")

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Spread:
    """How a figure of the images is distributed.

    Attributes:
        low, high: The range that it can have.
        fine_B: int64, images in 400 bins of equal width over it.
        total: Sum over the images.
    """

    low: float
    high: float
    fine_B: Array
    total: float

    @property
    def images(self) -> int:
        """Images that have the figure."""
        return int(self.fine_B.sum())

    @property
    def mean(self) -> float:
        """Over these images."""
        return self.total / max(1, self.images)

    def quantile(self, share: float) -> float:
        """The value that a share (0-1) of the images stays below, to within a bin."""
        place = int(np.searchsorted(self.fine_B.cumsum(), share * self.images))
        return self.low + (self.high - self.low) * min(place + 0.5, _FINE_BINS) / _FINE_BINS

    def bins(self, num_bins: int) -> tuple[Array, Array]:
        """Edges (B + 1) and images (B) of fewer bins, whose number divides 400."""
        edges = np.linspace(self.low, self.high, num_bins + 1)
        return edges, self.fine_B.reshape(num_bins, -1).sum(axis=1)


@dataclass(frozen=True, slots=True, order=True)
class Pick:
    """A row that is to be shown.

    Attributes:
        part: Name of its part.
        row: Number in it.
    """

    part: str
    row: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """What is counted of the images of an output.

    Attributes:
        parts: Rows of each part, by name.
        counts_K: int64, images of each class.
        truths: Images that bring their own truth.
        score, entropy, disagreement: Distributions; entropy and disagreement in nats.
        agreement: Images by their agreement, 0-1.
        same_PP: int64, images on which two predictors have the same first class: the consensus, then the members.
        most_certain, least_certain, most_disagreeing: Rows to show, the foremost first.
        of_classes: Rows to show of the commonest classes, by class, the commonest first.
    """

    parts: dict[str, int]
    counts_K: Array
    truths: int
    score: Spread
    entropy: Spread
    disagreement: Spread
    agreement: dict[float, int]
    same_PP: Array
    most_certain: tuple[Pick, ...]
    least_certain: tuple[Pick, ...]
    most_disagreeing: tuple[Pick, ...]
    of_classes: dict[int, tuple[Pick, ...]]

    @property
    def images(self) -> int:
        """All labelled images."""
        return sum(self.parts.values())

    @property
    def picks(self) -> tuple[Pick, ...]:
        """All rows to show, each once, in order of their parts."""
        sheets = (self.most_certain, self.least_certain, self.most_disagreeing, *self.of_classes.values())
        return tuple(sorted({pick for sheet in sheets for pick in sheet}))


def collect_statistics(ledger: Ledger, job: Mapping[str, Any]) -> Statistics:
    """Go through the predictions of an output once.

    Args:
        ledger: Of the output.
        job: Its ``job.json``.

    Raises:
        StorageError: A part cannot be read.
    """
    members = job["results"]["members"]
    tally = _Tally(len(job["class_names"]), [float(member["factor"]) for member in members])
    aliases = [member["alias"] for member in members]
    columns = [*_COLUMNS, *(f"members.{alias}.labels" for alias in aliases)]
    for part in _own_parts(ledger, str(job["fingerprint"])):
        table = ledger.read_part(PREDICTIONS, str(part), columns)
        tally.add(part, table, aliases)
    return tally.stats()


def _own_parts(ledger: Ledger, fingerprint: str) -> Iterator[PartName]:
    for name in ledger.names(PREDICTIONS):
        part = PartName.parse(name)
        if part is not None and part.fingerprint == fingerprint[:8]:
            yield part


class _Tally:
    """What has been counted so far."""

    def __init__(self, num_classes: int, factors: Sequence[float]) -> None:
        weights = np.asarray(factors) / sum(factors)
        most_disagreement = -sum(weight * math.log(weight) for weight in weights.tolist() if weight > 0)
        self._parts: dict[str, int] = {}
        self._counts_K = np.zeros(num_classes, np.int64)
        self._truths = 0
        self._score = _Histogram(1.0)
        self._entropy = _Histogram(math.log(num_classes))
        self._disagreement = _Histogram(most_disagreement)
        self._agreement: Counter[float] = Counter()
        self._same_PP = np.zeros((1 + len(factors),) * 2, np.int64)
        self._sheets = {name: _Lowest(PER_SHEET) for name in ("certain", "uncertain", "disagreeing")}
        self._of_classes = _LowestOfClasses(num_classes, PER_CLASS)

    def add(self, part: PartName, table: pa.Table, aliases: Sequence[str]) -> None:
        """Count the rows of one part."""
        if not table.num_rows:
            self._parts[str(part)] = 0
            return
        label_B = table["label"].to_numpy()
        score_B, agreement_B, entropy_B, disagreement_B = (
            _floats(table[name]) for name in ("score", "agreement", "entropy", "disagreement")
        )
        ordinal = len(self._parts)
        self._parts[str(part)] = table.num_rows
        self._counts_K += np.bincount(label_B, minlength=len(self._counts_K))
        self._truths += table.num_rows - table["truth"].null_count
        self._score.add(score_B)
        self._entropy.add(entropy_B)
        self._disagreement.add(disagreement_B)
        levels, counts = np.unique(np.round(agreement_B[~np.isnan(agreement_B)], _LEVEL_DIGITS), return_counts=True)
        self._agreement.update(dict(zip(levels.tolist(), counts.tolist(), strict=True)))
        firsts_PB = np.stack([label_B, *(_firsts(table["members"], alias, table.num_rows) for alias in aliases)])
        self._same_PP += (firsts_PB[:, None] == firsts_PB[None]).sum(axis=2)
        ties_B = _ties(part.unit_id, table["index"].to_numpy())
        self._sheets["certain"].offer(-score_B, ties_B, str(part))
        self._sheets["uncertain"].offer(score_B, ties_B, str(part))
        self._sheets["disagreeing"].offer(np.where(disagreement_B > 0, -disagreement_B, np.nan), ties_B, str(part))
        self._of_classes.offer(label_B, ties_B, ordinal)

    def stats(self) -> Statistics:
        """What was counted."""
        names = list(self._parts)
        common = np.argsort(-self._counts_K, kind="stable")[:SHOWN_CLASSES]
        return Statistics(
            parts=self._parts,
            counts_K=self._counts_K,
            truths=self._truths,
            score=self._score.spread(),
            entropy=self._entropy.spread(),
            disagreement=self._disagreement.spread(),
            agreement=dict(sorted(self._agreement.items())),
            same_PP=self._same_PP,
            most_certain=self._sheets["certain"].picks(),
            least_certain=self._sheets["uncertain"].picks(),
            most_disagreeing=self._sheets["disagreeing"].picks(),
            of_classes={
                label: tuple(Pick(names[ordinal], row) for ordinal, row in self._of_classes.rows(label))
                for label in common.tolist()
                if self._counts_K[label]
            },
        )


class _Histogram:
    """Bins of equal width from 0; what rounding puts outside counts for the bin at the end."""

    def __init__(self, high: float) -> None:
        self._high = high if high > 0 else 1.0
        self._fine_B = np.zeros(_FINE_BINS, np.int64)
        self._total = 0.0

    def add(self, values_B: Array) -> None:
        known_B = np.clip(values_B[~np.isnan(values_B)], 0, self._high)
        places_B = np.minimum((known_B / self._high * _FINE_BINS).astype(np.intp), _FINE_BINS - 1)
        self._fine_B += np.bincount(places_B, minlength=_FINE_BINS)
        self._total += float(known_B.sum())

    def spread(self) -> Spread:
        return Spread(0.0, self._high, self._fine_B, self._total)


class _Lowest:
    """The rows of the lowest values; of equal ones, those that come first in the order of ties."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._rows: list[tuple[float, int, str, int]] = []

    def offer(self, values_B: Array, ties_B: Array, part: str) -> None:
        limit = self._rows[-1][0] if len(self._rows) == self._most else math.inf
        near = np.flatnonzero(values_B <= limit)  # never true of NaN
        near = near[np.lexsort((ties_B[near], values_B[near]))[: self._most]]
        offered = zip(values_B[near].tolist(), ties_B[near].tolist(), near.tolist(), strict=True)
        self._rows = heapq.nsmallest(
            self._most, [*self._rows, *((value, tie, part, row) for value, tie, row in offered)]
        )

    def picks(self) -> tuple[Pick, ...]:
        return tuple(Pick(part, row) for _, _, part, row in self._rows)


class _LowestOfClasses:
    """For each class, the rows that come first in the order of ties."""

    def __init__(self, num_classes: int, most: int) -> None:
        self._most = most
        self._labels_R = np.zeros(0, np.int32)
        self._ties_R = np.zeros(0, np.uint64)
        self._parts_R = np.zeros(0, np.int32)
        self._rows_R = np.zeros(0, np.int32)
        self._limit_K = np.full(num_classes, np.iinfo(np.uint64).max, np.uint64)

    def offer(self, labels_B: Array, ties_B: Array, ordinal: int) -> None:
        near = np.flatnonzero(ties_B < self._limit_K[labels_B])
        if not len(near):
            return
        labels_R = np.concatenate([self._labels_R, labels_B[near]])
        ties_R = np.concatenate([self._ties_R, ties_B[near]])
        parts_R = np.concatenate([self._parts_R, np.full(len(near), ordinal, np.int32)])
        rows_R = np.concatenate([self._rows_R, near.astype(np.int32)])
        order = np.lexsort((ties_R, labels_R))
        sorted_R = labels_R[order]
        places_R = np.arange(len(order)) - np.searchsorted(sorted_R, sorted_R)
        last = order[places_R == self._most - 1]
        self._limit_K[labels_R[last]] = ties_R[last]
        kept = order[places_R < self._most]
        self._labels_R, self._ties_R = labels_R[kept], ties_R[kept]
        self._parts_R, self._rows_R = parts_R[kept], rows_R[kept]

    def rows(self, label: int) -> list[tuple[int, int]]:
        """Numbers of parts, and of rows in them, in the order of ties."""
        own = self._labels_R == label
        return list(zip(self._parts_R[own].tolist(), self._rows_R[own].tolist(), strict=True))


def _ties(unit_id: str, index_B: Array) -> Array:
    """A number for each row that looks random and depends on its place alone: uint64.

    Its upper 16 bits are the unit's: rows are drawn from as few units as possible, because the originals of those shown
    must be read again, and a unit may be a gigabyte.
    """
    unit = _mixed(np.array([int(unit_id, 16)], np.uint64))
    rows_B = _mixed(unit ^ index_B.astype(np.uint64))
    tied_B: Array = (unit & np.uint64(0xFFFF000000000000)) | (rows_B >> np.uint64(16))
    return tied_B


def _mixed(numbers: Array) -> Array:
    """Well mixed bits of 64-bit numbers.

    Source: the finaliser of SplitMix64; Steele, Lea & Flood, "Fast splittable pseudorandom number generators",
    OOPSLA 2014.
    """
    mixed: Array = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def _floats(column: pa.ChunkedArray) -> Array:
    values: Array = column.to_numpy()  # where values are missing, NaN
    return values.astype(np.float64)


def _firsts(members: pa.ChunkedArray, alias: str, num_rows: int) -> Array:
    labels = members.combine_chunks().field(alias).field("labels")
    values: Array = labels.flatten().to_numpy()
    return values.reshape(num_rows, -1)[:, 0]
