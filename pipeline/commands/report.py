"""Report: one HTML page about an output, with everything that it shows inside of it."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.errors import OutputError, RequestError, StorageError
from pipeline.inputs.originals import Wanted, fetch_originals
from pipeline.inputs.units import read_units
from pipeline.output.ledger import SUCCESS, Ledger, open_ledger
from pipeline.page.render import ReportContent, render_page
from pipeline.page.row_choice import RowRef
from pipeline.page.rows import LabelledImage, QuarantineSummary, read_labelled, read_quarantine
from pipeline.page.statistics import Statistics, collect_statistics
from pipeline.page.thumbnails import Thumbnail, thumbnail
from pipeline.page.timeline import read_timeline
from pipeline.records import Reason, Stage
from pipeline.storage import Storage, absolute_uri
from pipeline.trust.evaluation import Evaluation, compute_evaluation
from pipeline.trust.matched import MatchedImages, read_matched_images
from pipeline.trust.truth import Truth
from pipeline.trust.truth_file import read_truth

REPORT = "report.html"


@dataclass(frozen=True, slots=True)
class Report:
    """A page that was written.

    Attributes:
        out: The output that it is about.
        saved: Where it is.
        num_bytes: Its size.
        images: Labelled images.
        quarantined: Samples that could not be labelled.
        matched: Images whose truth is known.
        pictures: Thumbnails in it.
        note: Why pictures are missing that were asked for; empty where none is.
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
) -> Report:
    """Write one self-contained HTML page about an output; a job need not be finished.

    Args:
        out: Directory or ``s3://`` prefix of a job's output.
        truth: As for :func:`pipeline.evaluate`.
        save: File to write, local or S3; None for ``report.html`` in ``out``.
        images: Whether thumbnails are shown, for which a few originals are read again from the inputs.
        s3_endpoint: As for ``label``.
        no_sign_request: As for ``label``.

    Raises:
        OutputError: It is not the output of a job, or cannot be read; or the page cannot be written there.
        InputError: The truth file is missing, or is none.
        RequestError: The page cannot be written to ``save``.
    """
    ledger, storage = open_ledger(out, s3_endpoint, no_sign_request=no_sign_request)
    job = ledger.job()
    given = None if truth is None else read_truth(os.fspath(truth), storage, job["class_names"])
    content = _find(ledger, storage, job, given, images=images)
    page = render_page(content)
    saved = _save(ledger, storage, page, save)
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


def _find(
    ledger: Ledger, storage: Storage, job: Mapping[str, Any], given: Truth | None, *, images: bool
) -> ReportContent:
    """Everything that the page tells."""
    stats = collect_statistics(ledger, job)
    quarantine = read_quarantine(ledger, job, stats.parts)
    rows = _told(read_labelled(ledger, stats.row_refs), given)
    evaluation, matched = _judge(ledger, job, given, stats)
    pictures, note = _pictures(ledger, storage, rows, quarantine) if images else ({}, "Made without pictures.")
    units = {unit.id for unit in read_units(ledger, storage, str(job["fingerprint"]))}
    progress = ledger.progress(str(job["fingerprint"]))
    samples = {name: many + quarantine.per_part.get(name, 0) for name, many in stats.parts.items()}
    return ReportContent(
        out=ledger.out,
        job=job,
        units_done=sum(own.complete for unit_id, own in progress.items() if unit_id in units),
        units_total=len(units),
        finished=ledger.read_json(SUCCESS) is not None,
        stats=stats,
        rows=rows,
        quarantine=quarantine,
        timeline=read_timeline(ledger, samples),
        evaluation=evaluation,
        matched=matched,
        truth_notes=evaluation.truth.complaints if evaluation else (),
        pictures=pictures,
        picture_note=note,
    )


def _told(rows: dict[RowRef, LabelledImage], given: Truth | None) -> dict[RowRef, LabelledImage]:
    """Rows with the truth of a file, where there is one, in place of their own."""
    if given is None or not rows:
        return rows
    found = given.find(
        *(pa.chunked_array([[getattr(row, name) for row in rows.values()]]) for name in ("shard", "key"))
    )
    truths = [int(given.labels_T[at]) if at >= 0 else None for at in found.tolist()]
    return {
        row_ref: dataclasses.replace(row, truth=own) for (row_ref, row), own in zip(rows.items(), truths, strict=True)
    }


def _judge(
    ledger: Ledger, job: Mapping[str, Any], given: Truth | None, stats: Statistics
) -> tuple[Evaluation | None, MatchedImages | None]:
    """What is right; the predictions are gone through a second time only where some truth is known."""
    if given is None and not stats.truths:
        return None, None
    matched = read_matched_images(ledger, job, given)
    return compute_evaluation(ledger.out, job, matched), matched


def _pictures(
    ledger: Ledger, storage: Storage, rows: Mapping[RowRef, LabelledImage], quarantine: QuarantineSummary
) -> tuple[dict[tuple[str, int], Thumbnail], str]:
    """Thumbnails by unit and index, and why some of the labelled images have none.

    Of what is in quarantine only images are read that something may be seen of without harm.
    """
    labelled = {Wanted(row.unit_id, row.part, row.index, row.key, row.sha256) for row in rows.values()}
    rejected = {
        Wanted(row.unit_id, row.part, row.index, row.key, row.sha256)
        for examples in quarantine.examples.values()
        for row in examples
        if row.sha256 and row.part >= 0 and (row.reason == Reason.TRUNCATED_IMAGE or row.stage == Stage.CLASSIFY)
    }
    pictures: dict[tuple[str, int], Thumbnail] = {}
    problems: Counter[str] = Counter()
    for original in fetch_originals(labelled | rejected, ledger, storage):
        wanted = original.wanted
        small = None if original.image is None else thumbnail(original.image)
        if small is not None:
            pictures[wanted.unit_id, wanted.index] = small
        elif wanted in labelled:
            problems[original.problem or "cannot be decoded"] += 1
    if not problems:
        return pictures, ""
    often, many = problems.most_common(1)[0]
    said = f"{sum(problems.values()):,} of {len(labelled):,} originals cannot be shown"
    return pictures, f"{said}: {often}{f' ({many:,} times)' * (len(problems) > 1)}."


def _save(ledger: Ledger, storage: Storage, page: bytes, save: str | os.PathLike[str] | None) -> str:
    if save is None:
        try:
            storage.replace(uri := ledger.uri(REPORT), page)
        except StorageError as error:
            raise OutputError(f"OUT cannot be written: {error}; --save FILE puts the page elsewhere") from error
        return uri
    try:
        storage.replace(uri := absolute_uri(os.fspath(save)), page)
    except StorageError as error:
        raise RequestError(f"--save {error}") from error
    return uri
