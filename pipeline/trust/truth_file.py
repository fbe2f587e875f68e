"""Truth files.

A file is CSV, Parquet or JSON with the columns ``key`` and ``label``, and ``shard`` where a key names several images;
or the JSON export of Label Studio or FiftyOne. A column ``truth`` replaces ``label``: in the lists of
``shardlabel sample`` the column ``label`` is the consensus. A label is what :class:`pipeline.labels.ClassResolver`
knows: an index, a class name, a synonym or a WordNet id; or ``none``, where no class fits. Text that is both a name
and a number is a name.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import InputError, StorageError
from pipeline.labels import NO_CLASS, ClassResolver
from pipeline.records import Counted
from pipeline.storage import Storage, absolute_uri
from pipeline.taxonomy.answers import AnswerResolver, answers_of
from pipeline.taxonomy.tree import Taxonomy
from pipeline.trust.annotations import read_annotations
from pipeline.trust.draw import COLUMN, count_reviewed, count_shown
from pipeline.trust.truth import DISPUTED, NOT_UNDERSTOOD, Truth, TruthCounts, join_keys
from pipeline.trust.truth_json import is_json_name, parse_json, read_json_table
from pipeline.trust.truth_table import read_truth_table

_EXAMPLES = 3
_BLANK_TEXTS = frozenset({"", "nan", "na", "n/a", "#n/a", "<na>", "null"})  # what programs write for a missing value
_BLANK = -9  # besides the codes of Truth

Array = np.ndarray


def read_truth(path: str, storage: Storage, class_names: Sequence[str], taxonomy: Taxonomy | None = None) -> Truth:
    """Read a truth file.

    Args:
        path: Of a CSV, Parquet or JSON file, local or S3.
        storage: Reads it.
        class_names: Of the K classes.
        taxonomy: Groups of them, which a label may name, too.

    Raises:
        InputError: It is missing, or cannot be read as truth.
    """
    answers = None if taxonomy is None else answers_of(taxonomy)
    table, contested, malformed = _read_table(path, storage, answers)
    labels, examples = _parse_labels(path, table["label"], answers or ClassResolver(class_names))
    with_shards = "shard" in table.column_names
    joined = _join(table)
    known, unknown = labels >= NO_CLASS, labels == NOT_UNDERSTOOD
    drawn: Counter[str] = Counter()
    listed: Counter[str] = Counter()
    if COLUMN in table.column_names:
        listed.update(table[COLUMN].fill_null("").to_pylist())
        listed.update(contested[COLUMN].fill_null("").to_pylist())
        drawn.update(table[COLUMN].filter(pa.array(known | unknown)).fill_null("").to_pylist())
        drawn.update(contested[COLUMN].fill_null("").to_pylist())
    keys, labels_T, contradictory = _deduplicate(joined.filter(pa.array(known)), labels[known])
    doubled = int(known.sum()) - len(keys)
    # what people do not agree about, or is not understood, is kept: a promise counts it
    others = ((_join(contested), DISPUTED), (joined.filter(pa.array(unknown)).unique(), NOT_UNDERSTOOD))
    for own, code in others:
        new = own.filter(pc.invert(pc.is_in(own, value_set=keys)))
        keys = pa.concat_arrays([keys, new])
        labels_T = np.append(labels_T, np.full(len(new), code, np.int32))
    counts = TruthCounts(
        source=path,
        given=len(known) + len(contested) + malformed.count,
        malformed_rows=malformed.count,
        malformed_row_examples=tuple(malformed.examples),
        blank=int((labels == _BLANK).sum()),
        unknown_labels=int(unknown.sum()),
        unknown_label_examples=examples,
        doubled_keys=doubled,
        contradictory_keys=contradictory,
        contested=len(contested),
        reviewed=count_reviewed(drawn),
        shown=count_shown(drawn),
    )
    return Truth(keys, labels_T, with_shards, counts, drawn, listed)


def read_class_truth(path: str, storage: Storage, class_names: Sequence[str], taxonomy: Taxonomy | None) -> Truth:
    """Read a truth file for a command that knows classes only: groups count as not understood, and are told.

    Args:
        path: As for :func:`read_truth`.
        storage: Reads it.
        class_names: Of the K classes.
        taxonomy: Groups of them that a label may name; None where none are known.

    Raises:
        InputError: As for :func:`read_truth`.
    """
    truth = read_truth(path, storage, class_names, taxonomy)
    is_group_T = truth.labels_T >= len(class_names)
    return dataclasses.replace(
        truth,
        labels_T=np.where(is_group_T, np.int32(NOT_UNDERSTOOD), truth.labels_T),
        counts=dataclasses.replace(truth.counts, groups=int(is_group_T.sum())),
    )


def _join(table: pa.Table) -> pa.Array:
    """The keys of rows, with their shards where they have some."""
    if "shard" in table.column_names:
        return join_keys(table["shard"], table["key"])
    return table["key"].combine_chunks().cast(pa.string())


def _read_table(path: str, storage: Storage, answers: AnswerResolver | None) -> tuple[pa.Table, pa.Table, Counted]:
    """Columns key, label and, if there, shard and drawn; images whose votes are tied; rows that are no rows."""
    try:
        uri = absolute_uri(path)
        data = storage.read(uri)
        if is_json_name(path):
            content, malformed = parse_json(uri, data)
            if (table := read_json_table(path, content, malformed)) is not None:
                return table, table.drop_columns("label").slice(0, 0), malformed
            annotations = read_annotations(uri, content, storage, answers)
            return annotations.table, annotations.contested, malformed
    except StorageError as error:
        raise InputError(f"--truth {error}") from error
    table, malformed = read_truth_table(path, data)
    return table, table.drop_columns("label").slice(0, 0), malformed


def _parse_labels(path: str, column: pa.ChunkedArray, resolver: ClassResolver) -> tuple[Array, tuple[str, ...]]:
    """The label of each row as int32, _BLANK or NOT_UNDERSTOOD among them, and some of what is not understood."""
    numbers_only = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    try:
        # each distinct label is parsed once
        encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    except pa.ArrowException as error:
        raise InputError(f"--truth {path}: the column label holds {column.type}: neither text nor numbers") from error
    texts: list[str] = encoded.dictionary.to_pylist()
    resolve = resolver.resolve_index if numbers_only else resolver.resolve
    parsed = np.array([_parse_label(text, resolve(text)) for text in texts], np.int32)
    indices = encoded.indices.fill_null(len(texts)).to_numpy()
    labels = np.append(parsed, np.int32(_BLANK))[indices]
    unknown = [text for text, label in zip(texts, parsed, strict=True) if label == NOT_UNDERSTOOD]
    examples = Counted()
    for text in unknown[:_EXAMPLES]:
        examples.add(text)
    return labels.astype(np.int32), tuple(examples.examples)


def _parse_label(text: str, label: int | None) -> int:
    if label is not None:
        return label
    return _BLANK if text.strip().casefold() in _BLANK_TEXTS else NOT_UNDERSTOOD


def _deduplicate(keys: pa.Array, labels: Array) -> tuple[pa.Array, Array, int]:
    """Distinct keys and their labels, and how many keys are disputed, because their rows have different labels."""
    encoded = keys.dictionary_encode()
    if not len(encoded):
        return pa.array([], pa.string()), np.zeros(0, np.int32), 0
    codes = encoded.indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    lowest = np.minimum.reduceat(labels[order], starts)
    agreed = lowest == np.maximum.reduceat(labels[order], starts)
    return encoded.dictionary, np.where(agreed, lowest, np.int32(DISPUTED)), int((~agreed).sum())
