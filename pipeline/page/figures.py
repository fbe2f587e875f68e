"""Figures and tables about all images: what is drawn, in words, and the numbers behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from pipeline.page import plots
from pipeline.page.statistics import Spread, Statistics
from pipeline.page.timeline import Timeline
from pipeline.text import fmt

_BINS = 20
_TOP_CLASSES = 16
_MOST_LEVELS = 25
CONSENSUS = "consensus"

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text. The first column names the row; columns of numbers stand to the right.

    Attributes:
        caption: What it shows.
        heads: Of the columns.
        rows: Cells.
        words_in: Which columns hold words, not numbers; the first always does.
        shares: For each row, how long the bar below it is, 0-1; none without bars.
    """

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words_in: frozenset[int] = frozenset()
    shares: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing.

    Attributes:
        title: What it is.
        note: What to see in it.
        svg: The drawing.
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
        shades: Likewise, how dark each cell is, 0-1: from the least share to 1.
    """

    caption: str
    names: tuple[str, ...]
    shares: tuple[tuple[float, ...], ...]
    shades: tuple[tuple[float, ...], ...]


def figure(name: str, title: str, note: str, paint: plots.Paint, table: Table, *, height: int = 250) -> Figure:
    """Draw a figure; the arguments are those of :func:`pipeline.page.plots.draw` and of its parts."""
    return Figure(title, note, plots.draw(f"plot-{name}", title, note, paint, height=height), table)


def throughput(found: Timeline) -> tuple[Figure, ...]:
    """Images done over time, and their rate where there are enough parts to tell."""
    if found.images_per_s is None:
        return ()
    kept = np.unique(np.linspace(0, len(found.seconds_T) - 1, min(len(found.seconds_T), 25)).astype(int))
    done = Table(
        "Images done by the time of a publication",
        ("after", "images"),
        tuple((_after(float(found.seconds_T[at])), fmt.count(int(found.images_T[at]))) for at in kept),
    )
    pauses = f" Shaded: {fmt.plural(len(found.pauses), 'pause', 'pauses')} without any publication."
    note = f"{fmt.count(int(found.images_T[-1]))} images in {_after(float(found.seconds_T[-1]))}."
    figures = [
        figure(
            "done",
            "Images done over time",
            note + pauses * bool(found.pauses),
            lambda axes: plots.done_over_time(axes, found),
            done,
        )
    ]
    if found.bins:
        rates = [rate for _, _, rate in found.bins]
        table = Table(
            "Images per second",
            ("from", "to", "images/s"),
            tuple((_after(low), _after(high), fmt.rate(rate)) for low, high, rate in found.bins),
        )
        note = f"Between {fmt.rate(min(rates))} and {fmt.rate(max(rates))} images/s, by time of publication."
        figures.append(
            figure("rate", "Images per second over time", note, lambda axes: plots.rate_over_time(axes, found), table)
        )
    return tuple(figures)


def _after(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else fmt.duration(seconds)


def common_classes(stats: Statistics, names: Sequence[str]) -> Table:
    """The classes of most images, with bars."""
    order = np.argsort(-stats.counts_K, kind="stable")[:_TOP_CLASSES]
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


def class_ranks(stats: Statistics) -> tuple[Figure, ...]:
    """How unequal classes are; nothing where there are few."""
    counts = np.sort(stats.counts_K[stats.counts_K > 0])[::-1]
    if len(counts) < 5:
        return ()
    places = np.unique(np.geomspace(1, len(counts), min(len(counts), 15)).astype(int))
    total = int(counts.sum())
    half = int(np.searchsorted(counts.cumsum(), total / 2)) + 1
    return (
        figure(
            "ranks",
            "Images per class, by rank",
            f"From {fmt.count(int(counts[0]))} images of the commonest class to {fmt.count(int(counts[-1]))}; "
            f"the {fmt.plural(half, 'commonest class holds', 'commonest classes hold')} half of all images.",
            lambda axes: plots.rank_curve(axes, counts),
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


def certainty(stats: Statistics, num_members: int) -> tuple[Figure, ...]:
    """Distributions of score and entropy; with several members, of agreement and disagreement."""
    spreads = [
        ("score", "Score", "Probability of the first class, as pooled", stats.score),
        ("entropy", "Entropy", "Entropy of the pooled probabilities, nats", stats.entropy),
    ]
    if num_members > 1:
        spreads.append(("disagreement", "Disagreement", "What the members differ in, nats", stats.disagreement))
    figures = [_spread(name, title, label, found) for name, title, label, found in spreads if found.images]
    if num_members > 1 and stats.agreement:
        figures.insert(1, _agreement(stats.agreement))
    return tuple(figures)


def _spread(name: str, title: str, label: str, found: Spread) -> Figure:
    edges, images = found.bins(_BINS)
    rows = tuple(
        (f"{low:.2f} to {high:.2f}", fmt.count(int(many)), fmt.percent(many / found.images))
        for low, high, many in zip(edges[:-1], edges[1:], images, strict=True)
    )
    low, middle, high = (fmt.score(found.quantile(share)) for share in (0.1, 0.5, 0.9))
    return figure(
        name,
        title,
        f"{label}. Median {middle}, mean {fmt.score(found.mean)}; four images in five lie between {low} and {high}.",
        lambda axes: plots.histogram(axes, edges, images, title.lower()),
        Table(f"Images by {title.lower()}", (title.lower(), "images", "share"), rows),
    )


def _agreement(levels: Mapping[float, int]) -> Figure:
    total = sum(levels.values())
    full = levels.get(1.0, 0)
    note = f"Weighted share of members whose first class is the consensus: all of them for {fmt.percent(full / total)}."
    if len(levels) <= _MOST_LEVELS:
        values, images = list(levels), np.array(list(levels.values()))
        return figure(
            "agreement",
            "Agreement",
            note,
            lambda axes: plots.levels(axes, values, images, "agreement"),
            Table(
                "Images by agreement",
                ("agreement", "images", "share"),
                tuple((fmt.score(level), fmt.count(many), fmt.percent(many / total)) for level, many in levels.items()),
            ),
        )
    images, edges = np.histogram(list(levels), _BINS, (0.0, 1.0), weights=np.array(list(levels.values())))
    rows = tuple(
        (f"{low:.2f} to {high:.2f}", fmt.count(int(many)), fmt.percent(many / total))
        for low, high, many in zip(edges[:-1], edges[1:], images, strict=True)
    )
    return figure(
        "agreement",
        "Agreement",
        note,
        lambda axes: plots.histogram(axes, edges, images, "agreement"),
        Table("Images by agreement", ("agreement", "images", "share"), rows),
    )


def same_first(stats: Statistics, aliases: Sequence[str]) -> Matrix:
    """On what share of the images two predictors have the same first class."""
    shares = stats.same_PP / max(1, stats.images)
    least = float(shares.min())
    shades = (shares - least) / (1 - least) if least < 1 else np.ones_like(shares)
    return Matrix(
        "Share of the images on which two have the same first class",
        (CONSENSUS, *aliases),
        tuple(map(tuple, shares.tolist())),
        tuple(map(tuple, shades.tolist())),
    )


def reasons(samples: Mapping[str, int], events: Mapping[str, int]) -> Table:
    """What could not be labelled, with bars."""
    rows = [(reason, many, "sample") for reason, many in samples.items()]
    rows += [(reason, many, "shard") for reason, many in events.items()]
    most = max((many for _, many, _ in rows), default=1)
    return Table(
        "What could not be labelled, by reason",
        ("reason", "times", "of a"),
        tuple((reason, fmt.count(many), what) for reason, many, what in rows),
        words_in=frozenset({2}),
        shares=tuple(many / most for _, many, _ in rows),
    )
