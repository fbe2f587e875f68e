"""Calibrate: fit one temperature to the consensus of an output, on the images whose truth is known."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.errors import RequestError
from pipeline.ledger import open_output
from pipeline.trust.calibration import (
    FORMAT,
    Calibration,
    Figures,
    FittedMember,
    members_fingerprint,
    write_calibration,
)
from pipeline.trust.judged import Judged, read_judged
from pipeline.trust.reliability import reliability
from pipeline.trust.temperature import MIN_TRUTHS, NUM_FOLDS, Pooled, cross_validate, fit_temperature
from pipeline.trust.truth import TruthCounts, read_truth


def calibrate(
    out: str | os.PathLike[str],
    *,
    truth: str | os.PathLike[str] | None = None,
    save: str | os.PathLike[str] | None = None,
    s3_endpoint: str | None = None,
    no_sign_request: bool = False,
) -> Calibration:
    """Fit a temperature to the consensus of an output; ``label(..., calibration=FILE)`` uses it.

    Args:
        out: Directory or ``s3://`` prefix of a job's output, labelled without a calibration.
        truth: As for :func:`pipeline.evaluate`.
        save: File that it is written to, local or S3; None: it is not.
        s3_endpoint: As for ``label``.
        no_sign_request: As for ``label``.

    Raises:
        RequestError: There are too few truths, or the output is of a kind that cannot be calibrated.
    """
    return calibrate_and_count(out, truth=truth, save=save, s3_endpoint=s3_endpoint, no_sign_request=no_sign_request)[0]


def calibrate_and_count(
    out: str | os.PathLike[str],
    *,
    truth: str | os.PathLike[str] | None,
    save: str | os.PathLike[str] | None,
    s3_endpoint: str | None,
    no_sign_request: bool,
) -> tuple[Calibration, TruthCounts]:
    """The same, and what became of the truth.

    Raises:
        RequestError: As for :func:`calibrate`.
    """
    ledger, storage = open_output(out, s3_endpoint, no_sign_request=no_sign_request)
    job = ledger.job()
    if job["results"]["combine"] == "vote":
        raise RequestError(
            f"{ledger.out}: a vote has shares of votes, not probabilities that a temperature could calibrate; "
            "label with --combine mean or geometric"
        )
    if job["results"].get("calibration"):
        raise RequestError(
            f"{ledger.out} was labelled with a calibration; fit another on an output without one, "
            "for which the images with truth are enough"
        )
    given = None if truth is None else read_truth(os.fspath(truth), storage, job["class_names"])
    judged = read_judged(ledger, job, given, with_scores=True)
    calibration = fit(ledger.out, job, judged)
    if save is not None:
        write_calibration(os.fspath(save), calibration, storage)
    return calibration, judged.counts


def fit(out: str, job: Mapping[str, Any], judged: Judged) -> Calibration:
    """Fit a temperature, and find out by cross-validation what it does.

    Args:
        out: The output.
        job: Its ``job.json``.
        judged: Images whose truth is known, with their scores.

    Raises:
        RequestError: They are too few, or do not say.
    """
    if len(judged) < MIN_TRUTHS:
        missing = "".join(f"; {line}" for line in judged.counts.complaints)
        raise RequestError(
            f"{out}: {len(judged):,} images with known truth are too few to fit a temperature: {MIN_TRUTHS} are "
            f"needed, {MIN_TRUTHS - len(judged):,} more{missing}"
        )
    results = job["results"]
    right_N = judged.places_PN[0] == 0
    pooled = Pooled.of(judged.top_scores_Nk, judged.places_PN[0], len(job["class_names"]))
    temperature = fit_temperature(pooled)
    held = cross_validate(pooled)
    return Calibration(
        format=FORMAT,
        rule=results["combine"],
        temperature=float(f"{temperature:.6g}"),
        members_fingerprint=members_fingerprint(results["members"]),
        members=tuple(
            FittedMember(**{name: member[name] for name in FittedMember.model_fields}) for member in results["members"]
        ),
        num_classes=len(job["class_names"]),
        truths=len(judged),
        folds=NUM_FOLDS,
        top1=float(right_N.mean()),
        before=_figures(pooled.nll(1.0), pooled.scores(1.0), right_N),
        after=_figures(held.nll_N, held.scores_N, right_N),
        out=out,
        truth=judged.counts.source,
    )


def _figures(nll_N: np.ndarray, scores_N: np.ndarray, right_N: np.ndarray) -> Figures:
    found = reliability(scores_N, right_N)
    return Figures(nll=max(0.0, float(nll_N.mean())), ece=min(1.0, found.ece), ece_floor=min(1.0, found.floor))
