"""Fit a calibration to the members of an output: one temperature, or a log-stack.

**Images in which no class fits** (truth ``none``) have no part in the fit. Probabilities over K classes give their
truth the likelihood 0 at every temperature and with any weights, so they say nothing about either. A probability of
being right is p(a class fits | x) p(y | x, a class fits); what is fitted is the second factor. Targets that are uniform
over the classes (Hendrycks, Mazeika & Dietterich, "Deep anomaly detection with outlier exposure", ICLR 2019) train
networks to be unsure elsewhere. One temperature cannot do that: it would make all scores unsure alike. Nor does any
temperature repair scores of images unlike the training data (Ovadia et al., "Can you trust your model's uncertainty?",
NeurIPS 2019). So ECE and top-1 count these images, as wrong, before and after the fit: they say how far scores are from
the share that is right in this collection; the NLL is of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.errors import RequestError
from pipeline.labels import NO_CLASS
from pipeline.trust.calibration import (
    FORMAT,
    Calibration,
    CalibrationMetrics,
    FittedMember,
    member_identity,
    members_fingerprint,
)
from pipeline.trust.matched import MatchedImages
from pipeline.trust.reliability import compute_reliability
from pipeline.trust.stack import MemberLogProbs, fit_stack, pool_members, score_stack
from pipeline.trust.stack import cross_validate as cross_validate_stack
from pipeline.trust.strictness import sample_more
from pipeline.trust.temperature import MIN_TRUTHS, NUM_FOLDS, PooledProbs, cross_validate, fit_temperature
from pipeline.trust.truth import CLS_TRUTH, TruthCounts


def temperature_obstacle(out: str, job: Mapping[str, Any]) -> str | None:
    """Why no temperature can be fitted to an output, in one line; None if one can.

    Args:
        out: The output.
        job: Its ``job.json``.
    """
    if job["results"]["combine"] == "vote":
        return (
            f"{out}: a vote has shares of votes, not probabilities that a temperature could calibrate; "
            "label with --combine mean or geometric"
        )
    if job["results"].get("calibration"):
        return (
            f"{out} was labelled with a calibration; fit another on an output without one, "
            "for which the images with truth are enough"
        )
    return None


def fit_temperature_calibration(out: str, job: Mapping[str, Any], matched: MatchedImages) -> Calibration:
    """Fit a temperature, and measure its effect by cross-validation.

    Args:
        out: The output.
        job: Its ``job.json``.
        matched: The images whose truth is known, with their scores.

    Raises:
        RequestError: There are too few images, or they determine nothing.
    """
    fits_N = matched.truth_N != NO_CLASS
    _check_count(out, "a temperature", matched.counts, int(fits_N.sum()))
    results = job["results"]
    right_N = matched.ranks_PN[0] == 0
    everything = PooledProbs.from_top_k(matched.top_scores_Nk, matched.ranks_PN[0], len(job["class_names"]))
    pooled = everything.take(fits_N)
    temperature = fit_temperature(pooled)
    held = cross_validate(pooled)
    scores_N = everything.scores(temperature)  # of images that it was not fitted on, unless a class fits
    scores_N[fits_N] = held.scores_N
    return Calibration(
        format=FORMAT,
        rule=results["combine"],
        temperature=float(f"{temperature:.6g}"),
        members_fingerprint=members_fingerprint(results["members"]),
        members=tuple(
            FittedMember(**{name: member[name] for name in ("alias", "arch", "factor", "weights_sha256")})
            for member in results["members"]
        ),
        num_classes=len(job["class_names"]),
        truths=len(pooled),
        no_class=len(matched) - len(pooled),
        folds=NUM_FOLDS,
        top1=float(right_N.mean()),
        before=_figures(pooled.nll(1.0), everything.scores(1.0), right_N),
        after=_figures(held.nll_N, scores_N, right_N),
        out=out,
        truth=matched.counts.source,
    )


def fit_stack_calibration(
    out: str, job: Mapping[str, Any], log_probs: MemberLogProbs, counts: TruthCounts
) -> Calibration:
    """Fit a log-stack, and measure by cross-validation its effect and that of a temperature alone.

    Args:
        out: The output.
        job: Its ``job.json``.
        log_probs: Log-probabilities of its members for the images whose truth is known.
        counts: How much of the truth was used.

    Raises:
        RequestError: There are too few images, or they determine nothing.
    """
    fits_N = log_probs.truth_N.numpy() != NO_CLASS
    _check_count(out, "a log-stack", counts, int(fits_N.sum()))
    members = job["results"]["members"]
    fitting, others = log_probs.take(np.flatnonzero(fits_N)), log_probs.take(np.flatnonzero(~fits_N))
    factors, rule = np.array([member["factor"] for member in members]), job["results"]["combine"]
    plain, plain_others = pool_members(fitting, factors, rule), pool_members(others.without_truth(), factors, rule)
    weights_M, strength = fit_stack(fitting)
    held, warm = cross_validate_stack(fitting), cross_validate(plain)
    stacked_others = score_stack(others.without_truth(), weights_M).scores_N
    warm_others = plain_others.scores(fit_temperature(plain))
    wrong_N = np.zeros(len(others), bool)
    weights = [float(f"{weight:.6g}") for weight in weights_M]
    fitted = [
        FittedMember(
            **{name: member[name] for name in ("alias", "arch", "factor", "weights_sha256")},
            identity=member_identity(member),
            weight=weight,
        )
        for member, weight in zip(members, weights, strict=True)
    ]
    right_N = np.append(plain.log_truth_N >= plain.logs_Nk[:, 0], wrong_N)
    held_right_N = np.append(held.right_N, wrong_N)
    return Calibration(
        format=FORMAT,
        method="stack",
        rule="geometric",
        temperature=float(f"{1 / sum(weights):.6g}"),
        members_fingerprint=members_fingerprint(members),
        members=tuple(fitted),
        num_classes=len(job["class_names"]),
        truths=len(fitting),
        no_class=len(others),
        folds=NUM_FOLDS,
        top1=float(right_N.mean()),
        top1_after=float(held_right_N.mean()),
        before=_figures(plain.nll(1.0), np.append(plain.scores(1.0), plain_others.scores(1.0)), right_N),
        after=_figures(held.nll_N, np.append(held.scores_N, stacked_others), held_right_N),
        temperature_alone=_figures(warm.nll_N, np.append(warm.scores_N, warm_others), right_N),
        strength=strength,
        out=out,
        truth=counts.source,
    )


def _check_count(out: str, what: str, counts: TruthCounts, number: int) -> None:
    if number < MIN_TRUTHS:
        missing = "".join(f"; {line}" for line in counts.complaints)
        is_file = counts.source != CLS_TRUTH
        how = f": `{sample_more(out, counts.source, MIN_TRUTHS - number)}`" if is_file else ""
        raise RequestError(
            f"{out}: {number:,} images with known truth are too few to fit {what}: {MIN_TRUTHS} are "
            f"needed, {MIN_TRUTHS - number:,} more{how}{missing}"
        )


def _figures(nll_N: np.ndarray, scores_N: np.ndarray, right_N: np.ndarray) -> CalibrationMetrics:
    found = compute_reliability(scores_N, right_N)
    return CalibrationMetrics(
        nll=max(0.0, float(nll_N.mean())), ece=min(1.0, found.ece), ece_floor=min(1.0, found.floor)
    )
