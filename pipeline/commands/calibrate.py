"""Calibrate: make the scores of a consensus say how often they are right, on the images whose truth is known.

With the members' top-k alone one temperature is fitted to the pool; with all their probabilities a log-stack.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from pipeline.errors import RequestError
from pipeline.output.ledger import open_ledger
from pipeline.output.probabilities import stored_aliases
from pipeline.trust.calibration import (
    FORMAT,
    Calibration,
    CalibrationMetrics,
    FittedMember,
    member_identity,
    members_fingerprint,
    write_calibration,
)
from pipeline.trust.matched import MatchedImages, read_matched_images
from pipeline.trust.member_probs import read_member_log_probs
from pipeline.trust.reliability import compute_reliability
from pipeline.trust.stack import MemberLogProbs, fit_stack, pool_members
from pipeline.trust.stack import cross_validate as cross_validate_stack
from pipeline.trust.temperature import MIN_TRUTHS, NUM_FOLDS, PooledProbs, cross_validate, fit_temperature
from pipeline.trust.truth import TruthCounts
from pipeline.trust.truth_file import read_truth

Method = Literal["auto", "temperature", "stack"]
METHODS: tuple[Method, ...] = ("auto", "temperature", "stack")


def calibrate(
    out: str | os.PathLike[str],
    *,
    truth: str | os.PathLike[str] | None = None,
    save: str | os.PathLike[str] | None = None,
    method: Method = "auto",
    s3_endpoint: str | None = None,
    no_sign_request: bool = False,
) -> Calibration:
    """Fit a calibration to the members of an output; ``label(..., calibration=FILE)`` and ``combine`` use it.

    Args:
        out: Directory or ``s3://`` prefix of a job's output; for a temperature, labelled without a calibration.
        truth: As for :func:`pipeline.evaluate`.
        save: File that it is written to, local or S3; None: it is not.
        method: ``temperature``: one number for the pool as it is. ``stack``: a weight for each member of a geometric
            pool, for which their probabilities must be stored. ``auto``: the one that says more of images it was
            not fitted on.
        s3_endpoint: As for ``label``.
        no_sign_request: As for ``label``.

    Raises:
        RequestError: There are too few truths, or the output is of a kind that cannot be calibrated.
    """
    found, _ = calibrate_and_count(
        out, truth=truth, save=save, method=method, s3_endpoint=s3_endpoint, no_sign_request=no_sign_request
    )
    return found


def calibrate_and_count(
    out: str | os.PathLike[str],
    *,
    truth: str | os.PathLike[str] | None,
    save: str | os.PathLike[str] | None,
    method: Method,
    s3_endpoint: str | None,
    no_sign_request: bool,
) -> tuple[Calibration, TruthCounts]:
    """The same, and what became of the truth.

    Raises:
        RequestError: As for :func:`calibrate`.
    """
    if method not in METHODS:
        raise RequestError(f"--method: one of {', '.join(METHODS)} is expected, not {method!r}")
    ledger, storage = open_ledger(out, s3_endpoint, no_sign_request=no_sign_request)
    job = ledger.job()
    given = None if truth is None else read_truth(os.fspath(truth), storage, job["class_names"])
    complaint = _complaint(ledger.out, job)
    stack_wanted = method == "stack" or (method == "auto" and len(stored_aliases(job)) > 1)
    if stack_wanted:
        log_probs, counts = read_member_log_probs(ledger, job, given)
        calibration = fit_to_members(ledger.out, job, log_probs, counts)
        alone = calibration.temperature_alone
        is_better = alone is None or calibration.after.nll < alone.nll
        stack_wanted = method == "stack" or is_better or complaint is not None
    if not stack_wanted:
        if complaint is not None:
            raise RequestError(complaint)
        matched = read_matched_images(ledger, job, given, with_scores=True)
        counts = matched.counts
        calibration = fit(ledger.out, job, matched)
    if save is not None:
        write_calibration(os.fspath(save), calibration, storage)
    return calibration, counts


def _complaint(out: str, job: Mapping[str, Any]) -> str | None:
    """Why what is stored of a pool cannot be given a temperature, if it cannot."""
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


def fit(out: str, job: Mapping[str, Any], matched: MatchedImages) -> Calibration:
    """Fit a temperature, and find out by cross-validation what it does.

    Args:
        out: The output.
        job: Its ``job.json``.
        matched: Images whose truth is known, with their scores.

    Raises:
        RequestError: They are too few, or do not say.
    """
    _check_number(out, "a temperature", matched.counts, len(matched))
    results = job["results"]
    right_N = matched.ranks_PN[0] == 0
    pooled = PooledProbs.from_top_k(matched.top_scores_Nk, matched.ranks_PN[0], len(job["class_names"]))
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
        folds=NUM_FOLDS,
        top1=float(right_N.mean()),
        before=_figures(pooled.nll(1.0), pooled.scores(1.0), right_N),
        after=_figures(held.nll_N, held.scores_N, right_N),
        out=out,
        truth=matched.counts.source,
    )


def fit_to_members(out: str, job: Mapping[str, Any], log_probs: MemberLogProbs, counts: TruthCounts) -> Calibration:
    """Fit a log-stack, and find out by cross-validation what it does, and what a temperature alone would do.

    Args:
        out: The output.
        job: Its ``job.json``.
        log_probs: What its members said of images whose truth is known.
        counts: What became of the truth.

    Raises:
        RequestError: They are too few, or do not say.
    """
    _check_number(out, "a log-stack", counts, len(log_probs))
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
        folds=NUM_FOLDS,
        top1=float(right_N.mean()),
        top1_after=float(held.right_N.mean()),
        before=_figures(plain.nll(1.0), plain.scores(1.0), right_N),
        after=_figures(held.nll_N, held.scores_N, held.right_N),
        temperature_alone=_figures(warm.nll_N, warm.scores_N, right_N),
        strength=strength,
        out=out,
        truth=counts.source,
    )


def _check_number(out: str, what: str, counts: TruthCounts, number: int) -> None:
    if number < MIN_TRUTHS:
        missing = "".join(f"; {line}" for line in counts.complaints)
        raise RequestError(
            f"{out}: {number:,} images with known truth are too few to fit {what}: {MIN_TRUTHS} are "
            f"needed, {MIN_TRUTHS - number:,} more{missing}"
        )


def _figures(nll_N: np.ndarray, scores_N: np.ndarray, right_N: np.ndarray) -> CalibrationMetrics:
    found = compute_reliability(scores_N, right_N)
    return CalibrationMetrics(
        nll=max(0.0, float(nll_N.mean())), ece=min(1.0, found.ece), ece_floor=min(1.0, found.floor)
    )
