"""Figures and tables about images whose truth is known: accuracy, calibration, what can be kept, mistakes."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from pipeline.page import plots
from pipeline.page.figures import CONSENSUS, Figure, Table, figure
from pipeline.text import fmt
from pipeline.trust.evaluation import Accuracy, Evaluation
from pipeline.trust.intervals import Interval
from pipeline.trust.matched import MatchedImages
from pipeline.trust.thresholds import AccuracyGroup

_WORST_CLASSES = 12
_MOST_MEMBERS = 8


def predictors(found: Evaluation) -> Table:
    """How often each is right, and how far its scores are from that."""
    return Table(
        f"Accuracy on {fmt.plural(found.images, 'image', 'images')} whose truth is known",
        ("predictor", "top-1", "95 %", "top-5" if found.top_k >= 5 else f"top-{found.top_k}", "95 %", "ECE", "floor"),
        tuple(_predictor(name, own) for name, own in ((CONSENSUS, found.consensus), *found.members.items())),
    )


def _predictor(name: str, own: Accuracy) -> tuple[str, ...]:
    return (
        name,
        fmt.percent(own.top1),
        _range(own.top1_interval),
        fmt.percent(own.top5),
        _range(own.top5_interval),
        fmt.percent(own.reliability.ece),
        fmt.percent(own.reliability.floor),
    )


def _range(interval: Interval) -> str:
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def reliability_diagrams(found: Evaluation) -> tuple[Figure, ...]:
    """Whether scores say how often they are right: of the consensus, and of the first members."""
    figures = []
    for number, (name, own) in enumerate([(CONSENSUS, found.consensus), *found.members.items()][: 1 + _MOST_MEMBERS]):
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
                for bin_ in own.reliability.bins
            ),
        )
        note = (
            f"Calibration error {fmt.percent(own.reliability.ece)}; true scores would show "
            f"{fmt.percent(own.reliability.floor)} by chance. Above the dashed line scores are too low, below it "
            "too high."
        )
        figures.append(
            figure(
                f"reliability-{number}",
                f"Reliability: {name}",
                note,
                functools.partial(plots.reliability_diagram, found=own.reliability),
                table,
                height=300,
            )
        )
    return tuple(figures)


def selection(found: Evaluation, matched: MatchedImages) -> Figure:
    """Precision against how much is kept."""
    order = np.argsort(-matched.scores_PN[0], kind="stable")
    rights = np.cumsum(matched.ranks_PN[0][order] == 0)
    lengths = np.unique(np.ceil(np.linspace(1 / 200, 1, 200) * len(order)).astype(int))
    coverage, precision = lengths / len(order), rights[lengths - 1] / lengths
    targets = [kept.target for kept in found.kept]
    at = np.unique(np.searchsorted(coverage, np.linspace(0.1, 1, 10)).clip(0, len(coverage) - 1))
    return figure(
        "selection",
        "Precision by share kept",
        "Images with the best scores are kept first; dashed: "
        f"{', '.join(fmt.percent(target, 0) for target in targets)}. Observed on this truth, no promise for others.",
        lambda axes: plots.precision_curve(axes, coverage, precision, targets),
        Table(
            "Precision by share kept",
            ("kept", "right"),
            tuple((fmt.percent(coverage[place]), fmt.percent(precision[place])) for place in at),
        ),
        height=300,
    )


def kept(found: Evaluation) -> Table:
    """What can be kept at some precisions."""
    rows = [
        (fmt.percent(own.target, 0), fmt.NONE, "0", fmt.percent(0.0), "not reached", "")
        if own.threshold is None
        else (
            fmt.percent(own.target, 0),
            f"{own.threshold:.4f}",
            fmt.count(own.images),
            fmt.percent(own.coverage),
            fmt.percent(own.precision),
            _range(own.interval),
        )
        for own in found.kept
    ]
    return Table(
        "What could be kept at a precision",
        ("precision", "score from", "images", "share", "observed", "95 %"),
        tuple(rows),
    )


def groups(name: str, found: Sequence[AccuracyGroup]) -> Table:
    """Accuracy by score or by agreement."""
    return Table(
        f"Accuracy by {name}",
        (name, "images", "right", "95 %"),
        tuple(
            (
                f"{own.low:.2f}" if own.low == own.high else f"{own.low:.2f} to {own.high:.2f}",
                fmt.count(own.images),
                fmt.percent(own.accuracy),
                _range(own.interval),
            )
            for own in found
        ),
    )


def worst_classes(found: Evaluation) -> Table:
    """The classes with the lowest F1; of equal ones, those with more images."""
    worst = sorted(found.classes, key=lambda own: (own.f1, -own.images))[:_WORST_CLASSES]
    return Table(
        f"The {len(worst)} worst of {fmt.plural(len(found.classes), 'class', 'classes')}",
        ("class", "images", "precision", "recall", "F1"),
        tuple(
            (
                own.name,
                fmt.count(own.images),
                fmt.percent(own.precision),
                fmt.percent(own.recall),
                fmt.percent(own.f1),
            )
            for own in worst
        ),
    )


def confused(found: Evaluation) -> Table:
    """The pairs of classes that are mistaken most often."""
    pairs = found.confused[:_WORST_CLASSES]
    return Table(
        "Most frequent mistakes",
        ("truth", "taken for", "images", "of the class"),
        tuple((own.truth_name, own.label_name, fmt.count(own.images), fmt.percent(own.share)) for own in pairs),
        words_in=frozenset({1}),
    )


def gain_words(found: Evaluation) -> str:
    """What the consensus gains over its best member; empty for a single member."""
    if found.gain is None:
        return ""
    gain = found.gain
    low, high = gain.interval
    compared = f"{abs(100 * gain.difference):.1f} points {'above' if gain.difference > 0 else 'below'}"
    return (
        f"The consensus is {compared if gain.difference else 'as often right as'} its best member here, {gain.over} "
        f"(difference {100 * gain.difference:+.1f}, 95 %: {100 * low:+.1f} to {100 * high:+.1f}). It alone is right "
        f"{fmt.plural(gain.only_first, 'time', 'times')}, that member alone "
        f"{fmt.plural(gain.only_other, 'time', 'times')}."
    )


def tables(found: Evaluation) -> tuple[Table, ...]:
    """Where the consensus is right, and where it is not."""
    shown = [groups("score", found.by_score)]
    if len(found.members) > 1:
        shown.append(groups("agreement", found.by_agreement))
    shown.append(worst_classes(found))
    if found.confused:
        shown.append(confused(found))
    return tuple(shown)
