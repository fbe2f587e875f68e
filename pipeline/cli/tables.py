"""Tables that fit a terminal: names are folded behind their separators, numbers stay whole."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPED_WIDTH, _PIPED_HEIGHT = 400, 25
_LEAST_TEXT = 14  # columns of the terminal that a column of text keeps, if it has so many
_LONGEST_PIECE = 20  # what is longer and has no separator is broken anywhere
# Behind a space, `_` and `/`; behind a dash, a dot or a comma unless a number goes on there.
_SEPARATED = re.compile(r"(?<=[\s_/])(?!\s)|(?<=[-.,])(?![\s\d_/])")


def make_console() -> Console:
    """A console as wide as the terminal; a file or a pipe has no width, unless somebody says so (``COLUMNS``)."""
    has_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    if has_width:
        return Console(highlight=False)
    return Console(width=_PIPED_WIDTH, height=_PIPED_HEIGHT, highlight=False)  # without both rich may take 80 columns


def new_table(first: str, *others: str) -> Table:
    """An indented table of numbers behind a first column of text, without rows."""
    table = Table(box=None, pad_edge=False)
    table.add_column(f"  {first}")
    for name in others:
        table.add_column(name, justify="right")
    return table


def show_interval(interval: tuple[float, float]) -> str:
    """An interval of shares as percentages: ``61.2-83.3``."""
    return f"{100 * interval[0]:.1f}-{100 * interval[1]:.1f}"


def print_tables(*tables: Table) -> None:
    """Print tables, each below an empty line. One that cannot be narrow enough is wider than the terminal.

    Args:
        *tables: Of plain text. Columns on the right hold numbers.
    """
    for table in tables:
        console = make_console()
        columns = [[str(cell) for cell in (column.header, *column.cells)] for column in table.columns]
        widths = [max(map(cell_len, cells)) for cells in columns]
        least = [
            width if column.justify == "right" else min(width, max(_LEAST_TEXT, *map(_longest_piece, cells)))
            for column, cells, width in zip(table.columns, columns, widths, strict=True)
        ]
        num_gaps = len(columns) - 1
        gap = 2 if sum(least) + 2 * num_gaps <= console.width else 1
        limits = _share(console.width - gap * num_gaps, widths, least)
        folded = [
            [Text("\n".join(fold(cell, limit))) for cell in cells] for cells, limit in zip(columns, limits, strict=True)
        ]
        shown = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style=table.header_style)
        for column, cells in zip(table.columns, folded, strict=True):
            shown.add_column(cells[0], justify=column.justify, no_wrap=True)
        for row in zip(*(cells[1:] for cells in folded), strict=True):
            shown.add_row(*row)
        console.width = max(console.width, sum(limits) + gap * num_gaps)
        console.print()
        console.print(shown, soft_wrap=True)


def fold(cell: str, limit: int) -> list[str]:
    """Fold a cell behind spaces and separators into lines of at most ``limit`` columns; all keep its indent."""
    if cell_len(cell) <= limit:
        return [cell]
    text = cell.lstrip(" ")
    indent = cell[: len(cell) - len(text)]
    room = max(1, limit - len(indent))
    lines = [""]
    for piece in _SEPARATED.split(text):
        if cell_len((lines[-1] + piece).rstrip()) <= room:
            lines[-1] += piece
            continue
        chopped = [piece] if cell_len(piece.rstrip()) <= room else chop_cells(piece, room)
        lines = [*lines, *chopped] if lines[-1] else chopped
    return [indent + line.rstrip() for line in lines]


def _longest_piece(cell: str) -> int:
    """Columns that a cell takes at least where it is folded."""
    text = cell.lstrip(" ")
    pieces = (cell_len(piece.rstrip()) for piece in _SEPARATED.split(text))
    return len(cell) - len(text) + min(_LONGEST_PIECE, max(pieces))


def _share(room: int, widths: Sequence[int], least: Sequence[int]) -> list[int]:
    """Narrow columns, the widest first, until all fit into the room or none can be narrower."""
    limits = list(widths)
    while sum(limits) > room and (
        wide := [at for at, (limit, low) in enumerate(zip(limits, least, strict=True)) if limit > low]
    ):
        limits[max(wide, key=lambda at: limits[at])] -= 1
    return limits
