"""Fit a calibration to the members of an output: one temperature, or a log-stack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from pipeline.trust.temperature import MIN_TRUTHS, NUM_FOLDS, PooledProbs, cross_validate, fit_temperature
from pipeline.trust.truth import TruthCounts


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


def fit_temperature_calibration(
    out: str, job: Mapping[str, Any], matched: MatchedImages, advise: Callable[[], str]
) -> Calibration:
    """Fit a temperature, and measure its effect by cross-validation.

    Args:
        out: The output.
        job: Its ``job.json``.
        matched: The images whose truth is known, with their scores: those that the fit may use.
        advise: What to do where they are too few.

    Raises:
        RequestError: There are too few images, or they determine nothing.
    """
    fits_N = matched.truth_N != NO_CLASS
    _check_count(out, "a temperature", matched.counts, fits_N, advise)
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
    out: str,
    job: Mapping[str, Any],
    log_probs: MemberLogProbs,
    fitted_on: FittedTruths,
    counts: TruthCounts,
    advise: Callable[[], str],
) -> Calibration:
    """Fit a log-stack, and measure by cross-validation its effect and that of a temperature alone.

    Args:
        out: The output.
        job: Its ``job.json``.
        log_probs: Log-probabilities of its members for the images whose truth is known.
        fitted_on: These images.
        counts: How much of the truth was used.
        advise: What to do where it is too little.

    Raises:
        RequestError: There are too few images, or they determine nothing.
    """
    _check_count(out, "a log-stack", counts, log_probs.fits_N, advise)
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


def _check_count(out: str, what: str, counts: TruthCounts, fits_N: np.ndarray, advise: Callable[[], str]) -> None:
    """Check that a class fits enough images.

    Args:
        out: The output.
        what: What is fitted.
        counts: How much of the truth was used.
        fits_N: bool, whether a class fits the image, for all images that the fit may use.
        advise: What to do where they are too few.

    Raises:
        RequestError: There are too few.
    """
    number = int(fits_N.sum())
    if number < MIN_TRUTHS:
        besides, held_out = len(fits_N) - number, counts.used - len(fits_N)
        left = [f"{besides:,} besides {'is' if besides == 1 else 'are'} none"] * (besides > 0)
        left += [f"{held_out:,} of {counts.used:,} are held out"] * (held_out > 0)
        missing = "".join(f"; {line}" for line in counts.complaints)
        not_used = f" ({'; '.join(left)})" if left else ""
        raise RequestError(
            f"{out}: {fmt.plural(number, 'image')} with known truth{not_used} "
            f"{'is' if number == 1 else 'are'} too few to fit {what}: {MIN_TRUTHS} are needed; {advise()}{missing}"
        )


def _figures(nll_N: np.ndarray, scores_N: np.ndarray, right_N: np.ndarray) -> CalibrationMetrics:
    found = compute_reliability(scores_N, right_N)
    return CalibrationMetrics(
        nll=max(0.0, float(nll_N.mean())), ece=min(1.0, found.ece), ece_floor=min(1.0, found.floor)
    )
