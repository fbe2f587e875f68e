"""Truth from a file: which image is what, by key.

A CSV or Parquet file with the columns ``key`` and ``label``, and ``shard`` where keys alone name several images; or the
JSON of people's annotations in Label Studio or FiftyOne. A column ``truth``, as the lists of ``shardlabel sample`` have
it, is used in place of ``label``, which is the consensus's there. A label is a class name or an index; a word that is
both is the name.
"""

from __future__ import annotations

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

_EXAMPLES = 3
_MOST_DIGITS = 9
_UNKNOWN, _BLANK = -1, -2
_SEPARATOR = "\n"  # between shard and key: neither holds one

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class TruthCounts:
    """What became of the truth that was given.

    Attributes:
        source: Where it comes from.
        given: Rows of the file, or labelled images with a ``.cls``.
        used: Images whose truth is known; all figures are about them.
        blank: Rows without a label.
        unknown_labels: Rows whose label is no class, or the name of several.
        unknown_label_examples: Some of these labels.
        doubled_keys: Rows that name an image again.
        contradictory_keys: Images that are left out, because their rows do not agree.
        unknown_keys: Rows whose key is not among the labelled images.
        unknown_key_examples: Some of these keys.
        ambiguous_keys: Rows that are left out, because several images have their key.
        contested: Images that are left out, because as many people say one thing as another.
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
        """What a person should know of it, one line each."""
        lines = (
            (self.blank, "without a label", ()),
            (self.unknown_labels, "with a label that is no class, or the name of several", self.unknown_label_examples),
            (self.doubled_keys, "that name an image again", ()),
            (self.contradictory_keys, "left out, because rows about one image do not agree", ()),
            (self.unknown_keys, "whose key is not among the labelled images", self.unknown_key_examples),
            (self.ambiguous_keys, "left out, because several images have the key: add a shard column", ()),
            (self.contested, "left out, because as many people say one thing as another", ()),
        )
        return tuple(
            f"{count:,} {what}"
            + (f" ({', '.join(examples)}{', ...' if count > len(examples) else ''})" * bool(examples))
            for count, what, examples in lines
            if count
        )


@dataclass(frozen=True, slots=True)
class Truth:
    r"""A truth file, read: one row for each image that it names.

    Attributes:
        keys: Text, without doubles; ``SHARD\nKEY`` where there are shards.
        labels_T: int32, of each key, 0 to K - 1.
        with_shards: Whether there are.
        counts: What became of the rows so far.
    """

    keys: pa.Array
    labels_T: Array
    with_shards: bool
    counts: TruthCounts

    def find(self, shards: pa.ChunkedArray, keys: pa.ChunkedArray) -> Array:
        """Which row of the truth is about each of some images: int64, -1 where none is."""
        wanted = _joined(shards, keys) if self.with_shards else keys.combine_chunks().cast(pa.string())
        found = pc.index_in(wanted, value_set=self.keys)
        rows: Array = found.fill_null(-1).to_numpy()
        return rows.astype(np.int64)


def read_truth(path: str, storage: Storage, class_names: Sequence[str]) -> Truth:
    """Read a truth file.

    Args:
        path: Of a CSV, Parquet or JSON file, local or S3.
        storage: Reads it.
        class_names: Of the K classes.

    Raises:
        InputError: It is missing, or is no such file.
    """
    table, contested = _table(path, storage)
    labels, unknown = _labels(path, table["label"], class_names)
    sound = labels >= 0
    with_shards = "shard" in table.column_names
    table = table.drop_columns("label").filter(pa.array(sound))
    joined = _joined(table["shard"], table["key"]) if with_shards else table["key"].combine_chunks()
    keys, labels_T, contradictory = _without_doubles(joined, labels[sound])
    counts = TruthCounts(
        source=path,
        given=len(sound) + contested,
        blank=int((labels == _BLANK).sum()),
        unknown_labels=int((labels == _UNKNOWN).sum()),
        unknown_label_examples=unknown,
        doubled_keys=table.num_rows - len(keys) - contradictory,
        contradictory_keys=contradictory,
        contested=contested,
    )
    return Truth(keys, labels_T, with_shards, counts)


def _table(path: str, storage: Storage) -> tuple[pa.Table, int]:
    """The columns key and label, and shard if there is one; how many images were left out as contested."""
    try:
        uri = absolute_uri(path)
        data = storage.read(uri)
        if path.lower().endswith(".json"):
            annotations = read_annotations(uri, data, storage)
            return annotations.table, annotations.contested
    except StorageError as error:
        raise InputError(f"--truth {error}") from error
    return _columns(path, _parsed(path, data)), 0


def _parsed(path: str, data: bytes) -> pa.Table:
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


def _columns(path: str, table: pa.Table) -> pa.Table:
    """The columns that matter, keys and shards as text."""
    given = "truth" if "truth" in table.column_names else "label"
    if missing := [name for name in ("key", given) if name not in table.column_names]:
        raise InputError(
            f"--truth {path}: no column {' and '.join(missing)}; it has {', '.join(table.column_names) or 'none'}"
        )
    names = [name for name in ("key", given, "shard") if table.column_names.count(name) == 1]
    if "key" not in names or given not in names:
        raise InputError(f"--truth {path}: the columns key and {given} must be there once")
    table = table.select(names)
    for name in (name for name in names if name != given):
        try:
            text = table[name].cast(pa.string()).fill_null("")
        except pa.ArrowException as error:
            raise InputError(f"--truth {path}: the column {name} is no text: {_one_line(error)}") from error
        table = table.set_column(table.column_names.index(name), name, text)
    return table.rename_columns(["label" if name == given else name for name in names])


def _labels(path: str, column: pa.ChunkedArray, class_names: Sequence[str]) -> tuple[Array, tuple[str, ...]]:
    """The label of each row as int32, _BLANK or _UNKNOWN, and some of the unknown ones."""
    try:
        if pa.types.is_floating(column.type):
            column = column.cast(pa.int64())  # pandas writes whole numbers as floats where some are missing
        # each distinct word is looked up once
        encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    except pa.ArrowException as error:
        raise InputError(f"--truth {path}: the column label is neither text nor whole numbers") from error
    words: list[str] = encoded.dictionary.to_pylist()
    times = Counter(class_names)
    by_name = {name: label for label, name in enumerate(distinct_names(class_names))}
    by_name |= {name.strip(): label for label, name in enumerate(class_names) if times[name] == 1}
    numbers_only = pa.types.is_integer(column.type)
    meant = np.array(
        [_label(word.strip(), {} if numbers_only else by_name, len(class_names)) for word in words], np.int32
    )
    places = encoded.indices.fill_null(len(words)).to_numpy()
    labels = np.append(meant, np.int32(_BLANK))[places]
    unknown = [word for word, label in zip(words, meant, strict=True) if label == _UNKNOWN]
    return labels.astype(np.int32), tuple(unknown[:_EXAMPLES])


def _label(word: str, by_name: dict[str, int], num_classes: int) -> int:
    if not word:
        return _BLANK
    if word in by_name:
        return by_name[word]
    is_number = word.isascii() and word.isdecimal() and len(word) <= _MOST_DIGITS
    return int(word) if is_number and int(word) < num_classes else _UNKNOWN


def _without_doubles(keys: pa.Array, labels: Array) -> tuple[pa.Array, Array, int]:
    """Distinct keys and their labels, and how many keys were left out because their rows do not agree."""
    encoded = keys.dictionary_encode()
    if not len(encoded):
        return pa.array([], pa.string()), np.zeros(0, np.int32), 0
    codes = encoded.indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    lowest = np.minimum.reduceat(labels[order], starts)
    agreed = lowest == np.maximum.reduceat(labels[order], starts)
    return encoded.dictionary.filter(pa.array(agreed)), lowest[agreed], int((~agreed).sum())


def _joined(shards: pa.ChunkedArray, keys: pa.ChunkedArray) -> pa.Array:
    r"""``SHARD\nKEY``, the shard in one spelling."""
    encoded = shards.cast(pa.string()).combine_chunks().dictionary_encode()
    spelled = pa.array([_place(uri) for uri in encoded.dictionary.to_pylist()], pa.string())
    return pc.binary_join_element_wise(
        spelled.take(encoded.indices), keys.combine_chunks().cast(pa.string()), _SEPARATOR
    )


def _place(uri: str) -> str:
    try:
        return absolute_uri(uri).rstrip("/")
    except StorageError:
        return uri


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
