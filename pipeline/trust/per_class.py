"""Precision, recall and F1 of each class, and the classes that are confused most often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.labels import NO_CLASS, NO_CLASS_TEXTS
from pipeline.trust.intervals import Interval, wilson_interval

_MAX_CONFUSED = 50

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """Metrics of one class, as observed.

    Attributes:
        label: Its index.
        name: Its name.
        images: Images whose truth it is.
        predicted: Images whose label it is.
        precision: Share of ``predicted`` that is right, 0-1; None where there are none.
        precision_interval: Wilson's, 95 %.
        recall: Share of ``images`` with this label, 0-1; None where there are none.
        recall_interval: Wilson's, 95 %.
        f1: Harmonic mean of precision and recall, 0-1.
    """

    label: int
    name: str
    images: int
    predicted: int
    precision: float | None
    precision_interval: Interval
    recall: float | None
    recall_interval: Interval
    f1: float


@dataclass(frozen=True, slots=True)
class Confusion:
    """Images of one class with the label of another: a cell of the confusion matrix.

    Attributes:
        truth, truth_name: Index and name of the true class; ``NO_CLASS`` and ``none`` where none fits.
        label, label_name: Index and name of the label; likewise where there is none.
        images: How many.
        share: Of all images of the true class, 0-1.
    """

    truth: int
    truth_name: str
    label: int
    label_name: str
    images: int
    share: float


def compute_class_metrics(truth_N: Array, label_N: Array, names: Sequence[str]) -> tuple[ClassMetrics, ...]:
    """Metrics of every class that is the truth or the label of an image, in order of index.

    Args:
        truth_N: int, true classes, 0 to K - 1, or ``NO_CLASS``: a label of such an image is one too many of its class.
        label_N: int, labels, 0 to K - 1, or ``NO_CLASS`` where there is none.
        names: Of the K classes.
    """
    images = np.bincount(truth_N[truth_N >= 0], minlength=len(names))
    predicted = np.bincount(label_N[label_N >= 0], minlength=len(names))
    right = np.bincount(truth_N[(truth_N == label_N) & (truth_N >= 0)], minlength=len(names))
    return tuple(
        _class_metrics(label, names[label], int(images[label]), int(predicted[label]), int(right[label]))
        for label in np.flatnonzero(images + predicted).tolist()
    )


def _class_metrics(label: int, name: str, images: int, predicted: int, right: int) -> ClassMetrics:
    return ClassMetrics(
        label=label,
        name=name,
        images=images,
        predicted=predicted,
        precision=right / predicted if predicted else None,
        precision_interval=wilson_interval(right, predicted),
        recall=right / images if images else None,
        recall_interval=wilson_interval(right, images),
        f1=2 * right / (images + predicted),
    )


def macro_f1(classes: Sequence[ClassMetrics]) -> float:
    """Unweighted mean F1 of the classes that have images, 0-1; 0 without images."""
    scores = [figures.f1 for figures in classes if figures.images]
    return sum(scores) / len(scores) if scores else 0.0


def find_confused_classes(
    truth_N: Array, label_N: Array, names: Sequence[str], limit: int = _MAX_CONFUSED
) -> tuple[Confusion, ...]:
    """The pairs of classes that are confused most often, the most frequent first.

    Args:
        truth_N: int, true classes, 0 to K - 1, or ``NO_CLASS``.
        label_N: int, labels, 0 to K - 1, or ``NO_CLASS`` where there is none.
        names: Of the K classes.
        limit: Pairs at most.
    """
    wrong_N = truth_N != label_N
    numbers = 1 + len(names)
    codes = (truth_N[wrong_N].astype(np.int64) - NO_CLASS) * numbers + label_N[wrong_N] - NO_CLASS
    pairs, counts = np.unique(codes, return_counts=True)  # only pairs that occur: K x K may be a billion
    images = np.bincount(truth_N - NO_CLASS, minlength=numbers)  # those without a class first
    first = np.argsort(-counts, kind="stable")[:limit]
    found = []
    for pair, count in zip(pairs[first].tolist(), counts[first].tolist(), strict=True):
        truth, label = (at + NO_CLASS for at in divmod(pair, numbers))
        shares = count / int(images[truth - NO_CLASS])
        found.append(Confusion(truth, _name(truth, names), label, _name(label, names), count, shares))
    return tuple(found)


def _name(label: int, names: Sequence[str]) -> str:
    return NO_CLASS_TEXTS[0] if label == NO_CLASS else names[label]
