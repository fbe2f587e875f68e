"""A tree of classes as text, with the number of classes of each group; and a part of it as CSV or JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from rich.cells import cell_len

from pipeline.cli.printing import print_json, print_line, print_stderr
from pipeline.cli.tables import fold, make_console
from pipeline.commands.classes import ClassTree, GroupFacts
from pipeline.taxonomy.parts import PartOfTree
from pipeline.text import fmt
from pipeline.text.safe import printable

_MOST_COLUMNS = 80  # of a line; a pipe has no width
_INDENT = "  "
_SHOWN = 4  # classes that are named at most


def print_tree(tree: ClassTree, num_levels: int | None = None) -> None:
    """Print what a file holds: its levels, then each group below the one around it.

    Args:
        tree: What is in the file.
        num_levels: How many levels to show; None for all.
    """
    width = min(make_console().width, _MOST_COLUMNS)
    for note in tree.notes:
        print_stderr(f"note: {note}")
    groups = fmt.plural(tree.num_groups, "group")
    print_line(f"{tree.source}: {tree.num_leaves:,} of {fmt.plural(tree.num_classes, 'class', 'classes')} in {groups}")
    for level in tree.levels:
        classes = fmt.plural(level.num_leaves, "class", "classes")
        print_line(f"level {level.name}: {fmt.plural(level.num_groups, 'group')}, {classes}")
    for member in tree.members:
        own, classes = (fmt.plural(number, "class", "classes") for number in (member.num_own, tree.num_classes))
        print_line(f"member {member.alias}: {own} of its own for {member.num_leaves:,} of {classes}")
    print_line("")
    digits = len(fmt.count(tree.num_classes))
    for number, indent, text, leaves in _lines(tree, num_levels):
        begin = f"{number:>{digits},}  {indent}"
        for line in _fitted(begin, text, leaves, width):
            print_line(line)


def print_part(part: PartOfTree, *, as_json: bool) -> None:
    """Print a part of a tree as what ``--classes`` takes: CSV, or a list of entries."""
    if as_json:
        print_json([{name: cell or None for name, cell in zip(part.header, row, strict=True)} for row in part.rows])
        return
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([part.header, *part.rows])
    for line in text.getvalue().splitlines():
        print_line(line)


_Line = tuple[int, str, str, Sequence[str]]  # number of classes, indent, text, classes to name behind it


def _lines(tree: ClassTree, num_levels: int | None) -> Iterator[_Line]:
    names = [level.name for level in reversed(tree.levels)]
    for group in tree.groups:
        yield from _group_lines(group, names, 0, num_levels)
    if tree.ungrouped:
        yield len(tree.ungrouped), "", "in no group", tree.ungrouped


def _group_lines(group: GroupFacts, levels: Sequence[str], depth: int, num_levels: int | None) -> Iterator[_Line]:
    """A group and what is below it. Its level is said where its place in the tree does not tell it.

    Args:
        group: The group.
        levels: Names of the levels, the coarsest first.
        depth: How many groups are around it.
        num_levels: How many levels are shown; None for all.
    """
    indent, inner = _INDENT * depth, _INDENT * (depth + 1)
    text = group.name if not levels or group.level == levels[depth] else f"{group.name} ({group.level})"
    if num_levels is not None and depth + 1 >= num_levels:
        yield group.num_leaves, indent, text, [*_all_classes(group)]
        return
    yield group.num_leaves, indent, text, () if group.groups else group.classes
    for below in group.groups:
        yield from _group_lines(below, levels, depth + 1, num_levels)
    if group.groups and group.classes:
        yield len(group.classes), inner, "in none of these", group.classes


def _all_classes(group: GroupFacts) -> Iterator[str]:
    yield from group.classes
    for below in group.groups:
        yield from _all_classes(below)


def _fitted(begin: str, text: str, classes: Sequence[str], width: int) -> list[str]:
    """The line of a group with as many of its classes as fit; folded where not even one does."""
    names = [printable(name) for name in classes]
    for shown in range(min(_SHOWN, len(names)), 0, -1):
        line = f"{begin}{printable(text)}: {fmt.few(names, shown)}"
        if cell_len(line) <= width:
            return [line]
    room = max(width - len(begin), 20)
    first, *more = fold(printable(text), room)
    return [begin + first, *(" " * len(begin) + line for line in more)]
