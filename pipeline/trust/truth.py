"""Truth: the true class of images by key, and its lookup for labelled images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import StorageError
from pipeline.output.parts import truths_not_understood
from pipeline.records import Counted
from pipeline.storage import absolute_uri

CLS_TRUTH = "the samples' .cls"
_EXAMPLES = 3
_SEPARATOR = "\n"  # between shard and key: neither holds one

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class TruthCounts:
    """How much of the truth could be used, and why the rest could not.

    Attributes:
        source: Where it comes from.
        given: Rows of the file, or labelled images with a ``.cls``.
        used: Images with known truth; all figures are about them.
        malformed_rows: Rows with more or fewer cells than the header.
        malformed_row_examples: Some of these rows.
        blank: Rows without a label.
        unknown_labels: Rows whose label is no class, or the name of several classes.
        unknown_label_examples: Some of these labels.
        doubled_keys: Rows that repeat an image with the same label.
        contradictory_keys: Images left out because their rows have different labels.
        unknown_keys: Rows whose key is not among the labelled images.
        unknown_key_examples: Some of these keys.
        ambiguous_keys: Rows left out because several images have their key.
        contested: Images left out because the votes of the annotators are tied.
        reviewed: Rows with a known label that come from lists of ``review``, which are no random draw.
    """

    source: str
    given: int = 0
    used: int = 0
    malformed_rows: int = 0
    malformed_row_examples: tuple[str, ...] = ()
    blank: int = 0
    unknown_labels: int = 0
    unknown_label_examples: tuple[str, ...] = ()
    doubled_keys: int = 0
    contradictory_keys: int = 0
    unknown_keys: int = 0
    unknown_key_examples: tuple[str, ...] = ()
    ambiguous_keys: int = 0
    contested: int = 0
    reviewed: int = 0

    @property
    def complaints(self) -> tuple[str, ...]:
        """The truth that could not be used, one line for each cause."""
        lines = (
            (self.malformed_rows, "with more or fewer cells than the header", self.malformed_row_examples),
            (self.blank, "without a label", ()),
            (self.unknown_labels, "with a label that is no class, or the name of several", self.unknown_label_examples),
            (self.doubled_keys, "that name an image again", ()),
            (self.contradictory_keys, "left out, because rows about one image do not agree", ()),
            (self.unknown_keys, "whose key is not among the labelled images", self.unknown_key_examples),
            (self.ambiguous_keys, "left out, because several images have the key: add a shard column", ()),
            (self.contested, "left out, because the votes of the annotators are tied", ()),
        )
        return tuple(
            f"{count:,} {what}"
            + (f" ({', '.join(examples)}{', ...' if count > len(examples) else ''})" * bool(examples))
            for count, what, examples in lines
            if count
        )


@dataclass(frozen=True, slots=True)
class Truth:
    r"""A truth file: one row for each image that it names.

    Attributes:
        keys: Text, each once; ``SHARD\nKEY`` where the file has shards.
        labels_T: int32, true class of each key, 0 to K - 1.
        with_shards: Whether the file has shards.
        counts: Rows of the file, and those that cannot be used whatever the images are.
        drawn: Number of rows with a known label by what they say about their draw (:mod:`pipeline.trust.draw`); ``""``
            where they say nothing.
    """

    keys: pa.Array
    labels_T: Array
    with_shards: bool
    counts: TruthCounts
    drawn: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def find(self, shards: pa.ChunkedArray, keys: pa.ChunkedArray) -> Array:
        """Row of each image in the truth: int64 (B,), -1 where it has none."""
        joined = join_keys(shards, keys) if self.with_shards else keys.combine_chunks().cast(pa.string())
        found = pc.index_in(joined, value_set=self.keys)
        rows: Array = found.fill_null(-1).to_numpy()
        return rows.astype(np.int64)


class TruthMatcher:
    """Looks up the truth of labelled images, batch by batch, and counts the truth that cannot be used.

    Args:
        truth: Of a file; None for the ``.cls`` of the samples.
        num_classes: K.

    Attributes:
        columns: Columns of the predictions that :meth:`match` reads.
    """

    def __init__(self, truth: Truth | None, num_classes: int) -> None:
        self.columns = ["truth"] if truth is None else ["shard", "key"]
        self._truth = truth
        self._num_classes = num_classes
        self._known = self._unknown = 0
        self._noted = Counted()
        self._matches_T = np.zeros(0 if truth is None else len(truth.labels_T), np.int64)

    def match(self, table: pa.Table) -> tuple[Array, Array]:
        """Look up the truth of a batch of B images.

        Args:
            table: Predictions with :attr:`columns`; for the ``.cls``, of one part and with its metadata.

        Returns:
            True classes, int32 (B,), -1 where not known; and rows of the truth file, int (B,), -1 where there is none.
        """
        if self._truth is None:
            labels_B = table["truth"].fill_null(-1).to_numpy()
            known_B = (labels_B >= 0) & (labels_B < self._num_classes)
            no_class = table.num_rows - table["truth"].null_count - int(known_B.sum())
            noted = truths_not_understood(table)  # with those that are null; parts of earlier versions note none
            self._noted.merge(noted)
            self._unknown += max(no_class, noted.count)
            self._known += int(known_B.sum())
            return np.where(known_B, labels_B, -1).astype(np.int32), np.full(len(labels_B), -1, np.int8)
        rows_B = self._truth.find(table["shard"], table["key"])
        self._matches_T += np.bincount(rows_B[rows_B >= 0], minlength=len(self._matches_T))
        return np.append(self._truth.labels_T, np.int32(-1))[rows_B], rows_B

    def is_unique(self, rows_N: Array) -> Array:
        """Whether each of these rows of the truth file was found for one image only: bool (N,).

        Args:
            rows_N: int, as :meth:`match` returns them, without -1. All batches must have been matched.
        """
        unique_N: Array = self._matches_T[rows_N] == 1
        return unique_N

    def unique_rows(self) -> Array:
        """The rows of the truth file that were found for one image only: int64. -1 stands for all ``.cls``."""
        return np.array([-1]) if self._truth is None else np.flatnonzero(self._matches_T == 1)

    def counts(self) -> TruthCounts:
        """How much of the truth could be used, after all batches."""
        if self._truth is None:
            return TruthCounts(
                CLS_TRUTH,
                given=self._known + self._unknown,
                unknown_labels=self._unknown,
                unknown_label_examples=tuple(self._noted.examples),
                used=self._known,
            )
        not_found = np.flatnonzero(self._matches_T == 0)
        return dataclasses.replace(
            self._truth.counts,
            used=int((self._matches_T == 1).sum()),
            unknown_keys=len(not_found),
            unknown_key_examples=tuple(self._truth.keys.take(pa.array(not_found[:_EXAMPLES])).to_pylist()),
            ambiguous_keys=int((self._matches_T > 1).sum()),
        )


def join_keys(shards: pa.ChunkedArray, keys: pa.ChunkedArray) -> pa.Array:
    r"""``SHARD\nKEY``, with shards as absolute URIs."""
    encoded = shards.cast(pa.string()).combine_chunks().dictionary_encode()
    spelled = pa.array([_normalized(uri) for uri in encoded.dictionary.to_pylist()], pa.string())
    return pc.binary_join_element_wise(
        spelled.take(encoded.indices), keys.combine_chunks().cast(pa.string()), _SEPARATOR
    )


def _normalized(uri: str) -> str:
    try:
        return absolute_uri(uri).rstrip("/")
    except StorageError:
        return uri
