"""Collect everything that a report shows."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.inputs.originals import Wanted, fetch_originals
from pipeline.inputs.units import read_units
from pipeline.output.ledger import PREDICTIONS, SUCCESS, Ledger
from pipeline.page.group_truths import GroupTruths, count_group_truths
from pipeline.page.render import ReportContent
from pipeline.page.row_choice import RowRef
from pipeline.page.rows import LabelledImage, QuarantineSummary, read_labelled, read_quarantine
from pipeline.page.statistics import Statistics, collect_statistics
from pipeline.page.thumbnails import Thumbnail, describe_missing, thumbnail
from pipeline.page.timeline import read_timeline
from pipeline.records import Omitted, Reason, Stage
from pipeline.storage import Storage
from pipeline.taxonomy.nodes import carry_groups, carry_label, nodes_of
from pipeline.taxonomy.stored import stored_classes
from pipeline.taxonomy.tree import Taxonomy
from pipeline.trust.evaluation import Evaluation, compute_evaluation
from pipeline.trust.group_reader import GroupReader
from pipeline.trust.matched import MatchedImages, read_matched_images
from pipeline.trust.truth import Truth


def collect_content(
    ledger: Ledger,
    storage: Storage,
    job: Mapping[str, Any],
    given: Truth | None,
    taxonomy: Taxonomy | None = None,
    *,
    images: bool,
) -> ReportContent:
    """Collect the content of a report.

    Args:
        ledger: The output.
        storage: How to reach it and its inputs.
        job: Its ``job.json``.
        given: Truth of a file; None for the samples' own.
        taxonomy: Own classes; None without any.
        images: Whether to read originals for thumbnails.
    """
    groups = None if taxonomy is None else GroupReader(ledger, job, storage, taxonomy)
    stats = collect_statistics(ledger, job, groups)
    quarantine = read_quarantine(ledger, job, stats.parts)
    carried = carry_groups(stored_classes(job), taxonomy)
    rows = _replace_truth(read_labelled(ledger, stats.row_refs), given, len(job["class_names"]), carried)
    evaluation, matched = _evaluate(ledger, job, given, stats, groups, carried)
    pictures, note = _read_thumbnails(ledger, storage, rows, quarantine) if images else ({}, "Made without pictures.")
    units = {unit.id for unit in read_units(ledger, storage, str(job["fingerprint"]))}
    progress = ledger.progress(str(job["fingerprint"]))
    omitted = Omitted()
    for footer in ledger.footers(PREDICTIONS, stats.parts).values():
        omitted.add(footer.omitted)
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
        omitted=omitted,
        timeline=read_timeline(ledger, samples),
        evaluation=evaluation,
        matched=matched,
        truth_notes=_truth_notes(evaluation),
        group_truths=_count_group_truths(taxonomy, matched),
        nodes=None if taxonomy is None else nodes_of(taxonomy),
        pictures=pictures,
        picture_note=note,
    )


def _replace_truth(
    rows: dict[RowRef, LabelledImage], given: Truth | None, num_classes: int, carried: Sequence[int]
) -> dict[RowRef, LabelledImage]:
    """Replace the truth of rows by that of a file, if there is one; else groups of the job by those of the page."""
    if not rows:
        return rows
    if given is None:
        return {
            row_ref: dataclasses.replace(row, truth=carry_label(row.truth, num_classes, carried))
            for row_ref, row in rows.items()
        }
    truths = given.labels_of(
        *(pa.chunked_array([[getattr(row, name) for row in rows.values()]]) for name in ("shard", "key"))
    )
    return {
        row_ref: dataclasses.replace(row, truth=own) for (row_ref, row), own in zip(rows.items(), truths, strict=True)
    }


def _evaluate(
    ledger: Ledger,
    job: Mapping[str, Any],
    given: Truth | None,
    stats: Statistics,
    groups: GroupReader | None,
    carried: Sequence[int],
) -> tuple[Evaluation | None, MatchedImages | None]:
    """Evaluate the labels, if some truth is known; this reads the predictions a second time."""
    if given is None and not stats.truths and not stats.truths_not_understood.count:
        return None, None
    matched = read_matched_images(ledger, job, given, groups=groups, carried_groups=carried)
    return compute_evaluation(ledger.out, job, matched, groups), matched


def _truth_notes(evaluation: Evaluation | None) -> tuple[str, ...]:
    """What is to be known of the truths. Where groups come from stands in the section about them."""
    if evaluation is None:
        return ()
    return (*evaluation.truth.complaints, *dataclasses.replace(evaluation, groups_from="").caveats)


def _count_group_truths(taxonomy: Taxonomy | None, matched: MatchedImages | None) -> GroupTruths | None:
    return None if taxonomy is None or matched is None else count_group_truths(taxonomy, matched)


def _read_thumbnails(
    ledger: Ledger, storage: Storage, rows: Mapping[RowRef, LabelledImage], quarantine: QuarantineSummary
) -> tuple[dict[tuple[str, int], Thumbnail], str]:
    """Make thumbnails, by unit and index; and say why some of the labelled images have none.

    From quarantine only truncated images and those that failed after decoding are shown, which are safe to decode.
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
    return pictures, describe_missing(problems, len(labelled))
