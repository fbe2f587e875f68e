"""Truth tables as JSON: as pandas, Polars, DuckDB, Spark and ``datasets`` write them, and mappings by key.

They write one list of objects, or an object a line; pandas also writes its columns, its rows by their index, and a
matrix with its names. Without a column ``key`` the index is the key, because ``set_index("key")`` is how one gets a
mapping. What other tools' annotations look like is in :mod:`pipeline.trust.annotations`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.errors import InputError
from pipeline.records import Counted
from pipeline.trust.draw import COLUMN
from pipeline.trust.truth_table import as_utf8, inflate, plain_name, select_columns

_EXTENSIONS = (".json", ".jsonl", ".ndjson")
_LABELS = frozenset({"label", "truth"})
_USED = _LABELS | {"key", "shard", COLUMN}
# of Label Studio's two exports: a list of tasks, or of annotations
_TASK_FIELDS = frozenset({"annotations", "annotation_id", "annotator", "choice", "completed_by"})

Row = Mapping[str, Any]


class _Repeated(dict[str, Any]):
    """An object that has a name twice: Python would keep the last one alone."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def is_json_name(path: str) -> bool:
    """Whether a file's name is one of JSON, compressed or not."""
    return path.lower().removesuffix(".gz").endswith(_EXTENSIONS)


def parse_json(path: str, data: bytes) -> tuple[Any, Counted]:
    """Parse JSON, or JSON lines as a list of what they hold.

    Args:
        path: Of the file, for messages.
        data: Its content, compressed with gzip or not.

    Returns:
        The content, and the lines that are no JSON.

    Raises:
        InputError: It is neither.
    """
    text = as_utf8(inflate(path, data)).decode("utf-8-sig")
    malformed = Counted()
    try:
        return _parse(text), malformed
    except (ValueError, RecursionError) as error:
        first_error = error
    content = []
    lines = text.split("\n") if text.lstrip().startswith("{") else []  # else it is one list, which was cut
    for line in lines:
        if not line.strip():
            continue
        try:
            content.append(_parse(line))
        except (ValueError, RecursionError):
            malformed.add(line.strip())
    if not any(isinstance(item, dict) for item in content):
        raise InputError(f"--truth {path}: not JSON: {first_error}") from first_error
    return content, malformed


def _parse(text: str) -> object:
    return json.loads(text, object_pairs_hook=_as_object)


def _as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _Repeated(pairs)


def read_json_table(path: str, content: object, malformed: Counted) -> pa.Table | None:
    """The columns of a table, as :func:`pipeline.trust.truth_table.read_truth_table` gives them.

    Args:
        path: Of the file, for messages.
        content: What it holds.
        malformed: Counts what is no row.

    Returns:
        None if it is no table.

    Raises:
        InputError: It is a table without a key or a label.
    """
    rows = _find_rows(path, content, malformed)
    if rows is None:
        return None
    names = list(dict.fromkeys(name for row in rows for name in row))
    try:
        columns = {
            name: _as_array([row.get(name) for row in rows]) if plain_name(name) in _USED else pa.nulls(len(rows))
            for name in names
        }
        return select_columns(path, pa.table(columns))
    except UnicodeEncodeError as error:
        raise InputError(f"--truth {path}: holds half a surrogate pair, which is no text: {error}") from error


def _find_rows(path: str, content: object, malformed: Counted) -> Sequence[Row] | None:
    if isinstance(content, list):
        return _rows_of_list(content, malformed)
    if not isinstance(content, dict) or not content or isinstance(content.get("labels"), dict):
        return None
    columns, data = content.get("columns"), content.get("data")
    if isinstance(data, list) and isinstance(columns, list):
        return _rows_of_matrix([str(name) for name in columns], data, content.get("index"), malformed)
    if isinstance(data, list):
        return _rows_of_list(data, malformed)
    names = {plain_name(name) for name in content}
    if not any(isinstance(value, dict | list) for value in content.values()):
        if "key" in names and names & _LABELS:
            return [content]  # one line of JSON lines
        pairs = content.pairs if isinstance(content, _Repeated) else content.items()
        return [{"key": key, "label": label} for key, label in pairs]
    if names & _LABELS:
        return _rows_of_columns(path, content)
    return _rows_by_index(content, malformed)


def _rows_of_list(items: list[Any], malformed: Counted) -> Sequence[Row] | None:
    rows = [item for item in items if isinstance(item, dict)]
    if not rows or any(isinstance(row.get("data"), dict) or not _TASK_FIELDS.isdisjoint(row) for row in rows):
        return None
    _count(malformed, (item for item in items if not isinstance(item, dict)))
    return rows


def _rows_of_matrix(names: list[str], data: list[Any], index: object, malformed: Counted) -> Sequence[Row]:
    if isinstance(index, list) and len(index) == len(data) and "key" not in map(plain_name, names):
        data = [[at, *cells] if isinstance(cells, list) else cells for at, cells in zip(index, data, strict=True)]
        names = ["key", *names]
    is_row = [isinstance(cells, list) and len(cells) == len(names) for cells in data]
    _count(malformed, (cells for cells, good in zip(data, is_row, strict=True) if not good))
    return [dict(zip(names, cells, strict=True)) for cells, good in zip(data, is_row, strict=True) if good]


def _rows_of_columns(path: str, content: Row) -> Sequence[Row] | None:
    columns = {
        name: dict(enumerate(column)) if isinstance(column, list) else column for name, column in content.items()
    }
    if not all(isinstance(column, dict) for column in columns.values()):
        return None
    index = list(dict.fromkeys(at for column in columns.values() for at in column))
    if any(len(column) != len(index) for column in columns.values()):
        raise InputError(f"--truth {path}: the columns {', '.join(columns)} are not equally long")
    rows = [{name: column[at] for name, column in columns.items()} for at in index]
    if "key" in map(plain_name, columns) or any(isinstance(column, list) for column in content.values()):
        return rows
    return [{"key": at, **row} for at, row in zip(index, rows, strict=True)]


def _rows_by_index(content: Row, malformed: Counted) -> Sequence[Row] | None:
    pairs = content.pairs if isinstance(content, _Repeated) else list(content.items())
    rows = [
        row if "key" in map(plain_name, row) else {"key": key, **row} for key, row in pairs if isinstance(row, dict)
    ]
    if not any(plain_name(name) in _LABELS for row in rows for name in row):
        return None
    _count(malformed, (f"{key}: {row}" for key, row in pairs if not isinstance(row, dict)))
    return rows


def _count(malformed: Counted, items: Iterable[object]) -> None:
    for item in items:
        malformed.add(item if isinstance(item, str) else json.dumps(item))


def _as_array(values: list[Any]) -> pa.Array:
    """Numbers as numbers, everything else as text: of an object or a list its JSON, which is no class."""
    if {type(value) for value in values} <= {int, float, type(None)}:
        try:
            return pa.array(values)
        except (pa.ArrowException, OverflowError):
            pass  # beyond 64 bits
    return pa.array(
        [value if value is None or isinstance(value, str) else json.dumps(value) for value in values], pa.string()
    )
