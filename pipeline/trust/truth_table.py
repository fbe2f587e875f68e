"""Truth tables: CSV as people's programs write it, or Parquet, to columns of text.

Excel writes UTF-16 with tabs, or Latin-1 with semicolons where a comma is the decimal mark. pandas writes the index as
a column of its own, and 3.0 for 3 where some values are missing.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.records import Counted
from pipeline.storage.arrow_memory import arrow_reader
from pipeline.trust.draw import COLUMN

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins like that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
DELIMITERS = (",", ";", "\t", "|")
_EXCEL_DELIMITER = re.compile(rb'"?sep=([,;|:^~ \t])"?[ \t,;]*[\r\n]+')
_LINE = re.compile(rb"[^\r\n]*")
_PARSE_ERRORS = (pa.ArrowException, OSError, csv.Error, EOFError, zlib.error, UnicodeError)
_MAX_HEADER_BYTES = 64 << 10
_MAX_COLUMNS = 2_000
_MAX_ROW_BYTES = 16 << 20


def read_truth_table(path: str, data: bytes) -> tuple[pa.Table, Counted]:
    """Read a table.

    Args:
        path: Of the file, for messages.
        data: Its content.

    Returns:
        The columns ``key``, ``label`` (the column ``truth``, where there is one) and, where there are, ``shard`` and
        ``drawn``. Those of CSV are text. And the rows of CSV that have more or fewer cells than the header: they are
        left out.

    Raises:
        InputError: It is no such table.
    """
    if data.startswith(_WORKBOOKS):
        raise InputError(f"--truth {path}: an Excel workbook, or another archive; save the table as CSV or Parquet")
    try:
        data = inflate(path, data)
        if data.startswith(_PARQUET) or path.lower().endswith((".parquet", ".pq")):
            return select_columns(path, pq.ParquetFile(arrow_reader(data)).read()), Counted()
        return _read_csv(path, as_utf8(data))
    except _PARSE_ERRORS as error:
        raise InputError(f"--truth {path}: neither CSV nor Parquet: {_one_line(error)}") from error


def inflate(path: str, data: bytes) -> bytes:
    """A file's content, if it is compressed with gzip, or else as it is.

    Raises:
        InputError: It is damaged.
    """
    if not data.startswith(_GZIP):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"--truth {path}: cannot be decompressed: {_one_line(error)}") from error


def as_utf8(data: bytes) -> bytes:
    """Text as UTF-8: by its mark, else as it is if it is UTF-8, else as Windows and old programs write it."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data.decode(encoding, "replace").encode("utf-8", "replace")
    if b"\0" in data[:2]:  # ASCII in UTF-16 without a mark
        return data.decode("utf-16-be" if data[0] == 0 else "utf-16-le", "replace").encode("utf-8", "replace")
    for encoding in ("utf-8", "cp1252", "latin-1"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        return data if encoding == "utf-8" else text.encode()
    raise AssertionError("every byte is a character of Latin-1")


def _read_csv(path: str, data: bytes) -> tuple[pa.Table, Counted]:
    data = data.lstrip(b" \r\n")
    delimiter = None
    if match := _EXCEL_DELIMITER.match(data):
        data, delimiter = data[match.end() :], match[1].decode("latin-1")
    malformed = Counted()

    def leave_out(row: pyarrow.csv.InvalidRow) -> str:
        malformed.add(row.text or f"{row.actual_columns} cells")
        return "skip"

    # The header is read as a row, and every column as text: keys may begin with zeros.
    names = [f"f{number}" for number in range(_MAX_COLUMNS)]
    table = pyarrow.csv.read_csv(
        arrow_reader(data),
        pyarrow.csv.ReadOptions(autogenerate_column_names=True, use_threads=False, block_size=_MAX_ROW_BYTES),
        pyarrow.csv.ParseOptions(
            delimiter=delimiter or _find_delimiter(data), newlines_in_values=True, invalid_row_handler=leave_out
        ),
        pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
    )
    header = [str(column[0].as_py()) for column in table.columns]
    found = select_columns(path, table.slice(1).rename_columns(header))
    if any(name != name.strip() for name in header):  # spaces belong to what separates the cells
        found = pa.table({name: pa.compute.utf8_trim_whitespace(found[name]) for name in found.column_names})
    return found, malformed


def _find_delimiter(data: bytes) -> str:
    """What separates the cells of the header: what finds the columns that are needed, or else most columns."""
    line = _LINE.match(data[:_MAX_HEADER_BYTES])
    text = line[0].decode("utf-8", "replace") if line else ""

    def count_columns(delimiter: str) -> tuple[bool, int]:
        cells = next(csv.reader(io.StringIO(text), delimiter=delimiter), [])
        names = {plain_name(cell) for cell in cells}
        return "key" in names and not names.isdisjoint({"label", "truth"}), len(cells)

    return max(DELIMITERS, key=count_columns)


def select_columns(path: str, table: pa.Table) -> pa.Table:
    """The columns key, label, shard and drawn, all but the label as text.

    Raises:
        InputError: There is no key or no label, or one of these is there twice.
    """
    names: list[str] = table.column_names
    key, label, truth, shard, drawn = (
        _find_column(path, names, name) for name in ("key", "label", "truth", "shard", COLUMN)
    )
    if truth is None and label is not None:
        _refuse_predictions(path, names)
    label = label if truth is None else truth
    if key is None or label is None:
        missing = " and ".join(name for name, at in (("key", key), ("label", label)) if at is None)
        raise InputError(f"--truth {path}: no column {missing}; it has {', '.join(names) or 'none'}")
    columns = {"key": _as_text(path, "key", table.column(key)), "label": table.column(label)}
    if shard is not None:
        columns["shard"] = _as_text(path, "shard", table.column(shard))
    if drawn is not None:
        columns[COLUMN] = _as_text(path, COLUMN, table.column(drawn))
    return pa.table(columns)


def _refuse_predictions(path: str, names: Sequence[str]) -> None:
    """Refuse a table whose labels are the networks' own: a list, or an export, without the answers.

    Raises:
        InputError: It is one.
    """
    known = {plain_name(name) for name in names}
    if COLUMN in known or {"score", "class_name"} <= known:
        raise InputError(
            f"--truth {path}: its column label is what the networks predicted, and there is no column truth with the "
            "answers of people"
        )


def _find_column(path: str, names: Sequence[str], wanted: str) -> int | None:
    """The place of a column: by its name, or else by its name regardless of case and of what surrounds it."""
    for found in (
        [at for at, name in enumerate(names) if name == wanted],
        [at for at, name in enumerate(names) if plain_name(name) == wanted],
    ):
        if len(found) > 1:
            raise InputError(f"--truth {path}: the column {wanted} must be there once, not {len(found)} times")
        if found:
            return found[0]
    return None


def plain_name(name: str) -> str:
    """The name of a column regardless of case and of what surrounds it."""
    return name.strip(" \t\"'#\ufeff").casefold()


def _as_text(path: str, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return column.cast(pa.string()).fill_null("")
    except pa.ArrowException as error:
        raise InputError(f"--truth {path}: the column {name} is no text: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
