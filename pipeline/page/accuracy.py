"""Figures and tables about images with known truth: accuracy, calibration, operating points, confusions."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from pipeline.page import plots
from pipeline.page.figures import CONSENSUS, Figure, Table, make_figure
from pipeline.text import fmt
from pipeline.trust.evaluation import Accuracy, Evaluation
from pipeline.trust.intervals import Interval
from pipeline.trust.matched import MatchedImages
from pipeline.trust.thresholds import AccuracyGroup

_NUM_WORST = 12
_MAX_MEMBERS = 8


def tabulate_predictors(evaluation: Evaluation) -> Table:
    """Accuracy and calibration error of the consensus and of each member."""
    none = evaluation.truth.no_class
    return Table(
        f"Accuracy on {fmt.plural(evaluation.images, 'image', 'images')} with known truth"
        + (f"; in {none:,} of them no class fits, and every label is wrong" if none else ""),
        (
            "predictor",
            "top-1",
            "95 %",
            "top-5" if evaluation.top_k >= 5 else f"top-{evaluation.top_k}",
            "95 %",
            "ECE",
            "floor",
        ),
        tuple(
            _predictor_row(name, row) for name, row in ((CONSENSUS, evaluation.consensus), *evaluation.members.items())
        ),
    )


def _predictor_row(name: str, row: Accuracy) -> tuple[str, ...]:
    return (
        name,
        fmt.percent(row.top1),
        _format_interval(row.top1_interval),
        fmt.percent(row.top5),
        _format_interval(row.top5_interval),
        fmt.percent(row.reliability.ece),
        fmt.percent(row.reliability.floor),
    )


def _format_interval(interval: Interval) -> str:
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def plot_reliability(evaluation: Evaluation) -> tuple[Figure, ...]:
    """Reliability diagrams of the consensus and of the first members."""
    figures = []
    for number, (name, row) in enumerate(
        [(CONSENSUS, evaluation.consensus), *evaluation.members.items()][: 1 + _MAX_MEMBERS]
    ):
        table = Table(
            f"Bins of equally many images: {name}",
            ("scores", "images", "mean score", "right"),
            tuple(
                (
                    f"{bin_.low:.3f} to {bin_.high:.3f}",
                    fmt.count(bin_.images),
                    fmt.score(bin_.score),
                    fmt.percent(bin_.accuracy),
                )
                for bin_ in row.reliability.bins
            ),
        )
        note = (
            f"Calibration error {fmt.percent(row.reliability.ece)}; true scores would show "
            f"{fmt.percent(row.reliability.floor)} by chance. Above the dashed line scores are too low, below it "
            "too high."
        )
        figures.append(
            make_figure(
                f"reliability-{number}",
                f"Reliability: {name}",
                note,
                functools.partial(plots.draw_reliability, reliability=row.reliability),
                table,
                height=300,
            )
        )
    return tuple(figures)


def plot_precision_by_coverage(evaluation: Evaluation, matched: MatchedImages) -> Figure:
    """Precision of the best-scored images by the share that is kept."""
    order = np.argsort(-matched.scores_PN[0], kind="stable")
    rights = np.cumsum(matched.ranks_PN[0][order] == 0)
    lengths = np.unique(np.ceil(np.linspace(1 / 200, 1, 200) * len(order)).astype(int))
    coverage, precision = lengths / len(order), rights[lengths - 1] / lengths
    targets = [point.target for point in evaluation.kept]
    at = np.unique(np.searchsorted(coverage, np.linspace(0.1, 1, 10)).clip(0, len(coverage) - 1))
    return make_figure(
        "selection",
        "Precision by share kept",
        "Images with the best scores are kept first; dashed: "
        f"{', '.join(fmt.percent(target, 0) for target in targets)}. Observed on this truth, no promise for others.",
        lambda axes: plots.draw_precision(axes, coverage, precision, targets),
        Table(
            "Precision by share kept",
            ("kept", "right"),
            tuple((fmt.percent(coverage[place]), fmt.percent(precision[place])) for place in at),
        ),
        height=300,
    )


def tabulate_operating_points(evaluation: Evaluation) -> Table:
    """The coverage at some precisions."""
    rows = [
        (fmt.percent(row.target, 0), fmt.NONE, "0", fmt.percent(0.0), "not reached", "")
        if row.threshold is None
        else (
            fmt.percent(row.target, 0),
            f"{row.threshold:.4f}",
            fmt.count(row.images),
            fmt.percent(row.coverage),
            fmt.percent(row.precision),
            _format_interval(row.interval),
        )
        for row in evaluation.kept
    ]
    return Table(
        "What could be kept at a precision",
        ("precision", "score from", "images", "share", "observed", "95 %"),
        tuple(rows),
    )


def tabulate_groups(name: str, groups: Sequence[AccuracyGroup]) -> Table:
    """Accuracy by score or by agreement."""
    return Table(
        f"Accuracy by {name}",
        (name, "images", "right", "95 %"),
        tuple(
            (
                f"{row.low:.2f}" if row.low == row.high else f"{row.low:.2f} to {row.high:.2f}",
                fmt.count(row.images),
                fmt.percent(row.accuracy),
                _format_interval(row.interval),
            )
            for row in groups
        ),
    )


def tabulate_worst_classes(evaluation: Evaluation) -> Table:
    """The classes with the lowest F1; of equal ones, those with more images."""
    worst = sorted(evaluation.classes, key=lambda row: (row.f1, -row.images))[:_NUM_WORST]
    return Table(
        f"The {len(worst)} worst of {fmt.plural(len(evaluation.classes), 'class', 'classes')}",
        ("class", "images", "precision", "recall", "F1"),
        tuple(
            (
                row.name,
                fmt.count(row.images),
                fmt.percent(row.precision),
                fmt.percent(row.recall),
                fmt.percent(row.f1),
            )
            for row in worst
        ),
    )


def tabulate_confusions(evaluation: Evaluation) -> Table:
    """The pairs of classes that are confused most often."""
    pairs = evaluation.confused[:_NUM_WORST]
    return Table(
        "Most frequent mistakes",
        ("truth", "taken for", "images", "of the class"),
        tuple((row.truth_name, row.label_name, fmt.count(row.images), fmt.percent(row.share)) for row in pairs),
        text_columns=frozenset({1}),
    )


def describe_gain(evaluation: Evaluation) -> str:
    """The gain of the consensus over its best member in words; empty for a single member."""
    if evaluation.gain is None:
        return ""
    gain = evaluation.gain
    low, high = gain.interval
    compared = f"{abs(100 * gain.difference):.1f} points {'above' if gain.difference > 0 else 'below'}"
    return (
        f"The consensus is {compared if gain.difference else 'as often right as'} its best member here, {gain.over} "
        f"(difference {100 * gain.difference:+.1f}, 95 %: {100 * low:+.1f} to {100 * high:+.1f}). It alone is right "
        f"{fmt.plural(gain.only_first, 'time', 'times')}, that member alone "
        f"{fmt.plural(gain.only_other, 'time', 'times')}."
    )


def tabulate_accuracy(evaluation: Evaluation) -> tuple[Table, ...]:
    """Accuracy of the consensus by score, by agreement and by class."""
    shown = [tabulate_groups("score", evaluation.by_score)]
    if len(evaluation.members) > 1:
        shown.append(tabulate_groups("agreement", evaluation.by_agreement))
    shown.append(tabulate_worst_classes(evaluation))
    if evaluation.confused:
        shown.append(tabulate_confusions(evaluation))
    return tuple(shown)
