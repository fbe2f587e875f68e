"""Truth: the true class of images by key, from a file or from the samples' ``.cls``.

A file is CSV or Parquet with the columns ``key`` and ``label``, and ``shard`` where a key names several images; or the
JSON export of Label Studio or FiftyOne. A column ``truth`` replaces ``label``: in the lists of ``shardlabel sample``
the column ``label`` is the consensus. A label is a class name or an index; text that is both is a name.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.errors import InputError, StorageError
from pipeline.labels import distinct_names
from pipeline.storage import Storage, absolute_uri
from pipeline.trust.annotations import read_annotations

CLS_TRUTH = "the samples' .cls"
_EXAMPLES = 3
_MAX_DIGITS = 9
_UNKNOWN, _BLANK = -1, -2
_SEPARATOR = "\n"  # between shard and key: neither holds one

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class TruthCounts:
    """How much of the truth could be used, and why the rest could not.

    Attributes:
        source: Where it comes from.
        given: Rows of the file, or labelled images with a ``.cls``.
        used: Images with known truth; all figures are about them.
        blank: Rows without a label.
        unknown_labels: Rows whose label is no class, or the name of several classes.
        unknown_label_examples: Some of these labels.
        doubled_keys: Rows that repeat an image with the same label.
        contradictory_keys: Images left out because their rows have different labels.
        unknown_keys: Rows whose key is not among the labelled images.
        unknown_key_examples: Some of these keys.
        ambiguous_keys: Rows left out because several images have their key.
        contested: Images left out because the votes of the annotators are tied.
    """

    source: str
    given: int = 0
    used: int = 0
    blank: int = 0
    unknown_labels: int = 0
    unknown_label_examples: tuple[str, ...] = ()
    doubled_keys: int = 0
    contradictory_keys: int = 0
    unknown_keys: int = 0
    unknown_key_examples: tuple[str, ...] = ()
    ambiguous_keys: int = 0
    contested: int = 0

    @property
    def complaints(self) -> tuple[str, ...]:
        """The truth that could not be used, one line for each cause."""
        lines = (
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
    """

    keys: pa.Array
    labels_T: Array
    with_shards: bool
    counts: TruthCounts

    def find(self, shards: pa.ChunkedArray, keys: pa.ChunkedArray) -> Array:
        """Row of each image in the truth: int64 (B,), -1 where it has none."""
        joined = _join_keys(shards, keys) if self.with_shards else keys.combine_chunks().cast(pa.string())
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
        self._given = self._unknown = 0
        self._matches_T = np.zeros(0 if truth is None else len(truth.labels_T), np.int64)

    def match(self, table: pa.Table) -> tuple[Array, Array]:
        """Look up the truth of a batch of B images.

        Args:
            table: Predictions with :attr:`columns`.

        Returns:
            True classes, int32 (B,), -1 where not known; and rows of the truth file, int (B,), -1 where there is none.
        """
        if self._truth is None:
            labels_B = table["truth"].fill_null(-1).to_numpy()
            known_B = (labels_B >= 0) & (labels_B < self._num_classes)
            given = table.num_rows - table["truth"].null_count
            self._given += given
            self._unknown += given - int(known_B.sum())
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
            used = self._given - self._unknown
            return TruthCounts(CLS_TRUTH, given=self._given, unknown_labels=self._unknown, used=used)
        not_found = np.flatnonzero(self._matches_T == 0)
        return dataclasses.replace(
            self._truth.counts,
            used=int((self._matches_T == 1).sum()),
            unknown_keys=len(not_found),
            unknown_key_examples=tuple(self._truth.keys.take(pa.array(not_found[:_EXAMPLES])).to_pylist()),
            ambiguous_keys=int((self._matches_T > 1).sum()),
        )


def read_truth(path: str, storage: Storage, class_names: Sequence[str]) -> Truth:
    """Read a truth file.

    Args:
        path: Of a CSV, Parquet or JSON file, local or S3.
        storage: Reads it.
        class_names: Of the K classes.

    Raises:
        InputError: It is missing, or cannot be read as truth.
    """
    table, contested = _read_table(path, storage)
    labels, unknown = _parse_labels(path, table["label"], class_names)
    known = labels >= 0
    with_shards = "shard" in table.column_names
    table = table.filter(pa.array(known))
    joined = _join_keys(table["shard"], table["key"]) if with_shards else table["key"].combine_chunks()
    keys, labels_T, contradictory = _deduplicate(joined, labels[known])
    counts = TruthCounts(
        source=path,
        given=len(known) + contested,
        blank=int((labels == _BLANK).sum()),
        unknown_labels=int((labels == _UNKNOWN).sum()),
        unknown_label_examples=unknown,
        doubled_keys=table.num_rows - len(keys) - contradictory,
        contradictory_keys=contradictory,
        contested=contested,
    )
    return Truth(keys, labels_T, with_shards, counts)


def _read_table(path: str, storage: Storage) -> tuple[pa.Table, int]:
    """The columns key, label and, if there is one, shard; and the number of images left out because of ties."""
    try:
        uri = absolute_uri(path)
        data = storage.read(uri)
        if path.lower().endswith(".json"):
            annotations = read_annotations(uri, data, storage)
            return annotations.table, annotations.contested
    except StorageError as error:
        raise InputError(f"--truth {error}") from error
    return _select_columns(path, _parse_table(path, data)), 0


def _parse_table(path: str, data: bytes) -> pa.Table:
    try:
        if path.lower().endswith((".parquet", ".pq")):
            return pq.ParquetFile(pa.BufferReader(data)).read()
        # not as numbers: keys may begin with zeros
        text = dict.fromkeys(("key", "label", "truth", "shard"), pa.string())
        return pyarrow.csv.read_csv(
            pa.BufferReader(data), convert_options=pyarrow.csv.ConvertOptions(column_types=text)
        )
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"--truth {path}: neither CSV nor Parquet, by its name: {_one_line(error)}") from error


def _select_columns(path: str, table: pa.Table) -> pa.Table:
    """The columns key, label and shard, keys and shards as text."""
    given = "truth" if "truth" in table.column_names else "label"
    if missing := [name for name in ("key", given) if name not in table.column_names]:
        raise InputError(
            f"--truth {path}: no column {' and '.join(missing)}; it has {', '.join(table.column_names) or 'none'}"
        )
    names = [name for name in ("key", given, "shard") if table.column_names.count(name) == 1]
    if "key" not in names or given not in names:
        raise InputError(f"--truth {path}: the columns key and {given} must each be there once")
    table = table.select(names)
    for name in (name for name in names if name != given):
        try:
            text = table[name].cast(pa.string()).fill_null("")
        except pa.ArrowException as error:
            raise InputError(f"--truth {path}: the column {name} is no text: {_one_line(error)}") from error
        table = table.set_column(table.column_names.index(name), name, text)
    return table.rename_columns(["label" if name == given else name for name in names])


def _parse_labels(path: str, column: pa.ChunkedArray, class_names: Sequence[str]) -> tuple[Array, tuple[str, ...]]:
    """The label of each row as int32, _BLANK or _UNKNOWN, and some of the unknown ones."""
    try:
        if pa.types.is_floating(column.type):
            column = column.cast(pa.int64())  # pandas writes whole numbers as floats where some are missing
        # each distinct label is parsed once
        encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    except pa.ArrowException as error:
        raise InputError(f"--truth {path}: the column label is neither text nor whole numbers") from error
    texts: list[str] = encoded.dictionary.to_pylist()
    occurrences = Counter(class_names)
    by_name = {name: label for label, name in enumerate(distinct_names(class_names))}
    by_name |= {name.strip(): label for label, name in enumerate(class_names) if occurrences[name] == 1}
    numbers_only = pa.types.is_integer(column.type)
    parsed = np.array(
        [_parse_label(text.strip(), {} if numbers_only else by_name, len(class_names)) for text in texts], np.int32
    )
    indices = encoded.indices.fill_null(len(texts)).to_numpy()
    labels = np.append(parsed, np.int32(_BLANK))[indices]
    unknown = [text for text, label in zip(texts, parsed, strict=True) if label == _UNKNOWN]
    return labels.astype(np.int32), tuple(unknown[:_EXAMPLES])


def _parse_label(text: str, by_name: dict[str, int], num_classes: int) -> int:
    if not text:
        return _BLANK
    if text in by_name:
        return by_name[text]
    is_number = text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS
    return int(text) if is_number and int(text) < num_classes else _UNKNOWN


def _deduplicate(keys: pa.Array, labels: Array) -> tuple[pa.Array, Array, int]:
    """Distinct keys and their labels, and how many keys were left out because their rows have different labels."""
    encoded = keys.dictionary_encode()
    if not len(encoded):
        return pa.array([], pa.string()), np.zeros(0, np.int32), 0
    codes = encoded.indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    lowest = np.minimum.reduceat(labels[order], starts)
    agreed = lowest == np.maximum.reduceat(labels[order], starts)
    return encoded.dictionary.filter(pa.array(agreed)), lowest[agreed], int((~agreed).sum())


def _join_keys(shards: pa.ChunkedArray, keys: pa.ChunkedArray) -> pa.Array:
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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
