"""Figures and tables about all images. A figure has a plot, a note in words and the numbers behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from pipeline.page import plots
from pipeline.page.statistics import Statistics
from pipeline.page.streaming_histogram import Histogram
from pipeline.page.timeline import Timeline
from pipeline.text import fmt

_BINS_SHOWN = 20
_NUM_TOP_CLASSES = 16
_MAX_LEVELS = 25
CONSENSUS = "consensus"

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text. The first column names the row.

    Attributes:
        caption: What it shows.
        header: Names of the columns.
        rows: Cells.
        text_columns: Indices of the columns with text, not numbers; the first always has.
        shares: For each row, the length of the bar below it, 0-1; empty without bars.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: frozenset[int] = frozenset()
    shares: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot with its numbers.

    Attributes:
        title: Its title.
        note: What it shows, in words.
        svg: The plot.
        table: The numbers behind it.
    """

    title: str
    note: str
    svg: Markup
    table: Table


@dataclass(frozen=True, slots=True)
class Matrix:
    """Shares of predictors against each other.

    Attributes:
        caption: What it shows.
        names: Of rows and columns.
        shares: Rows of cells, 0-1.
        shades: How dark each cell is, 0-1: the smallest share is 0.
    """

    caption: str
    names: tuple[str, ...]
    shares: tuple[tuple[float, ...], ...]
    shades: tuple[tuple[float, ...], ...]


def make_figure(
    name: str, title: str, note: str, draw_axes: plots.DrawAxes, table: Table, *, height: int = 250
) -> Figure:
    """Draw a plot and put it beside its numbers; for the arguments see :func:`pipeline.page.plots.draw_svg`."""
    return Figure(title, note, plots.draw_svg(f"plot-{name}", title, note, draw_axes, height=height), table)


def plot_throughput(found: Timeline) -> tuple[Figure, ...]:
    """Images done over time, and their rate; none where there are too few parts for a rate."""
    if found.images_per_s is None:
        return ()
    kept = np.unique(np.linspace(0, len(found.seconds_T) - 1, min(len(found.seconds_T), 25)).astype(int))
    done = Table(
        "Images done by the time of a publication",
        ("after", "images"),
        tuple((_elapsed(float(found.seconds_T[at])), fmt.count(int(found.images_T[at]))) for at in kept),
    )
    pauses = f" Shaded: {fmt.plural(len(found.pauses), 'pause', 'pauses')} without any publication."
    note = f"{fmt.count(int(found.images_T[-1]))} images in {_elapsed(float(found.seconds_T[-1]))}."
    figures = [
        make_figure(
            "done",
            "Images done over time",
            note + pauses * bool(found.pauses),
            lambda axes: plots.draw_done_over_time(axes, found),
            done,
        )
    ]
    if found.bins:
        rates = [rate for _, _, rate in found.bins]
        table = Table(
            "Images per second",
            ("from", "to", "images/s"),
            tuple((_elapsed(low), _elapsed(high), fmt.rate(rate)) for low, high, rate in found.bins),
        )
        note = f"Between {fmt.rate(min(rates))} and {fmt.rate(max(rates))} images/s, by time of publication."
        figures.append(
            make_figure(
                "rate", "Images per second over time", note, lambda axes: plots.draw_rate_over_time(axes, found), table
            )
        )
    return tuple(figures)


def _elapsed(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else fmt.duration(seconds)


def tabulate_common_classes(stats: Statistics, names: Sequence[str]) -> Table:
    """The most frequent classes, with bars."""
    order = np.argsort(-stats.counts_K, kind="stable")[:_NUM_TOP_CLASSES]
    shown = [label for label in order.tolist() if stats.counts_K[label]]
    most = int(stats.counts_K.max(initial=0))
    every = len(shown) == int((stats.counts_K > 0).sum())
    return Table(
        "Images of each class" if every else f"The {len(shown)} commonest classes",
        ("class", "images", "share"),
        tuple(
            (
                names[label],
                fmt.count(int(stats.counts_K[label])),
                fmt.percent(stats.counts_K[label] / stats.images),
            )
            for label in shown
        ),
        shares=tuple(int(stats.counts_K[label]) / most for label in shown),
    )


def plot_class_ranks(stats: Statistics) -> tuple[Figure, ...]:
    """Images per class by rank; none for fewer than 5 classes."""
    counts = np.sort(stats.counts_K[stats.counts_K > 0])[::-1]
    if len(counts) < 5:
        return ()
    places = np.unique(np.geomspace(1, len(counts), min(len(counts), 15)).astype(int))
    total = int(counts.sum())
    half = int(np.searchsorted(counts.cumsum(), total / 2)) + 1
    return (
        make_figure(
            "ranks",
            "Images per class, by rank",
            f"From {fmt.count(int(counts[0]))} images of the commonest class to {fmt.count(int(counts[-1]))}; "
            f"the {fmt.plural(half, 'commonest class holds', 'commonest classes hold')} half of all images.",
            lambda axes: plots.draw_ranks(axes, counts),
            Table(
                "Images of a class by its rank",
                ("rank", "images", "all classes up to it"),
                tuple(
                    (
                        fmt.count(int(rank)),
                        fmt.count(int(counts[rank - 1])),
                        fmt.percent(int(counts[:rank].sum()) / total),
                    )
                    for rank in places
                ),
            ),
        ),
    )


def plot_certainty(stats: Statistics, num_members: int) -> tuple[Figure, ...]:
    """Distributions of score and entropy; with several members, of agreement and disagreement."""
    histograms = [
        ("score", "Score", "Probability of the first class, as pooled", stats.score),
        ("entropy", "Entropy", "Entropy of the pooled probabilities, nats", stats.entropy),
    ]
    if num_members > 1:
        histograms.append(("disagreement", "Disagreement", "Disagreement of the members, nats", stats.disagreement))
    figures = [_plot_histogram(name, title, label, found) for name, title, label, found in histograms if found.images]
    if num_members > 1 and stats.agreement:
        figures.insert(1, _plot_agreement(stats.agreement))
    return tuple(figures)


def _plot_histogram(name: str, title: str, label: str, found: Histogram) -> Figure:
    edges, images = found.bins(_BINS_SHOWN)
    rows = tuple(
        (f"{low:.2f} to {high:.2f}", fmt.count(int(many)), fmt.percent(many / found.images))
        for low, high, many in zip(edges[:-1], edges[1:], images, strict=True)
    )
    low, middle, high = (fmt.score(found.quantile(share)) for share in (0.1, 0.5, 0.9))
    return make_figure(
        name,
        title,
        f"{label}. Median {middle}, mean {fmt.score(found.mean)}; four images in five lie between {low} and {high}.",
        lambda axes: plots.draw_histogram(axes, edges, images, title.lower()),
        Table(f"Images by {title.lower()}", (title.lower(), "images", "share"), rows),
    )


def _plot_agreement(levels: Mapping[float, int]) -> Figure:
    total = sum(levels.values())
    full = levels.get(1.0, 0)
    note = f"Weighted share of members whose top-1 class is the label: all of them for {fmt.percent(full / total)}."
    if len(levels) <= _MAX_LEVELS:
        values, images = list(levels), np.array(list(levels.values()))
        return make_figure(
            "agreement",
            "Agreement",
            note,
            lambda axes: plots.draw_levels(axes, values, images, "agreement"),
            Table(
                "Images by agreement",
                ("agreement", "images", "share"),
                tuple((fmt.score(level), fmt.count(many), fmt.percent(many / total)) for level, many in levels.items()),
            ),
        )
    images, edges = np.histogram(list(levels), _BINS_SHOWN, (0.0, 1.0), weights=np.array(list(levels.values())))
    rows = tuple(
        (f"{low:.2f} to {high:.2f}", fmt.count(int(many)), fmt.percent(many / total))
        for low, high, many in zip(edges[:-1], edges[1:], images, strict=True)
    )
    return make_figure(
        "agreement",
        "Agreement",
        note,
        lambda axes: plots.draw_histogram(axes, edges, images, "agreement"),
        Table("Images by agreement", ("agreement", "images", "share"), rows),
    )


def compare_top1(stats: Statistics, aliases: Sequence[str]) -> Matrix:
    """Share of the images on which two predictors have the same top-1 class, for all pairs."""
    shares = stats.same_top1_PP / max(1, stats.images)
    least = float(shares.min())
    shades = (shares - least) / (1 - least) if least < 1 else np.ones_like(shares)
    return Matrix(
        "Share of the images on which two have the same top-1 class",
        (CONSENSUS, *aliases),
        tuple(map(tuple, shares.tolist())),
        tuple(map(tuple, shades.tolist())),
    )


def tabulate_reasons(samples: Mapping[str, int], events: Mapping[str, int]) -> Table:
    """Samples and shards in quarantine by reason, with bars."""
    rows = [(reason, many, "sample") for reason, many in samples.items()]
    rows += [(reason, many, "shard") for reason, many in events.items()]
    most = max((many for _, many, _ in rows), default=1)
    return Table(
        "What could not be labelled, by reason",
        ("reason", "times", "of a"),
        tuple((reason, fmt.count(many), what) for reason, many, what in rows),
        text_columns=frozenset({2}),
        shares=tuple(many / most for _, many, _ in rows),
    )
