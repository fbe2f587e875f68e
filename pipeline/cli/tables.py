"""Tables that fit a terminal: text is folded, numbers stay whole."""

from __future__ import annotations

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

_LEAST_TEXT = 12  # columns of the terminal that a column of text keeps, if it has so many


def print_tables(*tables: Table) -> None:
    """Print tables, each below an empty line. One that cannot be narrow enough is wider than the terminal.

    Args:
        *tables: Columns on the right hold numbers.
    """
    for table in tables:
        needed = 0
        for column in table.columns:
            widest = max(cell_len(str(cell)) for cell in (column.header, *column.cells))
            is_number = column.justify == "right"
            column.no_wrap = is_number
            column.overflow = "fold"
            column.min_width = widest if is_number else min(_LEAST_TEXT, widest)
            needed += column.min_width + 2
        console = Console()
        console.width = max(console.width, needed)
        console.print()
        console.print(table, soft_wrap=True)
