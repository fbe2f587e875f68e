"""A CSV of which single cells are changed: all else stays, with encoding, separator, quotes and line ends."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence

from pipeline.errors import RequestError

_MARKS = (  # those of UTF-32 begin like those of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF8, "utf-8"),
)
_SEPARATORS = (",", ";", "\t", "|")
_EXCEL_SEPARATOR = re.compile(r"\s*\"?sep=([,;|\t])\"?[\t,; ]*(?:\r\n|\r|\n)+", re.IGNORECASE)
_LINE_END = re.compile(r"\r\n|\r|\n")
_QUOTED = re.compile(r"\s*\"((?:[^\"]|\"\")*)\"\s*", re.DOTALL)


class CsvText:
    """The cells of a CSV, row by row; row 0 is the header.

    Args:
        place: Path of the file, for messages.
        data: Its content.

    Raises:
        RequestError: It is no text.
    """

    def __init__(self, place: str, data: bytes) -> None:
        self._place = place
        self._mark, self.encoding, text = _decode(place, data)
        match = _EXCEL_SEPARATOR.match(text)
        start = match.end() if match else len(text) - len(text.lstrip(" \r\n"))
        self._before = text[:start]
        self._separator = match[1] if match else _find_separator(text[start:])
        self._cells, self._ends = _split(text, start, self._separator)
        self._line_end = next((end for end in self._ends if end), "\n")

    def __len__(self) -> int:
        return len(self._cells)

    def row(self, number: int) -> list[str]:
        """The cells of a row, without their quotes."""
        return [_unquote(cell) for cell in self._cells[number]]

    def width(self, number: int) -> int:
        """How many cells a row has."""
        return len(self._cells[number])

    def cell(self, number: int, column: int) -> str:
        """A cell, without its quotes."""
        return _unquote(self._cells[number][column])

    def change(self, number: int, column: int, text: str) -> None:
        """Write a cell.

        Raises:
            RequestError: The encoding of the file lacks a character of it.
        """
        self.check_encoding([text])
        quoted = any(sign in text for sign in (self._separator, '"', "\r", "\n")) or text != text.strip()
        self._cells[number][column] = '"' + text.replace('"', '""') + '"' if quoted else text

    def add_column(self, name: str) -> int:
        """Append a column of empty cells; returns its number. Rows that have another length than the header stay so."""
        width = len(self._cells[0])
        for cells in self._cells:
            if len(cells) == width:
                cells.append("")
        self.change(0, width, name)
        return width

    def check_encoding(self, texts: Sequence[str]) -> None:
        """Check that the file can hold these texts.

        Raises:
            RequestError: Its encoding lacks a character.
        """
        for text in texts:
            try:
                text.encode(self.encoding)
            except UnicodeEncodeError as error:
                raise RequestError(
                    f"{self._place}: is in {self.encoding}, which cannot hold {text!r}; save it as UTF-8"
                ) from error

    def encode(self) -> bytes:
        """The file."""
        lines = [self._before]
        for cells, end in zip(self._cells, self._ends, strict=True):
            lines += [self._separator.join(cells), end]
        return self._mark + "".join(lines).encode(self.encoding)


def _decode(place: str, data: bytes) -> tuple[bytes, str, str]:
    """Mark, encoding and text: by the mark, else UTF-8 if it is, else as Windows and old programs write it."""
    mark, encodings = next(
        ((mark, (encoding,)) for mark, encoding in _MARKS if data.startswith(mark)), (b"", ("utf-8", "cp1252"))
    )
    for encoding in encodings:
        try:
            text = data[len(mark) :].decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" in text:
            break
        return mark, encoding, text
    raise RequestError(f"{place}: is no CSV; `annotate` fills in the lists that `sample` and `review` write as CSV")


def _find_separator(text: str) -> str:
    """What separates the cells of the header: what splits it into most."""
    end = _LINE_END.search(text)
    header = text[: end.start()] if end else text
    return max(_SEPARATORS, key=header.count)


def _split(text: str, start: int, separator: str) -> tuple[list[list[str]], list[str]]:
    """The cells of each row as they stand, quotes included, and what ends each row."""
    sign = re.escape(separator)
    cell = re.compile(rf"([ ]*\"(?:[^\"]|\"\")*\"[^{sign}\r\n]*|[^{sign}\r\n]*)({sign}|\r\n|\r|\n|\Z)")
    rows: list[list[str]] = []
    ends: list[str] = []
    cells: list[str] = []
    while start < len(text) or cells:
        match = cell.match(text, start)
        assert match is not None
        cells.append(match[1])
        start = match.end()
        if match[2] == separator:
            continue
        rows.append(cells)
        ends.append(match[2])
        cells = []
    return rows, ends


def _unquote(cell: str) -> str:
    match = _QUOTED.fullmatch(cell) if '"' in cell else None
    return match[1].replace('""', '"') if match else cell
