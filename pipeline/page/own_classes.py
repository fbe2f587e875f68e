"""The report's section about own classes: what it says, and its tables and figures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.labels import NO_CLASS
from pipeline.page import plots
from pipeline.page.figures import Figure, Table, make_figure
from pipeline.page.group_counts import ColumnCounts, GroupCounts
from pipeline.page.group_tree import GroupTree, build_group_tree
from pipeline.page.group_truths import GroupTruths
from pipeline.taxonomy.nodes import Nodes, nodes_of
from pipeline.text import fmt
from pipeline.trust.evaluation import Evaluation
from pipeline.trust.intervals import Interval
from pipeline.trust.level_accuracy import LevelAccuracy
from pipeline.trust.per_class import Confusion

_NUM_COMMON = 12
_NUM_CONFUSED = 10
_BINS = 20
_SOURCES = {
    "columns": "They are the columns that this output was labelled with.",
    "probabilities": "They were added up from the stored probabilities of all classes.",
    "top-k": "They were added up from the stored top-k alone, for no probabilities are stored: classes below it count "
    "for no group. “label” with --classes adds up all classes.",
}

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class OwnClasses:
    """What the section shows.

    Attributes:
        text: What the groups are, and where they come from.
        is_partial: Whether only the top-k was there to add up.
        has_levels: Whether there are levels, as in a file.
        levels: Images with a group, by level.
        ends: Images by the finest level of which they have a group; None where there is one level.
        common: The commonest groups of the finest level, or names of WordNet; None where the tree says it.
        bits: How much names tell; none for a file.
        notes: What is to be known of the counts.
        tree: The tree.
        accuracy: Accuracy by level; None without truth.
        accuracy_plot: The same; none for one level.
        accuracy_notes: Truths that count elsewhere.
        confusions: The most frequent mistakes of each level.
    """

    text: str
    is_partial: bool
    has_levels: bool
    levels: Table
    ends: Table | None
    common: Table | None
    bits: tuple[Figure, ...]
    notes: tuple[str, ...]
    tree: GroupTree
    accuracy: Table | None
    accuracy_plot: tuple[Figure, ...]
    accuracy_notes: tuple[str, ...]
    confusions: tuple[Table, ...]


def describe(
    counts: GroupCounts, counts_K: Array, truths: GroupTruths | None, evaluation: Evaluation | None
) -> OwnClasses:
    """Everything that the section shows.

    Args:
        counts: Images by group.
        counts_K: int64, images by label; there are some.
        truths: Images with known truth, by group; None without any.
        evaluation: Accuracy; None without truth.
    """
    taxonomy, total = counts.taxonomy, int(counts_K.sum())
    nodes = nodes_of(taxonomy)
    finest = counts.columns[0]
    levels = tuple(level for level in (evaluation.levels if evaluation else ()) if level.images or level.not_told)
    is_tree, is_flat = not taxonomy.level_names, len(taxonomy.level_names) == 1
    return OwnClasses(
        text=f"{taxonomy.source}: {fmt.plural(len(taxonomy.leaves_L), 'class', 'classes')} of "
        f"{fmt.count(taxonomy.num_classes)} in {fmt.plural(len(taxonomy.groups), 'group')}"
        + ("" if is_tree else f", {fmt.plural(len(counts.columns), 'level')}")
        + f". {_SOURCES[counts.source]}",
        is_partial=counts.source == "top-k",
        has_levels=not is_tree,
        levels=_tabulate_levels(counts, nodes, total),
        ends=_tabulate_ends(counts, total) if len(counts.columns) > 1 else None,
        common=_tabulate_common(counts, nodes, total) if finest.given_G.any() and not is_flat else None,
        bits=_plot_bits(finest, nodes, total) if is_tree else (),
        notes=_notes(counts),
        tree=build_group_tree(counts, counts_K, truths),
        accuracy=_tabulate_accuracy(levels) if levels else None,
        accuracy_plot=_plot_accuracy(levels),
        accuracy_notes=tuple(note for level in levels for note in _describe_truths(level)),
        confusions=tuple(_tabulate_confusions(level) for level in levels if level.confused),
    )


def _bits(column: ColumnCounts, nodes: Nodes) -> Array:
    """float64, (G,), what each group of a column tells."""
    found: Array = nodes.bits[nodes.taxonomy.num_classes + column.numbers_G]
    return found


def _tabulate_levels(counts: GroupCounts, nodes: Nodes, total: int) -> Table:
    rows = []
    for column in counts.columns:
        named = total - column.none
        bits = float(column.given_G @ _bits(column, nodes)) / max(1, named)
        rows.append(
            (
                column.name,
                fmt.count(len(column.given_G)),
                fmt.count(int((column.given_G > 0).sum())),
                fmt.count(named),
                fmt.percent(named / total),
                fmt.count(column.none),
                fmt.score(column.score.quantile(0.5)) if named else fmt.NONE,
                f"{bits:.1f}" if named else fmt.NONE,
            )
        )
    header = ("level", "groups", "with images", "images with a group", "share", "without", "median score", "bits")
    return Table(f"Groups given to {fmt.plural(total, 'image')}", header, tuple(rows))


def _tabulate_ends(counts: GroupCounts, total: int) -> Table:
    """Images by the finest level at which they have a group."""
    ends = [(column.name, int(column.ended_G.sum())) for column in counts.columns]
    rows = [(name if at == 0 else f"{name}, nothing finer", many) for at, (name, many) in enumerate(ends)]
    rows.append(("no group at all", counts.nowhere))
    most = max(many for _, many in rows)
    return Table(
        "Finest level with a group",
        ("level", "images", "share"),
        tuple((name, fmt.count(many), fmt.percent(many / total)) for name, many in rows),
        shares=tuple(many / max(1, most) for _, many in rows),
    )


def _tabulate_common(counts: GroupCounts, nodes: Nodes, total: int) -> Table:
    column, bits_G = counts.columns[0], _bits(counts.columns[0], nodes)
    order = np.argsort(-column.given_G, kind="stable")[:_NUM_COMMON]
    places = [place for place in order.tolist() if column.given_G[place]]
    most = int(column.given_G.max(initial=0))
    groups = counts.taxonomy.groups
    rows = tuple(
        (
            groups[column.numbers_G[place]].name,
            fmt.count(int(column.given_G[place])),
            fmt.percent(column.given_G[place] / total),
            f"{bits_G[place]:.1f}",
        )
        for place in places
    )
    what = "groups of " + column.name if counts.taxonomy.level_names else "names"
    return Table(
        f"The commonest {what}",
        ("group", "images", "share", "bits"),
        rows,
        shares=tuple(int(column.given_G[place]) / most for place in places),
    )


def _plot_bits(column: ColumnCounts, nodes: Nodes, total: int) -> tuple[Figure, ...]:
    """How much the names of images tell; none where no image has one."""
    named = total - column.none
    if not named:
        return ()
    most = float(np.log2(nodes.taxonomy.num_classes)) or 1.0
    bits_G = _bits(column, nodes)
    images_B, edges = np.histogram(bits_G, _BINS, (0.0, most), weights=column.given_G)
    rows = tuple(
        (f"{low:.1f} to {high:.1f}", fmt.count(int(many)), fmt.percent(many / total))
        for low, high, many in zip(edges[:-1], edges[1:], images_B, strict=True)
    )
    mean = float(column.given_G @ bits_G) / named
    without = f"; {fmt.plural(column.none, 'image has', 'images have')} no name" if column.none else ""
    note = (
        f"0 bits: a name that holds for all {fmt.count(nodes.taxonomy.num_classes)} classes; {most:.1f}: for one of "
        f"them. The mean is {mean:.1f}{without}."
    )
    return (
        make_figure(
            "bits",
            "How much names tell",
            note,
            lambda axes: plots.draw_histogram(axes, edges, images_B, "bits"),
            Table("Images by information of the name", ("bits", "images", "share"), rows),
        ),
    )


def _notes(counts: GroupCounts) -> tuple[str, ...]:
    notes = []
    if counts.apart:
        notes.append(
            f"{fmt.plural(counts.apart, 'image has', 'images have')} a group that lies outside the one it was given "
            "above it, because each level is chosen for itself: there lines below a group do not add up to it."
        )
    return tuple(notes)


def _tabulate_accuracy(levels: tuple[LevelAccuracy, ...]) -> Table:
    folded = any(level.by_label is not None for level in levels)  # WordNet's names have no such figure
    header = (
        *("level", "groups", "images", "right", "95 %"),
        *(("by label alone",) if folded else ()),
        *("named", "of them right", "95 %", "bits"),
    )
    rows = tuple(
        (
            level.name,
            fmt.count(level.num_groups),
            fmt.count(level.images),
            fmt.percent(level.accuracy if level.images else None),
            _format_interval(level.accuracy_interval),
            *((fmt.percent(level.by_label),) if folded else ()),
            fmt.count(level.named),
            fmt.percent(level.precision),
            _format_interval(level.precision_interval) if level.named else "",
            f"{level.bits:.1f}",
        )
        for level in levels
    )
    return Table("Accuracy by level, where truth is known", header, rows)


def _plot_accuracy(levels: tuple[LevelAccuracy, ...]) -> tuple[Figure, ...]:
    """Accuracy by level; none for fewer than two levels with truth."""
    shown = [level for level in levels if level.images and level.by_label is not None]
    if len(shown) < 2:
        return ()
    names, rights = [level.name for level in shown], [level.accuracy for level in shown]
    intervals, by_label = [level.accuracy_interval for level in shown], [level.by_label or 0.0 for level in shown]
    rows = tuple(
        (
            level.name,
            fmt.percent(level.accuracy),
            _format_interval(level.accuracy_interval),
            fmt.percent(level.by_label),
        )
        for level in shown
    )
    return (
        make_figure(
            "levels",
            "Accuracy by level",
            "Filled: the groups, with their 95 % intervals. Hollow: by label alone.",
            lambda axes: plots.draw_shares(axes, names, rights, intervals, by_label),
            Table("Right by level", ("level", "right", "95 %", "by label alone"), rows),
            height=80 + 44 * len(shown),
        ),
    )


def _format_interval(interval: Interval) -> str:
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def _describe_truths(level: LevelAccuracy) -> list[str]:
    lines = []
    if level.outside:
        what = "truth is" if level.outside == 1 else "truths are"
        lines.append(f"{level.outside:,} {what} in no group of {level.name}: right where none was given.")
    if level.not_told:
        what = "truth is" if level.not_told == 1 else "truths are"
        lines.append(f"{level.not_told:,} more {what} too coarse for {level.name}.")
    return lines


def _tabulate_confusions(level: LevelAccuracy) -> Table:
    return Table(
        f"Most frequent mistakes: {level.name}",
        ("truth", "taken for", "images", "of the truth"),
        tuple(
            (_name(pair.truth, pair.truth_name), _name(pair.label, pair.label_name), *_measures(pair))
            for pair in level.confused[:_NUM_CONFUSED]
        ),
        text_columns=frozenset({1}),
    )


def _name(number: int, name: str) -> str:
    return "no group" if number == NO_CLASS else name


def _measures(pair: Confusion) -> tuple[str, str]:
    return fmt.count(pair.images), fmt.percent(pair.share)
