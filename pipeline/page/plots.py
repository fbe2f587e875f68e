"""Plots: matplotlib axes saved as inline SVG, with the colours and fonts of the page around it.

Plots use placeholder colours that become CSS variables, so one plot serves light pages, dark pages and paper. Text
stays text. The same data give the same bytes.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from pipeline.errors import RequestError
from pipeline.page.timeline import Timeline
from pipeline.trust.intervals import Interval
from pipeline.trust.reliability import Reliability

try:
    import matplotlib as mpl
    from matplotlib import style
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except (ValueError, OSError) as error:  # it reads the user's settings when it is imported
    raise RequestError(f"matplotlib cannot be loaded: {error}; look at MPLBACKEND and at your matplotlibrc") from error

# placeholder colours, and the CSS variables that replace them
INK, MUTED, LINE, ACCENT, SECOND, WASH = "#010203", "#010204", "#010205", "#010206", "#010207", "#010208"
_VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", ACCENT: "accent", SECOND: "second", WASH: "wash"}

_STYLE: dict[Any, object] = {
    "axes.axisbelow": True,
    "axes.edgecolor": LINE,
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 11,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 11,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": 10.5,
    "ytick.color": LINE,
    "ytick.labelcolor": MUTED,
    "ytick.labelsize": 10.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "shardlabel",
}
_POINTS_PER_INCH = 72  # one unit of the drawing is one CSS pixel of a page that shows it at its own width
_WIDTH, _HEIGHT = 380, 250
_MAX_POINTS = 300
_MAX_NAME = 18  # characters, of a name beside an axis
_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_ROOT = re.compile(r"^.*?<svg [^>]*viewBox=\"([^\"]*)\"[^>]*>", re.DOTALL)
_STYLE_SHEET = re.compile(r"<defs>\s*<style.*?</style>\s*</defs>\s*", re.DOTALL)
_FONTS = re.compile(r" font-family: [^;\"]*;?")
_REFERENCES = re.compile(r"(\bid=\"|xlink:href=\"#|url\(#)")
_PLACEHOLDERS = re.compile("#01020[3-8]")

Array = np.ndarray
DrawAxes = Callable[[Axes], None]


def draw_svg(name: str, title: str, description: str, draw_axes: DrawAxes, *, height: int = _HEIGHT) -> Markup:
    """Draw a plot as SVG.

    Args:
        name: Unique in the page; letters, digits and dashes.
        title: Its title.
        description: What it shows, for screen readers.
        draw_axes: Draws into the axes.
        height: CSS pixels; the width is 380.
    """
    with style.context(["default"]), mpl.rc_context(_STYLE):
        figure = Figure(
            figsize=(_WIDTH / _POINTS_PER_INCH, height / _POINTS_PER_INCH), dpi=_POINTS_PER_INCH, layout="constrained"
        )
        axes = figure.add_subplot()
        draw_axes(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=_METADATA, transparent=True)
    return Markup(_inline_svg(buffer.getvalue(), name, title, description))  # noqa: S704 - drawn here; its words are escaped


def _inline_svg(svg: str, name: str, title: str, description: str) -> str:
    """An SVG file as an element of the page: without fonts, with unique ids and CSS variables for colours."""
    body = _STYLE_SHEET.sub("", svg)
    body = _FONTS.sub("", body)
    body = _REFERENCES.sub(rf"\g<1>{name}-", body)
    body = _PLACEHOLDERS.sub(lambda match: f"var(--{_VARIABLES[match.group()]})", body)
    root = (
        f'<svg viewBox="\\1" role="img" aria-labelledby="{name}-title {name}-description">'
        f'<title id="{name}-title">{html.escape(title)}</title>'
        f'<desc id="{name}-description">{html.escape(description)}</desc>'
    )
    return _ROOT.sub(root.replace("\\1", r"\g<1>"), body, count=1).strip()


def draw_histogram(axes: Axes, edges: Array, images: Array, xlabel: str) -> None:
    """Bars over a range.

    Args:
        axes: Where to draw.
        edges: float (B + 1,), edges of the bins.
        images: int (B,), images in each bin.
        xlabel: Label of the x axis.
    """
    axes.bar(edges[:-1], images, width=np.diff(edges), align="edge", color=ACCENT, edgecolor=WASH, linewidth=0.8)
    axes.set_xlim(edges[0], edges[-1])
    _format_count_axis(axes, images)
    axes.set_xlabel(xlabel)


def draw_levels(axes: Axes, values: Sequence[float], images: Array, xlabel: str) -> None:
    """Bars at single values, 0-1."""
    width = min(0.12, 0.6 * min(np.diff(values), default=1.0))
    axes.bar(values, images, width=width, color=ACCENT)
    axes.set_xlim(-0.02 - width / 2, 1.02 + width / 2)
    axes.set_xticks(values if len(values) <= 6 else np.linspace(0, 1, 6))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.2g}")
    _format_count_axis(axes, images)
    axes.set_xlabel(xlabel)


def _format_count_axis(axes: Axes, images: Array) -> None:
    axes.grid(visible=False, axis="x")
    axes.set_ylim(0, max(1.0, 1.06 * float(np.max(images, initial=0))))
    axes.locator_params(axis="y", integer=True, nbins=5)
    axes.yaxis.set_major_formatter(_short_number)
    axes.set_ylabel("images")


def _short_number(value: float, _: object = None) -> str:
    """A number with k, M or G where that shortens it."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 10 * size or (value >= size and value % size == 0):
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def draw_ranks(axes: Axes, counts: Array) -> None:
    """Images of each class, the most frequent first; logarithmic where the counts differ much.

    Args:
        axes: Where to draw.
        counts: int, descending, above 0.
    """
    many, unequal = len(counts) > 30, counts[0] > 20 * counts[-1]
    ranks = np.arange(1, len(counts) + 1)
    if len(counts) > _MAX_POINTS:
        ranks = np.unique(np.geomspace(1, len(counts), _MAX_POINTS).astype(int))
    axes.plot(ranks, counts[ranks - 1], color=ACCENT, linewidth=1.8, marker="" if many else "o", markersize=3.5)
    if many:
        axes.set_xscale("log")
    if unequal:
        axes.set_yscale("log")
    axes.set_ylim(0.8 if unequal else 0, 1.1 * float(counts[0]))
    axes.minorticks_off()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_short_number)
    if not unequal:
        axes.locator_params(axis="y", integer=True, nbins=6)
    axes.set_xlabel("classes, the commonest first")
    axes.set_ylabel("images")


def draw_done_over_time(axes: Axes, timeline: Timeline) -> None:
    """Images done over time, pauses shaded."""
    scale, unit = choose_time_unit(float(timeline.seconds_T[-1]))
    kept = np.unique(np.linspace(0, len(timeline.seconds_T) - 1, min(len(timeline.seconds_T), _MAX_POINTS)).astype(int))
    for start, end in timeline.pauses:
        axes.axvspan(start / scale, end / scale, color=LINE, alpha=0.6, linewidth=0)
    axes.plot(
        timeline.seconds_T[kept] / scale, timeline.images_T[kept], color=ACCENT, linewidth=1.8, drawstyle="steps-post"
    )
    axes.set_ylim(0, 1.06 * max(1.0, float(timeline.images_T[-1])))
    axes.set_xlim(0, None)
    axes.yaxis.set_major_formatter(_short_number)
    axes.set_xlabel(f"{unit} since the first part")
    axes.set_ylabel("images done")


def draw_rate_over_time(axes: Axes, timeline: Timeline) -> None:
    """Images per second over time."""
    scale, unit = choose_time_unit(float(timeline.seconds_T[-1]))
    edges = np.array([timeline.bins[0][0], *(end for _, end, _ in timeline.bins)]) / scale
    rates = np.array([rate for _, _, rate in timeline.bins])
    axes.stairs(rates, edges, color=ACCENT, linewidth=1.6, fill=True, alpha=0.35)
    axes.stairs(rates, edges, color=ACCENT, linewidth=1.6)
    axes.set_ylim(0, 1.1 * max(1e-9, float(rates.max())))
    axes.set_xlim(0, edges[-1])
    axes.yaxis.set_major_formatter(_short_number)
    axes.set_xlabel(f"{unit} since the first part")
    axes.set_ylabel("images/s")


def choose_time_unit(seconds: float) -> tuple[float, str]:
    """The unit for a time axis of this length: its seconds and its name."""
    return next(
        (
            (size, name)
            for size, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"))
            if seconds > 3 * size
        ),
        (1.0, "seconds"),
    )


def draw_reliability(axes: Axes, reliability: Reliability) -> None:
    """Accuracy over score; a point is a bin of equally many images, with its distance from the diagonal."""
    scores, accuracies = ([getattr(bin_, name) for bin_ in reliability.bins] for name in ("score", "accuracy"))
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.vlines(scores, scores, accuracies, color=SECOND, linewidth=2.2, alpha=0.75)
    axes.plot(scores, accuracies, color=ACCENT, linewidth=1.4, marker="o", markersize=4.5)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("mean score")
    axes.set_ylabel("share that is right")


def draw_precision(axes: Axes, coverage: Array, precision: Array, targets: Sequence[float]) -> None:
    """Precision of the images that are kept, from the best scores down.

    Args:
        axes: Where to draw.
        coverage: float (C,), share of all images that is kept, 0-1, ascending.
        precision: float (C,), share of the kept images that is right, 0-1.
        targets: Precisions to draw as lines, 0-1.
    """
    for target in targets:
        axes.axhline(target, color=SECOND, linewidth=1, linestyle=(0, (4, 3)))
    axes.plot(coverage, precision, color=ACCENT, linewidth=1.8)
    low = min(float(precision.min()), min(targets))
    axes.set_ylim(max(0.0, low - 0.1 * (1 - low) - 0.01), 1.005)
    axes.set_xlim(0, 1.0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
    axes.set_xlabel("images kept, best scores first")
    axes.set_ylabel("of these, right")


def draw_shares(
    axes: Axes, names: Sequence[str], shares: Sequence[float], intervals: Sequence[Interval], others: Sequence[float]
) -> None:
    """Shares with their intervals, one above the other, and hollow others to compare them with.

    Args:
        axes: Where to draw.
        names: What each is of, from above.
        shares: 0-1.
        intervals: Around the shares, 0-1.
        others: 0-1.
    """
    places = np.arange(len(names))
    lows, highs = zip(*intervals, strict=True)
    axes.hlines(places, lows, highs, color=ACCENT, linewidth=2)
    axes.plot(shares, places, color=ACCENT, linewidth=0, marker="o", markersize=6)
    axes.plot(others, places + 0.22, color=SECOND, linewidth=0, marker="D", markersize=5, fillstyle="none")
    axes.set_yticks(places, [name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…" for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    low = min(*lows, *others)
    axes.set_xlim(max(0.0, low - 0.1 * (1 - low) - 0.01), 1.005)
    axes.locator_params(axis="x", nbins=6)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
    axes.set_xlabel("right")
