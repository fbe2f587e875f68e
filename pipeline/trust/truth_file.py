"""Truth files.

A file is CSV or Parquet with the columns ``key`` and ``label``, and ``shard`` where a key names several images; or the
JSON export of Label Studio or FiftyOne. A column ``truth`` replaces ``label``: in the lists of ``shardlabel sample``
the column ``label`` is the consensus. A label is a class name or an index; text that is both is a name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.errors import InputError, StorageError
from pipeline.labels import distinct_names
from pipeline.storage import Storage, absolute_uri
from pipeline.trust.annotations import read_annotations
from pipeline.trust.truth import Truth, TruthCounts, join_keys

_EXAMPLES = 3
_MAX_DIGITS = 9
_UNKNOWN, _BLANK = -1, -2

Array = np.ndarray


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
    joined = join_keys(table["shard"], table["key"]) if with_shards else table["key"].combine_chunks()
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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
