"""Report: write one self-contained HTML page about an output."""

from __future__ import annotations

import os
from dataclasses import dataclass

from pipeline.output.opening import open_ledger
from pipeline.page.content import collect_content
from pipeline.page.render import render_page
from pipeline.page.saving import save_page
from pipeline.text.result import Result
from pipeline.trust.truth_file import read_truth

REPORT = "report.html"


@dataclass(frozen=True, slots=True, repr=False)
class Report(Result):
    """A report that was written.

    Attributes:
        out: The output that it is about.
        saved: Path or URI of the page.
        num_bytes: Size of the page.
        images: Number of labelled images.
        quarantined: Number of samples that could not be labelled.
        matched: Number of images whose truth is known.
        pictures: Number of thumbnails in it.
        note: Why requested thumbnails are missing; empty if none is.
    """

    out: str
    saved: str
    num_bytes: int
    images: int
    quarantined: int
    matched: int
    pictures: int
    note: str


def report(
    out: str | os.PathLike[str],
    *,
    truth: str | os.PathLike[str] | None = None,
    save: str | os.PathLike[str] | None = None,
    images: bool = True,
    s3_endpoint: str | None = None,
    no_sign_request: bool = False,
    request_payer: bool = False,
) -> Report:
    """Write one self-contained HTML page about an output; a job need not be finished.

    Args:
        out: Directory or ``s3://`` prefix of a job's output.
        truth: As for :func:`pipeline.evaluate`.
        save: File to write, local or S3; None for ``report.html`` in ``out``.
        images: Whether to show thumbnails; for them a few originals are read again from the inputs.
        s3_endpoint: As for ``label``.
        no_sign_request: As for ``label``.
        request_payer: As for ``label``.

    Raises:
        OutputError: It is not the output of a job, or cannot be read; or the page cannot be written there.
        InputError: The truth file is missing, or is not valid.
        RequestError: The page cannot be written to ``save``.
    """
    ledger, storage = open_ledger(out, s3_endpoint, no_sign_request=no_sign_request, request_payer=request_payer)
    job = ledger.job()
    given = None if truth is None else read_truth(os.fspath(truth), storage, job["class_names"])
    content = collect_content(ledger, storage, job, given, images=images)
    page = render_page(content)
    saved = save_page(ledger, storage, page, save, REPORT)
    return Report(
        out=ledger.out,
        saved=saved,
        num_bytes=len(page),
        images=content.stats.images,
        quarantined=sum(content.quarantine.samples.values()),
        matched=content.evaluation.images if content.evaluation else 0,
        pictures=len(content.pictures),
        note=content.picture_note if images else "",
    )
