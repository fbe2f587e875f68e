"""Tables of the levels of own classes, in ``evaluate``."""

from __future__ import annotations

from rich.table import Table

from pipeline.cli.printing import print_line
from pipeline.cli.tables import new_table, print_tables, show_interval
from pipeline.labels import NO_CLASS
from pipeline.text.safe import printable
from pipeline.trust.evaluation import Evaluation
from pipeline.trust.level_accuracy import LevelAccuracy

_MAX_CONFUSED = 5  # of each level


def print_levels(found: Evaluation) -> None:
    """Print accuracy at each level, and what is confused there; nothing without levels."""
    if not found.levels:
        return
    print_tables(_level_table(found.levels))
    for level in found.levels:
        for line in _describe(level):
            print_line(f"  {line}")
    if any(level.confused for level in found.levels):
        print_tables(_confusion_table(found.levels))


def _level_table(levels: tuple[LevelAccuracy, ...]) -> Table:
    table = new_table(
        "level", "groups", "images", "right", "95 %", "label folded", "named", "of them right", "95 %", "bits"
    )
    for level in levels:
        table.add_row(
            f"  {printable(level.name)}",
            f"{level.num_groups:,}",
            f"{level.images:,}",
            f"{level.accuracy:.1%}",
            show_interval(level.accuracy_interval),
            "-" if level.by_label is None else f"{level.by_label:.1%}",
            f"{level.named:,}",
            "-" if level.precision is None else f"{level.precision:.1%}",
            show_interval(level.precision_interval),
            f"{level.bits:.1f}",
        )
    return table


def _describe(level: LevelAccuracy) -> list[str]:
    lines = []
    if level.outside:
        lines.append(f"{level.outside:,} in no group of {level.name}: to give none is right there")
    if level.not_told:
        lines.append(f"{level.not_told:,} more with a truth that is too coarse for {level.name}")
    return lines


def _show(number: int, name: str) -> str:
    return "(no group)" if number == NO_CLASS else printable(name)


def _confusion_table(levels: tuple[LevelAccuracy, ...]) -> Table:
    table = new_table("level", "truth", "taken for", "images", "of the group")
    for column in table.columns[1:3]:
        column.justify = "left"
    for level in levels:
        for pair in level.confused[:_MAX_CONFUSED]:
            names = (_show(pair.truth, pair.truth_name), _show(pair.label, pair.label_name))
            table.add_row(f"  {printable(level.name)}", *names, f"{pair.images:,}", f"{pair.share:.1%}")
    return table
