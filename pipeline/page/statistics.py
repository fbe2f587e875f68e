"""Statistics of all labelled images, and the rows to show, from one pass over the predictions.

Memory does not grow with the number of images: it holds histograms, counts by class and by pair of members, and some
rows of each class. The choice of rows depends on the data alone, so the same output gives the same page.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.output.ledger import PREDICTIONS, Ledger
from pipeline.output.parts import PartName, truths_not_understood
from pipeline.page.group_counts import GroupCounts, GroupTally
from pipeline.page.row_choice import FirstRowsOfClasses, LowestRows, RowRef, tie_breakers
from pipeline.page.streaming_histogram import Histogram, HistogramBuilder
from pipeline.records import Counted
from pipeline.trust.group_reader import GroupReader

ROWS_PER_SHEET = 12
ROWS_PER_CLASS = 6
NUM_SHOWN_CLASSES = 8
_LEVEL_DIGITS = 4  # agreements that differ by less differ by rounding only
_COLUMNS = ("index", "label", "score", "agreement", "entropy", "disagreement", "truth")

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Statistics:
    """Statistics of the labelled images of an output.

    Attributes:
        parts: Number of rows of each part, by name.
        counts_K: int64, images of each class.
        truths: Images with a ``.cls``.
        truths_not_understood: Those whose ``.cls`` names no class.
        score, entropy, disagreement: Histograms; entropy and disagreement in nats.
        agreement: Images by their agreement, 0-1.
        same_top1_PP: int64, images on which two predictors have the same top-1 class. Predictor 0 is the consensus;
            the members follow in order.
        most_certain, least_certain, most_disagreeing: Rows to show, the most extreme first.
        of_classes: Rows to show of the most frequent classes, by class, the most frequent first.
        groups: Images by group of own classes; None without them.
    """

    parts: dict[str, int]
    counts_K: Array
    truths: int
    truths_not_understood: Counted
    score: Histogram
    entropy: Histogram
    disagreement: Histogram
    agreement: dict[float, int]
    same_top1_PP: Array
    most_certain: tuple[RowRef, ...]
    least_certain: tuple[RowRef, ...]
    most_disagreeing: tuple[RowRef, ...]
    of_classes: dict[int, tuple[RowRef, ...]]
    groups: GroupCounts | None = None

    @property
    def images(self) -> int:
        """Number of labelled images."""
        return sum(self.parts.values())

    @property
    def row_refs(self) -> tuple[RowRef, ...]:
        """All rows to show, each once, sorted by part."""
        sheets = (self.most_certain, self.least_certain, self.most_disagreeing, *self.of_classes.values())
        return tuple(sorted({row_ref for sheet in sheets for row_ref in sheet}))


def collect_statistics(ledger: Ledger, job: Mapping[str, Any], groups: GroupReader | None = None) -> Statistics:
    """Collect statistics in one pass over the predictions of an output.

    Args:
        ledger: Of the output.
        job: Its ``job.json``.
        groups: Reads the groups of own classes; None without them.

    Raises:
        StorageError: A part, or its probabilities, cannot be read.
    """
    members = job["results"]["members"]
    tally = _Counts(len(job["class_names"]), [float(member["factor"]) for member in members])
    aliases = [member["alias"] for member in members]
    group_tally = None if groups is None else GroupTally(groups)
    more = () if group_tally is None else group_tally.columns
    columns = list(dict.fromkeys([*_COLUMNS, *more, *(f"members.{alias}.labels" for alias in aliases)]))
    for part in ledger.prediction_parts(str(job["fingerprint"])):
        table = ledger.read_part(PREDICTIONS, str(part), columns)
        tally.add(part, table, aliases)
        if group_tally is not None:
            group_tally.add(part, table)
    stats = tally.stats()
    return stats if group_tally is None else dataclasses.replace(stats, groups=group_tally.counts())


class _Counts:
    """Statistics of the parts read so far."""

    def __init__(self, num_classes: int, factors: Sequence[float]) -> None:
        weights = np.asarray(factors) / sum(factors)
        most_disagreement = -sum(weight * math.log(weight) for weight in weights.tolist() if weight > 0)
        self._parts: dict[str, int] = {}
        self._counts_K = np.zeros(num_classes, np.int64)
        self._truths = 0
        self._truths_not_understood = Counted()
        self._score = HistogramBuilder(1.0)
        self._entropy = HistogramBuilder(math.log(num_classes))
        self._disagreement = HistogramBuilder(most_disagreement)
        self._agreement: Counter[float] = Counter()
        self._same_PP = np.zeros((1 + len(factors),) * 2, np.int64)
        self._sheets = {name: LowestRows(ROWS_PER_SHEET) for name in ("certain", "uncertain", "disagreeing")}
        self._of_classes = FirstRowsOfClasses(num_classes, ROWS_PER_CLASS)

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
        self._truths_not_understood.merge(truths_not_understood(table))
        self._score.add(score_B)
        self._entropy.add(entropy_B)
        self._disagreement.add(disagreement_B)
        levels, counts = np.unique(np.round(agreement_B[~np.isnan(agreement_B)], _LEVEL_DIGITS), return_counts=True)
        self._agreement.update(dict(zip(levels.tolist(), counts.tolist(), strict=True)))
        firsts_PB = np.stack([label_B, *(_top1_labels(table["members"], alias, table.num_rows) for alias in aliases)])
        self._same_PP += (firsts_PB[:, None] == firsts_PB[None]).sum(axis=2)
        ties_B = tie_breakers(part.unit_id, table["index"].to_numpy())
        self._sheets["certain"].add(-score_B, ties_B, str(part))
        self._sheets["uncertain"].add(score_B, ties_B, str(part))
        self._sheets["disagreeing"].add(np.where(disagreement_B > 0, -disagreement_B, np.nan), ties_B, str(part))
        self._of_classes.add(label_B, ties_B, ordinal)

    def stats(self) -> Statistics:
        """The statistics of all parts."""
        names = list(self._parts)
        common = np.argsort(-self._counts_K, kind="stable")[:NUM_SHOWN_CLASSES]
        return Statistics(
            parts=self._parts,
            counts_K=self._counts_K,
            truths=self._truths,
            truths_not_understood=self._truths_not_understood,
            score=self._score.build(),
            entropy=self._entropy.build(),
            disagreement=self._disagreement.build(),
            agreement=dict(sorted(self._agreement.items())),
            same_top1_PP=self._same_PP,
            most_certain=self._sheets["certain"].row_refs(),
            least_certain=self._sheets["uncertain"].row_refs(),
            most_disagreeing=self._sheets["disagreeing"].row_refs(),
            of_classes={
                label: tuple(RowRef(names[ordinal], row) for ordinal, row in self._of_classes.rows(label))
                for label in common.tolist()
                if self._counts_K[label]
            },
        )


def _floats(column: pa.ChunkedArray) -> Array:
    values: Array = column.to_numpy()  # where values are missing, NaN
    return values.astype(np.float64)


def _top1_labels(members: pa.ChunkedArray, alias: str, num_rows: int) -> Array:
    labels = members.combine_chunks().field(alias).field("labels")
    values: Array = labels.flatten().to_numpy()
    return values.reshape(num_rows, -1)[:, 0]
