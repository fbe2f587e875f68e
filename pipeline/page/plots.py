"""Drawing: matplotlib's axes, saved as SVG that lies inside a page and takes its colours and letters from it.

What is drawn is drawn in marks, colours that stand for CSS variables, so that one drawing serves a light page, a dark
one and paper. Text stays text. The same data give the same bytes.
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
from pipeline.trust.reliability import Reliability

try:
    import matplotlib as mpl
    from matplotlib import style
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except (ValueError, OSError) as error:  # it reads the user's settings when it is imported
    raise RequestError(f"matplotlib cannot be loaded: {error}; look at MPLBACKEND and at your matplotlibrc") from error

# marks, and the CSS variables that they stand for
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
_MOST_POINTS = 300
_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_ROOT = re.compile(r"^.*?<svg [^>]*viewBox=\"([^\"]*)\"[^>]*>", re.DOTALL)
_STYLE_SHEET = re.compile(r"<defs>\s*<style.*?</style>\s*</defs>\s*", re.DOTALL)
_FONTS = re.compile(r" font-family: [^;\"]*;?")
_REFERENCES = re.compile(r"(\bid=\"|xlink:href=\"#|url\(#)")
_MARKS = re.compile("#01020[3-8]")

Array = np.ndarray
Paint = Callable[[Axes], None]


def draw(name: str, title: str, words: str, paint: Paint, *, height: int = _HEIGHT) -> Markup:
    """One drawing.

    Args:
        name: Unlike that of any other drawing of the page; letters, digits and dashes.
        title: What it is.
        words: What it shows, for those who do not see it.
        paint: Draws into the axes.
        height: Pixels; the width is 380.
    """
    with style.context(["default"]), mpl.rc_context(_STYLE):
        figure = Figure(
            figsize=(_WIDTH / _POINTS_PER_INCH, height / _POINTS_PER_INCH), dpi=_POINTS_PER_INCH, layout="constrained"
        )
        axes = figure.add_subplot()
        paint(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=_METADATA, transparent=True)
    return Markup(_inline(buffer.getvalue(), name, title, words))  # noqa: S704 - drawn here; its words are escaped


def _inline(svg: str, name: str, title: str, words: str) -> str:
    """An SVG file as an element of a page."""
    body = _STYLE_SHEET.sub("", svg)
    body = _FONTS.sub("", body)
    body = _REFERENCES.sub(rf"\g<1>{name}-", body)
    body = _MARKS.sub(lambda match: f"var(--{_VARIABLES[match.group()]})", body)
    root = (
        f'<svg viewBox="\\1" role="img" aria-labelledby="{name}-title {name}-words">'
        f'<title id="{name}-title">{html.escape(title)}</title><desc id="{name}-words">{html.escape(words)}</desc>'
    )
    return _ROOT.sub(root.replace("\\1", r"\g<1>"), body, count=1).strip()


def histogram(axes: Axes, edges: Array, images: Array, xlabel: str) -> None:
    """Bars over a range.

    Args:
        axes: Drawn into.
        edges: (B + 1,).
        images: (B,).
        xlabel: Below it.
    """
    axes.bar(edges[:-1], images, width=np.diff(edges), align="edge", color=ACCENT, edgecolor=WASH, linewidth=0.8)
    axes.set_xlim(edges[0], edges[-1])
    _counts(axes, images)
    axes.set_xlabel(xlabel)


def levels(axes: Axes, values: Sequence[float], images: Array, xlabel: str) -> None:
    """Bars at single values, 0-1."""
    width = min(0.12, 0.6 * min(np.diff(values), default=1.0))
    axes.bar(values, images, width=width, color=ACCENT)
    axes.set_xlim(-0.02 - width / 2, 1.02 + width / 2)
    axes.set_xticks(values if len(values) <= 6 else np.linspace(0, 1, 6))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.2g}")
    _counts(axes, images)
    axes.set_xlabel(xlabel)


def _counts(axes: Axes, images: Array) -> None:
    axes.grid(visible=False, axis="x")
    axes.set_ylim(0, max(1.0, 1.06 * float(np.max(images, initial=0))))
    axes.locator_params(axis="y", integer=True, nbins=5)
    axes.yaxis.set_major_formatter(_short)
    axes.set_ylabel("images")


def _short(value: float, _: object = None) -> str:
    """A number in few letters."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 10 * size or (value >= size and value % size == 0):
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def rank_curve(axes: Axes, counts: Array) -> None:
    """Images of each class, the commonest first, logarithmic where they differ much.

    Args:
        axes: Drawn into.
        counts: Descending, above 0.
    """
    many, unequal = len(counts) > 30, counts[0] > 20 * counts[-1]
    ranks = np.arange(1, len(counts) + 1)
    if len(counts) > _MOST_POINTS:
        ranks = np.unique(np.geomspace(1, len(counts), _MOST_POINTS).astype(int))
    axes.plot(ranks, counts[ranks - 1], color=ACCENT, linewidth=1.8, marker="" if many else "o", markersize=3.5)
    if many:
        axes.set_xscale("log")
    if unequal:
        axes.set_yscale("log")
    axes.set_ylim(0.8 if unequal else 0, 1.1 * float(counts[0]))
    axes.minorticks_off()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_short)
    if not unequal:
        axes.locator_params(axis="y", integer=True, nbins=6)
    axes.set_xlabel("classes, the commonest first")
    axes.set_ylabel("images")


def done_over_time(axes: Axes, found: Timeline) -> None:
    """Images done by each moment, pauses shaded."""
    scale, unit = time_unit(float(found.seconds_T[-1]))
    kept = np.unique(np.linspace(0, len(found.seconds_T) - 1, min(len(found.seconds_T), _MOST_POINTS)).astype(int))
    for start, end in found.pauses:
        axes.axvspan(start / scale, end / scale, color=LINE, alpha=0.6, linewidth=0)
    axes.plot(found.seconds_T[kept] / scale, found.images_T[kept], color=ACCENT, linewidth=1.8, drawstyle="steps-post")
    axes.set_ylim(0, 1.06 * max(1.0, float(found.images_T[-1])))
    axes.set_xlim(0, None)
    axes.yaxis.set_major_formatter(_short)
    axes.set_xlabel(f"{unit} since the first part")
    axes.set_ylabel("images done")


def rate_over_time(axes: Axes, found: Timeline) -> None:
    """Images per second, stretch by stretch."""
    scale, unit = time_unit(float(found.seconds_T[-1]))
    edges = np.array([found.bins[0][0], *(end for _, end, _ in found.bins)]) / scale
    rates = np.array([rate for _, _, rate in found.bins])
    axes.stairs(rates, edges, color=ACCENT, linewidth=1.6, fill=True, alpha=0.35)
    axes.stairs(rates, edges, color=ACCENT, linewidth=1.6)
    axes.set_ylim(0, 1.1 * max(1e-9, float(rates.max())))
    axes.set_xlim(0, edges[-1])
    axes.yaxis.set_major_formatter(_short)
    axes.set_xlabel(f"{unit} since the first part")
    axes.set_ylabel("images/s")


def time_unit(seconds: float) -> tuple[float, str]:
    """Seconds in the unit that suits so long a time, and its name."""
    return next(
        (
            (size, name)
            for size, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"))
            if seconds > 3 * size
        ),
        (1.0, "seconds"),
    )


def reliability_diagram(axes: Axes, found: Reliability) -> None:
    """Accuracy over score; a point is a bin of equally many images, with its distance from the diagonal."""
    scores, accuracies = ([getattr(own, name) for own in found.bins] for name in ("score", "accuracy"))
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.vlines(scores, scores, accuracies, color=SECOND, linewidth=2.2, alpha=0.75)
    axes.plot(scores, accuracies, color=ACCENT, linewidth=1.4, marker="o", markersize=4.5)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("mean score")
    axes.set_ylabel("share that is right")


def precision_curve(axes: Axes, coverage: Array, precision: Array, targets: Sequence[float]) -> None:
    """Precision of the images that are kept, from the best scores down.

    Args:
        axes: Drawn into.
        coverage: (C,) share of all images, ascending, 0-1.
        precision: (C,) share of these that is right, 0-1.
        targets: Precisions that are asked for, drawn as lines.
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
