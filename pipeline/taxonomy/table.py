"""The rows of a ``--classes`` file, whatever its format: CSV or TSV, or a YAML or JSON list of entries.

Cells are text here, without spaces around it; what they mean is the concern of ``classes_file``.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import InputError

CLASS = "class"  # the first column
_YAML_NULL = "tag:yaml.org,2002:null"


@dataclass(frozen=True, slots=True)
class Row:
    """A row.

    Attributes:
        where: Its place in the file: ``row 4``, as a spreadsheet counts, or ``entry 4`` of a list.
        cells: One for each column, the class first; empty for none.
    """

    where: str
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A header and rows.

    Attributes:
        place: The file and where its header is, as a message begins: ``pets.csv, row 1``.
        header: Names of the columns.
        rows: Those that are not blank.
    """

    place: str
    header: tuple[str, ...]
    rows: tuple[Row, ...]


def parse_table(path: str, data: bytes) -> Table:
    """Parse a file by its extension; CSV and TSV are told apart by the header.

    Args:
        path: For the extension and for messages.
        data: UTF-8, with or without its mark.

    Raises:
        InputError: It is no such table.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text") from error
    if not text.strip():
        raise _empty(path)
    if "\0" in text:
        raise InputError(f"{path}: not a text file: it holds NUL characters")
    name = path.lower()
    if name.endswith((".yaml", ".yml")):
        return _table_of_entries(path, _yaml_entries(path, text))
    if name.endswith(".json") or text.lstrip()[0] in "[{":
        return _table_of_entries(path, _json_entries(path, text))
    return _parse_csv(path, text)


def _parse_csv(path: str, text: str) -> Table:
    first = next(line for line in text.splitlines() if line.strip())
    delimiter = "\t" if "\t" in first else ","
    if delimiter not in first and ";" in first:
        raise InputError(f"{path}, row 1: columns are separated by semicolons; save it with commas or tabs")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    found: list[tuple[int, list[str]]] = []
    begins = 1  # line of the file, which is the row of a spreadsheet
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                found.append((begins, [cell.strip() for cell in cells]))
            begins = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, row {begins}: not CSV: {error}") from error
    if not found:
        raise _empty(path)
    (number, header), *rest = found
    while not header[-1]:  # columns that a spreadsheet has written though they are blank
        header.pop()
    place = f"{path}, row {number}"
    return Table(place, tuple(header), tuple(_fit(path, f"row {at}", cells, len(header)) for at, cells in rest))


def _fit(path: str, where: str, cells: list[str], num_columns: int) -> Row:
    while len(cells) > num_columns and not cells[-1]:
        cells.pop()
    if len(cells) != num_columns:
        raise InputError(f"{path}, {where}: {len(cells)} cells, but the header has {num_columns}")
    return Row(where, tuple(cells))


_Entries = list[list[tuple[str, str]]]  # pairs of column and cell


def _table_of_entries(path: str, entries: _Entries) -> Table:
    """A table whose columns are those of the first entry; later ones may leave some out."""
    levels = [column for column, _ in entries[0] if column != CLASS]
    rows = []
    for number, pairs in enumerate(entries, 1):
        where, cells = f"entry {number}", dict(pairs)
        if twice := _twice(column for column, _ in pairs):
            raise InputError(f"{path}, {where}: {twice!r} stands there twice")
        if CLASS not in cells:
            raise InputError(f"{path}, {where}: no {CLASS!r} in it")
        if unknown := cells.keys() - {CLASS, *levels}:
            raise InputError(
                f"{path}, {where}: {min(unknown)!r} is no level of the first entry, which has all levels, finest first"
            )
        rows.append(Row(where, tuple(cells.get(column, "") for column in (CLASS, *levels))))
    return Table(f"{path}, entry 1", (CLASS, *levels), tuple(rows))


def _twice(names: Iterable[str]) -> str | None:
    """The first of the names that is there more than once."""
    return next((name for name, times in Counter(names).items() if times > 1), None)


def _json_entries(path: str, text: str) -> _Entries:
    try:
        # objects as pairs, so that a name that comes twice is seen
        content = json.loads(text, object_pairs_hook=_Pairs, parse_int=str, parse_float=str)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, list) or not all(isinstance(entry, _Pairs) for entry in content) or not content:
        raise _no_list(path)
    return [
        [(name.strip(), _json_cell(f"{path}, entry {number}", name, value)) for name, value in entry.pairs]
        for number, entry in enumerate(content, 1)
    ]


class _Pairs:
    """A JSON object."""

    def __init__(self, pairs: Sequence[tuple[str, object]]) -> None:
        self.pairs = pairs


def _json_cell(place: str, name: str, value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _no_text(place, name)
    return value.strip()


def _yaml_entries(path: str, text: str) -> _Entries:
    """Scalars stay as they are written: `no` is a name, and no truth value."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        root = loader.get_single_node()
        if not isinstance(root, yaml.SequenceNode) or not root.value:
            raise _no_list(path)
        return [_yaml_pairs(path, number, loader, node) for number, node in enumerate(root.value, 1)]
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    finally:
        loader.dispose()


def _yaml_pairs(path: str, number: int, loader: Any, node: Any) -> list[tuple[str, str]]:  # noqa: ANN401 - PyYAML's own
    """The pairs of one entry. What an anchor is merged into (`<<: *dog`) comes first, and what stands there wins."""
    import yaml

    if not isinstance(node, yaml.MappingNode):
        raise _no_list(path)
    place = f"{path}, entry {number}"
    own = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
    if twice := _twice(own):
        raise InputError(f"{place}: {twice!r} stands there twice")
    loader.flatten_mapping(node)
    cells: dict[str, str] = {}
    for key, value in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else "a key"
        if name == "a key" or not isinstance(value, yaml.ScalarNode):
            raise _no_text(place, name)
        cells[name] = "" if value.tag == _YAML_NULL else value.value.strip()
    return list(cells.items())


def _empty(path: str) -> InputError:
    return InputError(f"{path}: empty; it takes a header 'class,LEVEL' and a row for each class")


def _no_list(path: str) -> InputError:
    return InputError(f"{path}: expected a list of entries such as {{class: tabby, pet: cat}}, one for each class")


def _no_text(place: str, name: str) -> InputError:
    return InputError(f"{place}: {name!r} is neither text nor a number")
