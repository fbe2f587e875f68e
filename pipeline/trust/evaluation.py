"""Accuracy of the consensus and of each member on images whose truth is known, as figures and by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.trust.intervals import Gain, Interval, paired_gain, wilson
from pipeline.trust.matched import Matched
from pipeline.trust.per_class import ClassFigures, Confusion, by_class, macro_f1, most_confused
from pipeline.trust.reliability import Reliability, reliability
from pipeline.trust.selection import Group, Kept, by_agreement, by_score, kept_at
from pipeline.trust.truth import TruthCounts

_TOP = 5


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How one predictor does.

    Attributes:
        top1: Share of images whose truth is its first label, 0-1.
        top5: Among its first five; or among all that are stored, if these are fewer.
        top1_interval, top5_interval: Wilson's, 95 %.
        reliability: How well its largest score says how often it is right.
    """

    top1: float
    top5: float
    top1_interval: Interval
    top5_interval: Interval
    reliability: Reliability


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Accuracy of an output, on the images whose truth is known.

    Attributes:
        out: The output.
        images: Labelled images whose truth is known.
        consensus: Of the ensemble.
        members: Of each member, by alias.
        combine: How the members were combined.
        top_k: How many labels are stored of each.
        temperature: That the consensus was calibrated with; None: it is uncalibrated, and its scores promise nothing.
        truth: Where the truth comes from, and what became of it.
        gain: Of the consensus over its best member; None for a single member or without images. Which member is the
            best is read from the same images, so the true gain is rather larger.
        macro_f1: Mean F1 of the classes, each counted alike, 0-1.
        classes: Each class that is the truth or the label of an image, by index.
        confused: The pairs of classes mistaken most often.
        by_agreement, by_score: Accuracy of the consensus.
        kept: How many images could be kept at some precisions, as observed on these images: no promise for others.
        weights: Of the members, by alias, where they are pooled in a fitted log-stack.
    """

    out: str
    images: int
    consensus: Accuracy
    members: dict[str, Accuracy]
    combine: str
    top_k: int
    temperature: float | None
    truth: TruthCounts
    gain: Gain | None
    macro_f1: float
    classes: tuple[ClassFigures, ...]
    confused: tuple[Confusion, ...]
    by_agreement: tuple[Group, ...]
    by_score: tuple[Group, ...]
    kept: tuple[Kept, ...]
    weights: dict[str, float] | None = None


def evaluate_matched(out: str, job: Mapping[str, Any], matched: Matched) -> Evaluation:
    """All figures of images whose truth is known.

    Args:
        out: The output.
        job: Its ``job.json``.
        matched: The images.
    """
    results, names = job["results"], job["class_names"]
    aliases = [member["alias"] for member in results["members"]]
    right_PN = matched.places_PN == 0
    consensus, *members = (
        _accuracy(places_N, scores_N) for places_N, scores_N in zip(matched.places_PN, matched.scores_PN, strict=True)
    )
    stack = results.get("calibration", {}).get("weights")
    classes = by_class(matched.truth_N, matched.label_N, names)
    return Evaluation(
        out=out,
        images=len(matched),
        consensus=consensus,
        members=dict(zip(aliases, members, strict=True)),
        combine=results["combine"],
        top_k=min(results["top_k"], len(names)),
        temperature=results.get("calibration", {}).get("temperature"),
        truth=matched.counts,
        gain=_gain(right_PN, aliases),
        macro_f1=macro_f1(classes),
        classes=classes,
        confused=most_confused(matched.truth_N, matched.label_N, names),
        by_agreement=by_agreement(matched.agreement_N, right_PN[0]),
        by_score=by_score(matched.scores_PN[0], right_PN[0]),
        kept=kept_at(matched.scores_PN[0], right_PN[0]),
        weights=dict(zip(aliases, stack, strict=True)) if stack else None,
    )


def _accuracy(places_N: np.ndarray, scores_N: np.ndarray) -> Accuracy:
    images = len(places_N)
    right_N = places_N == 0
    first, among = int(right_N.sum()), int(((places_N >= 0) & (places_N < _TOP)).sum())
    return Accuracy(
        top1=first / max(1, images),
        top5=among / max(1, images),
        top1_interval=wilson(first, images),
        top5_interval=wilson(among, images),
        reliability=reliability(scores_N, right_N),
    )


def _gain(right_PN: np.ndarray, aliases: Sequence[str]) -> Gain | None:
    """Of the consensus over the member that is right most often."""
    if len(aliases) < 2 or not right_PN.shape[1]:
        return None
    consensus_N, members_MN = right_PN[0], right_PN[1:]
    best = int(members_MN.sum(axis=1).argmax())
    best_N = members_MN[best]
    return paired_gain(
        aliases[best], int((consensus_N & ~best_N).sum()), int((best_N & ~consensus_N).sum()), len(consensus_N)
    )
