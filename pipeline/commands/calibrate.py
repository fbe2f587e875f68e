"""Calibrate: fit the scores of a consensus to how often they are right, on the images whose truth is known.

One temperature is fitted to the pool, from its stored top-k and entropy; or a log-stack to the members, from their
stored probabilities.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pipeline.errors import RequestError
from pipeline.job.own_classes import classes_of_output
from pipeline.output.ledger import Ledger
from pipeline.output.opening import open_ledger
from pipeline.output.probabilities import combined_from, stored_aliases
from pipeline.text.commands import store_words
from pipeline.trust.calibration import Calibration, write_calibration
from pipeline.trust.fitted import held_out_mask
from pipeline.trust.fitting import fit_stack_calibration, fit_temperature_calibration, temperature_obstacle
from pipeline.trust.matched import read_matched_images
from pipeline.trust.member_probs import read_member_log_probs
from pipeline.trust.more_truths import advise_for_fit
from pipeline.trust.truth import Truth, TruthCounts
from pipeline.trust.truth_file import read_class_truth

Method = Literal["auto", "temperature", "stack"]
METHODS: tuple[Method, ...] = ("auto", "temperature", "stack")


def calibrate(
    out: str | os.PathLike[str],
    *,
    truth: str | os.PathLike[str] | None = None,
    save: str | os.PathLike[str] | None = None,
    method: Method = "auto",
    hold_out: float = 0.0,
    s3_endpoint: str | None = None,
    no_sign_request: bool = False,
    request_payer: bool = False,
) -> Calibration:
    """Fit a calibration to the members of an output; ``label(..., calibration=FILE)`` and ``combine`` use it.

    Args:
        out: Directory or ``s3://`` prefix of a job's output; for a temperature, labelled without a calibration.
        truth: As for :func:`pipeline.evaluate`.
        save: File to write it to, local or S3; None writes none.
        method: ``temperature``: one number for the pool as it is. ``stack``: a weight for each member of a geometric
            pool; their probabilities must be stored. ``auto``: the better one on images that it was not fitted on.
        hold_out: Share of the truths to leave for a promise (``export(..., target_precision=...)``), at least 0 and
            below 1. They are chosen by a hash of the images, the same in every run. A temperature needs few truths,
            a promise many.
        s3_endpoint: As for ``label``.
        no_sign_request: As for ``label``.
        request_payer: As for ``label``.

    Raises:
        RequestError: There are too few truths, or the output is of a kind that cannot be calibrated.
    """
    found, _ = calibrate_and_count(
        out,
        truth=truth,
        save=save,
        method=method,
        hold_out=hold_out,
        s3_endpoint=s3_endpoint,
        no_sign_request=no_sign_request,
        request_payer=request_payer,
    )
    return found


def calibrate_and_count(
    out: str | os.PathLike[str],
    *,
    truth: str | os.PathLike[str] | None,
    save: str | os.PathLike[str] | None,
    method: Method,
    hold_out: float,
    s3_endpoint: str | None,
    no_sign_request: bool,
    request_payer: bool,
) -> tuple[Calibration, TruthCounts]:
    """Do the same, and return how much of the truth was used.

    Raises:
        RequestError: As for :func:`calibrate`.
    """
    if method not in METHODS:
        raise RequestError(f"--method: one of {', '.join(METHODS)} is expected, not {method!r}")
    if not 0 <= hold_out < 1:
        raise RequestError(f"--hold-out {hold_out:g}: must be at least 0 and below 1")
    ledger, storage = open_ledger(out, s3_endpoint, no_sign_request=no_sign_request, request_payer=request_payer)
    job = ledger.job()
    own = None if truth is None else classes_of_output(job, None, storage)
    given = None if truth is None else read_class_truth(os.fspath(truth), storage, job["class_names"], own)
    obstacle = temperature_obstacle(ledger.out, job)
    if method == "stack" and not stored_aliases(job):
        source = combined_from(job)
        mend = (
            f"they are in {source}, that it was combined from" if source else "they are stored by `label --keep-probs`"
        )
        raise RequestError(f"{ledger.out}: holds no probabilities; {mend}. --method temperature needs none")
    store = store_words(s3_endpoint, no_sign_request, request_payer)
    advise = functools.partial(_advise, ledger, job, given, hold_out, store)
    use_stack = method == "stack" or (method == "auto" and len(stored_aliases(job)) > 1)
    if use_stack:
        log_probs, fitted_on, counts = read_member_log_probs(ledger, job, given, hold_out)
        calibration = fit_stack_calibration(ledger.out, job, log_probs, fitted_on, counts, advise)
        alone = calibration.temperature_alone
        is_better = alone is None or calibration.after.nll < alone.nll
        use_stack = method == "stack" or is_better or obstacle is not None
    if not use_stack:
        if obstacle is not None:
            raise RequestError(obstacle)
        matched = read_matched_images(ledger, job, given, with_scores=True)
        counts = matched.counts
        matched = matched.take(~held_out_mask(matched.hashes_N, hold_out))
        calibration = fit_temperature_calibration(ledger.out, job, matched, advise)
    if save is not None:
        write_calibration(os.fspath(save), calibration, storage)
    return calibration, counts


def _advise(ledger: Ledger, job: Mapping[str, Any], given: Truth | None, hold_out: float, store: Sequence[str]) -> str:
    return advise_for_fit(ledger, read_matched_images(ledger, job, given), given, hold_out, store)
