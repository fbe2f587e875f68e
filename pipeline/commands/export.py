"""Export: select images, write those that are not done with an engine, and sum up."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping
from typing import Any, Unpack

from pipeline.config.call_options import ExportOptions
from pipeline.config.parse import parse_config
from pipeline.config.settings import fingerprint
from pipeline.config.signatures import takes_options
from pipeline.engines.workload import Workload
from pipeline.errors import PublishError
from pipeline.exporting.conclusion import conclude_export
from pipeline.exporting.export_plan import hash_truth, plan_export
from pipeline.exporting.exporter import UNITS_AT_ONCE, ExporterConfig, ExportWorker
from pipeline.exporting.names import class_folders
from pipeline.exporting.naming import choose_naming, naming_choices, with_own_labels
from pipeline.exporting.pending import PendingParts
from pipeline.exporting.settings import ExportConfig, Format
from pipeline.exporting.source import Source, check_destination, open_source
from pipeline.exporting.summary import ExportSummary
from pipeline.exporting.target import Target
from pipeline.job.engine import make_engine, settle_engine
from pipeline.job.pending import is_progress
from pipeline.job.progress import Reporter, Wording, default_progress, make_reporter
from pipeline.job.stopping import stop_on_signals
from pipeline.job.summary import Budget
from pipeline.job.tracking import Tracker
from pipeline.records import Receipt
from pipeline.storage import Storage
from pipeline.text import fmt
from pipeline.trust.draw import refuse_reviewed
from pipeline.trust.truth_file import read_truth

_WORDING = Wording(doing="exporting", dropped="omitted")


@takes_options(ExportOptions, ExportConfig, progress="none")
def export(
    out: str | os.PathLike[str],
    to: str | os.PathLike[str],
    format: Format,
    **options: Unpack[ExportOptions],
) -> ExportSummary:
    """Make a labelled dataset of an output; options are those of ``shardlabel export``, with underscores.

    Args:
        out: Directory or ``s3://`` prefix of a job's output.
        to: Directory or ``s3://`` prefix of the dataset.
        format: ``webdataset``, ``imagefolder``, ``csv`` or ``parquet``.
        **options: See ``shardlabel export --help``.

    Raises:
        RequestError: The request is wrong, or a precision cannot be promised; nothing was written.
        EngineError: The engine failed for good; what was exported stays.
        PublishError: The dataset can no longer be written; what was exported stays.
    """
    options.setdefault("progress", default_progress())
    return run_export(parse_config(ExportConfig, {"out": out, "to": to, "format": format, **options}, called=True))


def run_export(config: ExportConfig, reporter: Reporter | None = None) -> ExportSummary:
    """Run an export, for the parts that are not done yet.

    Raises:
        RequestError, EngineError, PublishError: As for :func:`export`.
    """
    storage = Storage(config.storage)
    source = open_source(config.out, storage, partial=config.partial)
    place = check_destination(source, config.to)
    naming = choose_naming(config, source, storage)
    source = with_own_labels(source, naming)
    choices = config.choices | {"source": source.digest(), **naming_choices(naming)}
    truth = None
    if config.truth is not None:
        truth = read_truth(config.truth, storage, source.job["class_names"], naming.truth_classes)
        refuse_reviewed(config.truth, truth.drawn, config.out)
        choices["truth_sha256"] = hash_truth(truth)
    target = Target(place, storage, fingerprint(choices))
    with contextlib.closing(reporter or make_reporter(config.progress, _WORDING)) as shown:
        is_own = target.check(choices, overwrite=config.overwrite)
        plan = target.read_plan() if is_own else None
        if plan is None:
            shown.note(f"selecting from {source.ledger.out}")
            plan = plan_export(config, source, target, truth, choices, naming)
        target.sweep(class_folders(source.labels.names) if config.format == "imagefolder" else ())
        about = target.read_description()
        summary = _run(config, source, target, plan, about, shown)
        shown.finish(summary.to_dict())
    return summary


def _run(
    config: ExportConfig,
    source: Source,
    target: Target,
    plan: Mapping[str, int],
    about: Mapping[str, Any],
    reporter: Reporter,
) -> ExportSummary:
    pending_parts = PendingParts(source, target, plan, target.committed_parts())
    tracker = Tracker({left.unit.id: (left.unit, left.images) for left in pending_parts.pending})
    budget = Budget(1.0, "auto", len(pending_parts.pending))
    by_signal = False
    if pending_parts.pending:
        if pending_parts.num_done:
            reporter.note(f"resuming: {pending_parts.num_done} of {fmt.plural(len(plan), 'part is', 'parts are')} done")
        target.remove_success()
        reporter.update(tracker.snapshot())
        config = settle_engine(config, reporter.note)
        with contextlib.closing(make_engine(config, reporter.note)) as engine:
            engine.start()
            with stop_on_signals(reporter) as stop:
                for item in engine.run(_workload(config, source, target, pending_parts), stop.event):
                    if item is not None:
                        tracker.take(Receipt.from_dict(item))
                    reporter.update(tracker.snapshot())
                    if budget.exceeded_by(tracker) or tracker.unwritable:
                        stop.event.set()
            by_signal = stop.by_signal
    if tracker.unwritable:
        raise PublishError(f"{tracker.unwritable}; what was exported stays, the same command goes on from there")
    return conclude_export(source, target, plan, about, tracker, budget, interrupted=by_signal)


def _workload(config: ExportConfig, source: Source, target: Target, pending_parts: PendingParts) -> Workload:
    settings = ExporterConfig(
        out=source.ledger.out,
        job_fingerprint=source.fingerprint,
        to=target.ledger.out,
        export_fingerprint=target.fingerprint,
        format=config.format,
        aliases=source.aliases,
        labels=source.labels,
        images=source.job["results"].get("images", "auto"),
        storage=config.storage,
    )
    return Workload(
        factory=functools.partial(ExportWorker, settings),
        blobs={},
        items=pending_parts,
        items_at_once=UNITS_AT_ONCE,
        on_gpu=False,
        num_workers=None if config.workers == "auto" else config.workers,
        num_threads=None,
        is_progress=is_progress,
    )
