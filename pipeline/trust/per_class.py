"""Class by class: precision, recall and F1, and which classes are taken for each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.trust.intervals import Interval, wilson

_MOST_CONFUSED = 50

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """One class. All figures are observed; with few images their intervals are wide.

    Attributes:
        label: Its index.
        name: Its name.
        images: Images of which it is the truth.
        predicted: Images that were given this label.
        precision: Share of ``predicted`` that is right, 0-1; None where there are none.
        precision_interval: Wilson's.
        recall: Share of ``images`` that is found, 0-1; None where there are none.
        recall_interval: Wilson's.
        f1: Harmonic mean of both, 0-1.
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
    """Images of one class that were given the label of another.

    Attributes:
        truth, truth_name: What they are.
        label, label_name: What they were taken for.
        images: How many.
        share: Of all images of the true class, 0-1.
    """

    truth: int
    truth_name: str
    label: int
    label_name: str
    images: int
    share: float


def by_class(truth_N: Array, label_N: Array, names: Sequence[str]) -> tuple[ClassFigures, ...]:
    """Figures of every class that is the truth or the label of an image, in order of index.

    Args:
        truth_N: Integers, 0 to K - 1.
        label_N: Likewise.
        names: Of the K classes.
    """
    images = np.bincount(truth_N, minlength=len(names))
    predicted = np.bincount(label_N, minlength=len(names))
    right = np.bincount(truth_N[truth_N == label_N], minlength=len(names))
    return tuple(
        _figures(label, names[label], int(images[label]), int(predicted[label]), int(right[label]))
        for label in np.flatnonzero(images + predicted).tolist()
    )


def _figures(label: int, name: str, images: int, predicted: int, right: int) -> ClassFigures:
    return ClassFigures(
        label=label,
        name=name,
        images=images,
        predicted=predicted,
        precision=right / predicted if predicted else None,
        precision_interval=wilson(right, predicted),
        recall=right / images if images else None,
        recall_interval=wilson(right, images),
        f1=2 * right / (images + predicted),
    )


def macro_f1(classes: Sequence[ClassFigures]) -> float:
    """Mean F1 of the classes that have images, each counted alike; 0 without any."""
    scores = [figures.f1 for figures in classes if figures.images]
    return sum(scores) / len(scores) if scores else 0.0


def most_confused(
    truth_N: Array, label_N: Array, names: Sequence[str], most: int = _MOST_CONFUSED
) -> tuple[Confusion, ...]:
    """The pairs of classes that are mistaken most often, the most frequent first.

    Args:
        truth_N: Integers, 0 to K - 1.
        label_N: Likewise.
        names: Of the K classes.
        most: How many pairs at most.
    """
    wrong_N = truth_N != label_N
    codes = truth_N[wrong_N].astype(np.int64) * len(names) + label_N[wrong_N]
    pairs, counts = np.unique(codes, return_counts=True)  # those that occur: K x K may be a billion
    images = np.bincount(truth_N, minlength=len(names))
    first = np.argsort(-counts, kind="stable")[:most]
    found = []
    for pair, count in zip(pairs[first].tolist(), counts[first].tolist(), strict=True):
        truth, label = divmod(pair, len(names))
        found.append(Confusion(truth, names[truth], label, names[label], count, count / int(images[truth])))
    return tuple(found)
