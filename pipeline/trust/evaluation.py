"""Accuracy of the consensus and of each member on images with known truth: overall, by class and by score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.output.probabilities import combined_from, stored_aliases
from pipeline.text import fmt
from pipeline.text.result import Result
from pipeline.trust.distributions import TOP_K
from pipeline.trust.fitted import NOT_FITTED, fitted_truths
from pipeline.trust.group_reader import GroupReader
from pipeline.trust.intervals import Gain, Interval, paired_gain, wilson_interval
from pipeline.trust.level_accuracy import LevelAccuracy, compute_level_accuracy
from pipeline.trust.matched import MatchedImages
from pipeline.trust.per_class import ClassMetrics, Confusion, compute_class_metrics, find_confused_classes, macro_f1
from pipeline.trust.reliability import Reliability, compute_reliability
from pipeline.trust.thresholds import (
    AccuracyGroup,
    OperatingPoint,
    find_operating_points,
    group_by_agreement,
    group_by_score,
)
from pipeline.trust.truth import TruthCounts

_TOP = 5


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Accuracy of one predictor: a member or the consensus.

    Attributes:
        top1: Share of images whose true class is its first label, 0-1.
        top5: The same for its first five labels, or for all stored ones where these are fewer.
        top1_interval, top5_interval: Wilson's, 95 %.
        reliability: Calibration of its largest score.
    """

    top1: float
    top5: float
    top1_interval: Interval
    top5_interval: Interval
    reliability: Reliability


@dataclass(frozen=True, slots=True, repr=False)
class Evaluation(Result):
    """Accuracy of an output on its labelled images with known truth.

    Attributes:
        out: The output.
        images: Labelled images with known truth, those in which no class fits among them (``truth.no_class``). All
            figures but ``levels`` are about them.
        group_truths: More images whose truth is no class, but a group; only ``levels`` counts them.
        levels: Accuracy at each level of own classes, the finest first; none without own classes.
        groups_from: Where the groups of images come from: their ``columns``, stored ``probabilities``, or the
            ``top-k``; empty without own classes.
        consensus: Accuracy of the consensus.
        members: Accuracy of each member, by alias.
        combine: How the members were combined.
        top_k: Labels stored per image and predictor.
        temperature: Of the calibration of the consensus; None where it is uncalibrated.
        truth: Where the truth comes from, and how much of it could be used.
        gain: Of the consensus over its best member; None for a single member or without images. The best member is
            picked on the same images, so the true gain is rather larger.
        macro_f1: Unweighted mean F1 of the classes, 0-1.
        classes: Each class that is the truth or the label of an image, by index.
        confused: The pairs of classes confused most often.
        by_agreement, by_score: Accuracy of the consensus by agreement and by score.
        kept: Operating points at some precisions, as observed on these images: no promise for others.
        weights: Of the members, by alias, in a fitted log-stack; None elsewhere.
        fitted: Images with known truth that the calibration of this output was fitted on; None if it does not tell.
        can_combine: Whether the output holds the members' probabilities.
        combined_from: The output with the probabilities that it was combined from; empty for others.
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
    classes: tuple[ClassMetrics, ...]
    confused: tuple[Confusion, ...]
    by_agreement: tuple[AccuracyGroup, ...]
    by_score: tuple[AccuracyGroup, ...]
    kept: tuple[OperatingPoint, ...]
    weights: dict[str, float] | None = None
    fitted: int | None = 0
    can_combine: bool = False
    combined_from: str = ""
    group_truths: int = 0
    levels: tuple[LevelAccuracy, ...] = ()
    groups_from: str = ""

    @property
    def probabilities_in(self) -> str:
        """The output that holds the members' probabilities; empty if none is known."""
        return self.out if self.can_combine else self.combined_from

    @property
    def caveats(self) -> tuple[str, ...]:
        """What the figures are no judgement of, one line for each cause."""
        lines = []
        truths = self.images + self.group_truths
        if self.truth.reviewed:
            lines.append(
                f"{self.truth.reviewed:,} of {fmt.plural(truths, 'truth is', 'truths are')} of `review` lists, "
                "which hold doubtful images: "
                "these figures are about such images, not about the output as a whole"
            )
        if self.truth.shown:
            lines.append(
                f"{self.truth.shown:,} of {fmt.plural(truths, 'truth was', 'truths were')} answered with the "
                "networks' labels in view, which "
                "people follow: these figures may be better than the output is"
            )
        if self.fitted:
            lines.append(
                f"the calibration of this output was fitted on {self.fitted:,} of "
                f"{'this image' if self.images == 1 else f'these {self.images:,} images'}: "
                "calibration errors and operating points look better than they are; judge with other truths"
            )
        if self.fitted is None and self.images:
            lines.append(
                "the calibration of this output does not tell what it was fitted on; if it was on these truths, "
                "calibration errors and operating points look better than they are"
            )
        if self.groups_from == TOP_K:
            lines.append(
                f"the groups are those of the top {self.top_k} classes, for no probabilities are stored; `label` with "
                "--classes adds up all classes"
            )
        return tuple(lines)

    def _headline(self) -> dict[str, object]:
        shown = {"out": self.out, "images": self.images, "top1": self.consensus.top1, "top5": self.consensus.top5}
        shown |= {f"top1 of {alias}": member.top1 for alias, member in self.members.items()}
        return shown | {f"accuracy of {level.name}": level.accuracy for level in self.levels}


def compute_evaluation(
    out: str, job: Mapping[str, Any], matched: MatchedImages, groups: GroupReader | None = None
) -> Evaluation:
    """Compute all accuracy figures.

    Args:
        out: The output.
        job: Its ``job.json``.
        matched: Its images with known truth.
        groups: What has read their groups; None for no levels.
    """
    results, names = job["results"], job["class_names"]
    levels = () if groups is None else compute_level_accuracy(groups.taxonomy, matched)
    is_class_N = matched.truth_N < len(names)
    group_truths = int((~is_class_N).sum())
    matched = matched.take(is_class_N)
    aliases = [member["alias"] for member in results["members"]]
    right_PN = matched.ranks_PN == 0
    consensus, *members = (
        _accuracy(ranks_N, scores_N) for ranks_N, scores_N in zip(matched.ranks_PN, matched.scores_PN, strict=True)
    )
    stack = results.get("calibration", {}).get("weights")
    fitted_on = fitted_truths(job, out)
    classes = compute_class_metrics(matched.truth_N, matched.label_N, names)
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
        confused=find_confused_classes(matched.truth_N, matched.label_N, names),
        by_agreement=group_by_agreement(matched.agreement_N, right_PN[0]),
        by_score=group_by_score(matched.scores_PN[0], right_PN[0]),
        kept=find_operating_points(matched.scores_PN[0], right_PN[0]),
        weights=dict(zip(aliases, stack, strict=True)) if stack else None,
        can_combine=bool(stored_aliases(job)),
        combined_from=combined_from(job),
        fitted=None if fitted_on is None else int((fitted_on.find(matched.hashes_N) != NOT_FITTED).sum()),
        group_truths=group_truths,
        levels=levels,
        groups_from="" if groups is None else groups.source,
    )


def _accuracy(ranks_N: np.ndarray, scores_N: np.ndarray) -> Accuracy:
    images = len(ranks_N)
    right_N = ranks_N == 0
    num_top1, num_top5 = int(right_N.sum()), int(((ranks_N >= 0) & (ranks_N < _TOP)).sum())
    return Accuracy(
        top1=num_top1 / max(1, images),
        top5=num_top5 / max(1, images),
        top1_interval=wilson_interval(num_top1, images),
        top5_interval=wilson_interval(num_top5, images),
        reliability=compute_reliability(scores_N, right_N),
    )


def _gain(right_PN: np.ndarray, aliases: Sequence[str]) -> Gain | None:
    """Gain of the consensus over the member that is right most often."""
    if len(aliases) < 2 or not right_PN.shape[1]:
        return None
    consensus_N, members_MN = right_PN[0], right_PN[1:]
    best = int(members_MN.sum(axis=1).argmax())
    best_N = members_MN[best]
    return paired_gain(
        aliases[best], int((consensus_N & ~best_N).sum()), int((best_N & ~consensus_N).sum()), len(consensus_N)
    )
