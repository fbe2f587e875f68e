"""Fit a calibration to the members of an output: one temperature, or a log-stack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.errors import RequestError
from pipeline.labels import NO_CLASS
from pipeline.text import fmt
from pipeline.trust.calibration import (
    FORMAT,
    Calibration,
    CalibrationMetrics,
    FittedMember,
    member_identity,
    members_fingerprint,
)
from pipeline.trust.fitted import FittedTruths
from pipeline.trust.matched import MatchedImages
from pipeline.trust.reliability import compute_reliability
from pipeline.trust.stack import MemberLogProbs, fit_stack, pool_members
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
        matched: The images whose truth is known, with their scores: those that the fit may use.

    Raises:
        RequestError: There are too few images, or they determine nothing.
    """
    fits_N = matched.truth_N != NO_CLASS
    _check_count(out, "a temperature", matched.counts, fits_N)
    results = job["results"]
    right_N = matched.ranks_PN[0] == 0
    pooled = PooledProbs.from_top_k(
        matched.top_scores_Nk, matched.ranks_PN[0], len(job["class_names"]), matched.entropy_N
    ).without_truth(~fits_N)
    temperature = fit_temperature(pooled)
    held = cross_validate(pooled)
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
        truths=len(matched),
        no_class=int((~fits_N).sum()),
        folds=NUM_FOLDS,
        top1=float(right_N.mean()),
        before=_figures(pooled.nll(1.0), pooled.scores(1.0), right_N),
        after=_figures(held.nll_N, held.scores_N, right_N),
        out=out,
        truth=matched.counts.source,
        fitted_on=FittedTruths(matched.hashes_N, matched.truth_N).encode(),
        held_out=matched.counts.used - len(matched),
    )


def fit_stack_calibration(
    out: str, job: Mapping[str, Any], log_probs: MemberLogProbs, fitted_on: FittedTruths, counts: TruthCounts
) -> Calibration:
    """Fit a log-stack, and measure by cross-validation its effect and that of a temperature alone.

    Args:
        out: The output.
        job: Its ``job.json``.
        log_probs: Log-probabilities of its members for the images whose truth is known.
        fitted_on: These images.
        counts: How much of the truth was used.

    Raises:
        RequestError: There are too few images, or they determine nothing.
    """
    _check_count(out, "a log-stack", counts, log_probs.fits_N)
    members = job["results"]["members"]
    plain = pool_members(log_probs, np.array([member["factor"] for member in members]), job["results"]["combine"])
    weights_M, strength = fit_stack(log_probs)
    held, warm = cross_validate_stack(log_probs), cross_validate(plain)
    weights = [float(f"{weight:.6g}") for weight in weights_M]
    fitted = [
        FittedMember(
            **{name: member[name] for name in ("alias", "arch", "factor", "weights_sha256")},
            identity=member_identity(member),
            weight=weight,
        )
        for member, weight in zip(members, weights, strict=True)
    ]
    right_N = plain.log_truth_N >= plain.logs_Nk[:, 0]
    return Calibration(
        format=FORMAT,
        method="stack",
        rule="geometric",
        temperature=float(f"{1 / sum(weights):.6g}"),
        members_fingerprint=members_fingerprint(members),
        members=tuple(fitted),
        num_classes=len(job["class_names"]),
        truths=len(log_probs),
        no_class=int((~log_probs.fits_N).sum()),
        folds=NUM_FOLDS,
        top1=float(right_N.mean()),
        top1_after=float(held.right_N.mean()),
        before=_figures(plain.nll(1.0), plain.scores(1.0), right_N),
        after=_figures(held.nll_N, held.scores_N, held.right_N),
        temperature_alone=_figures(warm.nll_N, warm.scores_N, right_N),
        strength=strength,
        out=out,
        truth=counts.source,
        fitted_on=fitted_on.encode(),
        held_out=counts.used - len(log_probs),
    )


def _check_count(out: str, what: str, counts: TruthCounts, fits_N: np.ndarray) -> None:
    """Check that a class fits enough images.

    Args:
        out: The output.
        what: What is fitted.
        counts: How much of the truth was used.
        fits_N: bool, whether a class fits the image, for all images that the fit may use.

    Raises:
        RequestError: There are too few.
    """
    number = int(fits_N.sum())
    if number < MIN_TRUTHS:
        left = counts.used - len(fits_N)
        held_out = f" ({left:,} of {counts.used:,} are held out)" if left > 0 else ""
        missing = "".join(f"; {line}" for line in counts.complaints)
        besides = f" ({len(fits_N) - number:,} besides are none)" if number < len(fits_N) else ""
        is_file = counts.source != CLS_TRUTH
        how = f": `{sample_more(out, counts.source, MIN_TRUTHS - number)}`" if is_file else ""
        raise RequestError(
            f"{out}: {fmt.plural(number, 'image')} with known truth{besides}{held_out} "
            f"{'is' if number == 1 else 'are'} too few to fit {what}: {MIN_TRUTHS} are "
            f"needed, {MIN_TRUTHS - number:,} more{how}{missing}"
        )


def _figures(nll_N: np.ndarray, scores_N: np.ndarray, right_N: np.ndarray) -> CalibrationMetrics:
    found = compute_reliability(scores_N, right_N)
    return CalibrationMetrics(
        nll=max(0.0, float(nll_N.mean())), ece=min(1.0, found.ece), ece_floor=min(1.0, found.floor)
    )
