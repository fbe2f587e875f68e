"""The export job: what is selected, minus what is done, run by an engine, summed up. The whole job on one screen."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import os
from collections.abc import Iterator, Mapping
from typing import Any

import duckdb

from pipeline.config.parse import parse_config
from pipeline.config.settings import fingerprint
from pipeline.engines.workload import Workload
from pipeline.errors import EngineError, OutputError, PublishError, RequestError, StorageError
from pipeline.exporting.exporter import UNITS_AT_ONCE, ExporterConfig, ExportWorker
from pipeline.exporting.finishing import Totals, finish_export
from pipeline.exporting.names import file_stem
from pipeline.exporting.pending import PendingParts
from pipeline.exporting.selection import Selection
from pipeline.exporting.settings import ExportConfig, Format
from pipeline.exporting.source import Source, check_destination, open_source
from pipeline.exporting.summary import ExportSummary, summarize
from pipeline.exporting.target import Target
from pipeline.job.pending import is_progress
from pipeline.job.progress import Reporter, Wording, make_reporter
from pipeline.job.running import make_engine
from pipeline.job.stopping import stop_on_signals
from pipeline.job.summary import Budget
from pipeline.job.tracking import Tracker
from pipeline.records import Receipt
from pipeline.storage import Storage
from pipeline.trust.promise import Promise
from pipeline.trust.truth import Truth
from pipeline.trust.truth_file import read_truth

_WORDING = Wording(doing="exporting", dropped="omitted")


def export(
    out: str | os.PathLike[str],
    to: str | os.PathLike[str],
    format: Format,
    **options: Any,  # noqa: ANN401 - the words of ExportConfig, which checks them
) -> ExportSummary:
    """Make a labelled dataset of an output; the same words as ``shardlabel export``, with underscores.

    Args:
        out: Directory or ``s3://`` prefix of a job's output.
        to: Directory or ``s3://`` prefix of the dataset.
        format: ``webdataset``, ``imagefolder``, ``csv`` or ``parquet``.
        **options: See ``shardlabel export --help``.

    Raises:
        RequestError: The request is wrong, or a promise cannot be made; nothing was written.
        EngineError: The engine failed for good; what was exported stays.
        PublishError: The dataset can no longer be written; what was exported stays.
    """
    options.setdefault("progress", "none")
    return run_export(parse_config(ExportConfig, {"out": out, "to": to, "format": format, **options}))


def run_export(config: ExportConfig, reporter: Reporter | None = None) -> ExportSummary:
    """Run an export, or what is left of it.

    Raises:
        RequestError, EngineError, PublishError: As for :func:`export`.
    """
    storage = Storage(config.storage)
    source = open_source(config.out, storage, partial=config.partial)
    place = check_destination(source, config.to)
    asked = config.choices | {"source": source.digest()}
    truth = None
    if config.truth is not None:
        truth = read_truth(config.truth, storage, source.job["class_names"])
        asked["truth_sha256"] = _truth_digest(truth)
    target = Target(place, storage, fingerprint(asked))
    with contextlib.closing(reporter or make_reporter(config.progress, _WORDING)) as shown:
        is_own = target.check(asked, overwrite=config.overwrite)
        plan = target.read_plan() if is_own else None
        if plan is None:
            shown.note(f"selecting from {source.ledger.out}")
            plan = _select(config, source, target, truth, asked)
        target.sweep(map(file_stem, source.class_names) if config.format == "imagefolder" else ())
        about = target.read_description()
        summary = _run(config, source, target, plan, about, shown)
        shown.finish(summary.to_dict())
    return summary


def _truth_digest(truth: Truth) -> str:
    """Hash of what a truth file says, in whatever format."""
    found = hashlib.sha256(truth.labels_T.tobytes())
    for key in truth.keys.to_pylist():
        found.update(f"{len(key)} {key}".encode())
    return found.hexdigest()


# -- what is to be exported -------------------------------------------------------------------------------


def _select(
    config: ExportConfig, source: Source, target: Target, truth: Truth | None, asked: Mapping[str, Any]
) -> dict[str, int]:
    """Decide about every image; only then is anything written.

    Raises:
        RequestError: Nothing is selected, or a promise cannot be made.
    """
    promise: Promise | None = None
    with _selection(config, source, truth) as selection:
        selection.read()
        if config.target_precision is not None:
            promise = _promise(config, selection, truth)
        classes = selection.choose()
        if not classes:
            raise RequestError(
                f"{source.ledger.out}: none of {selection.labelled:,} images passes: {_reasons(selection.rejected)}"
            )
        names = source.class_names
        content = _about(config, source, target, asked, promise) | {
            "truth": None if truth is None else dataclasses.asdict(selection.truth_counts),
            "selection": {
                "labelled": selection.labelled,
                "rejected": dict(selection.rejected),
                "selected": sum(row.images for row in classes),
                "num_classes": len(names),
                "classes": [{"name": names[row.label]} | dataclasses.asdict(row) for row in classes],
            },
        }
        target.claim(content, overwrite=config.overwrite)
        return target.write_plan((part.name, part.rows) for part in selection.parts())


@contextlib.contextmanager
def _selection(config: ExportConfig, source: Source, truth: Truth | None) -> Iterator[Selection]:
    """A selection whose errors are those of the request.

    Raises:
        OutputError: The output cannot be read, or there is no room to sort it in.
    """
    try:
        with Selection(config, source, truth) as selection:
            yield selection
    except StorageError as error:
        raise OutputError(f"{error}; `shardlabel verify` says what to do about it") from error
    except duckdb.Error as error:
        raise OutputError(f"nothing could be selected (is there room in TMPDIR?): {error}") from error


def _promise(config: ExportConfig, selection: Selection, truth: Truth | None) -> Promise:
    assert config.target_precision is not None
    promise = selection.promise(config.target_precision, config.delta)
    if promise.threshold is None:
        complaints = "".join(f"; {line}" for line in selection.truth_counts.complaints) if truth is not None else ""
        raise RequestError(
            f"a precision of {config.target_precision:g} cannot be promised at delta {config.delta:g} with "
            f"{promise.num_truths:,} truths: at least {promise.missing:,} more are needed, drawn at random from what "
            f"the other filters leave; nothing was exported{complaints}"
        )
    return promise


def _reasons(rejected: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in rejected.items() if count) or "there are none"


def _about(
    config: ExportConfig, source: Source, target: Target, asked: Mapping[str, Any], promise: Promise | None
) -> dict[str, Any]:
    """Everything that ``export.json`` says of where the dataset comes from."""
    results = source.job["results"]
    known = ("alias", "arch", "weights", "factor", "weights_sha256", "num_classes")
    return {
        "shardlabel": importlib.metadata.version("shardlabel"),
        "fingerprint": target.fingerprint,
        "asked": dict(asked),
        "source": {
            "out": source.ledger.out,
            "fingerprint": source.fingerprint,
            "members": [{name: member[name] for name in known if name in member} for member in results["members"]],
            "combine": results["combine"],
            "calibrated": bool(source.job.get("calibrated")),
            "temperature": (results.get("calibration") or {}).get("temperature"),
            "complete": source.complete,
            "inputs": source.job.get("inputs", []),
        },
        "promise": None if promise is None else dataclasses.asdict(promise),
    }


# -- doing it ---------------------------------------------------------------------------------------------


def _run(
    config: ExportConfig,
    source: Source,
    target: Target,
    plan: Mapping[str, int],
    about: Mapping[str, Any],
    reporter: Reporter,
) -> ExportSummary:
    agenda = PendingParts(source, target, plan, target.committed_parts())
    tracker = Tracker({left.unit.id: (left.unit, left.images) for left in agenda.pending})
    budget = Budget(1.0, "auto", len(agenda.pending))
    by_signal = False
    if agenda.pending:
        if agenda.num_done:
            reporter.note(f"resuming: {agenda.num_done} of {len(plan)} parts are done")
        target.remove_success()
        reporter.update(tracker.snapshot())
        with contextlib.closing(make_engine(config)) as engine:
            engine.start()
            with stop_on_signals(reporter) as stop:
                for item in engine.run(_workload(config, source, target, agenda), stop.event):
                    if item is not None:
                        tracker.take(Receipt.from_dict(item))
                    reporter.update(tracker.snapshot())
                    if budget.exceeded_by(tracker) or tracker.unwritable:
                        stop.event.set()
            by_signal = stop.by_signal
    if tracker.unwritable:
        raise PublishError(f"{tracker.unwritable}; what was exported stays, the same command goes on from there")
    return _conclude(source, target, plan, about, tracker, budget, interrupted=by_signal)


def _workload(config: ExportConfig, source: Source, target: Target, agenda: PendingParts) -> Workload:
    settings = ExporterConfig(
        out=source.ledger.out,
        job_fingerprint=source.fingerprint,
        to=target.ledger.out,
        export_fingerprint=target.fingerprint,
        format=config.format,
        aliases=source.aliases,
        class_names=source.class_names,
        storage=config.storage,
    )
    return Workload(
        factory=functools.partial(ExportWorker, settings),
        blobs={},
        items=agenda,
        items_at_once=UNITS_AT_ONCE,
        on_gpu=False,
        num_workers=None if config.workers == "auto" else config.workers,
        num_threads=None,
        is_progress=is_progress,
    )


# -- after it ---------------------------------------------------------------------------------------------


def _conclude(
    source: Source,
    target: Target,
    plan: Mapping[str, int],
    about: Mapping[str, Any],
    tracker: Tracker,
    budget: Budget,
    *,
    interrupted: bool,
) -> ExportSummary:
    """Sum up, and declare the export finished if it is.

    Raises:
        EngineError: A unit came back neither complete nor failed, and nobody had asked for a stop.
        PublishError: The dataset can no longer be read or written.
    """
    try:
        target.check_owner()
        committed = target.committed_parts()
        done = [name for name in plan if name in committed]
        finished = len(done) == len(plan)
        success = target.read_success() if finished else None
        found = Totals.from_commits(target.read_commits(done)) if success is None else Totals.from_success(success)
        if finished and success is None:
            finish_export(source, target, about, found, done)
    except (StorageError, OutputError) as error:
        raise PublishError(f"{error}; what was exported stays, the same command goes on from there") from error
    summary = summarize(source, target, plan, about, tracker, found, len(done))
    summary = dataclasses.replace(
        summary, interrupted=interrupted and not finished, failed_units_exceeded=budget.failed_units_exceeded
    )
    if not (finished or interrupted or budget.exceeded or summary.failures):
        raise EngineError(f"{len(plan) - len(done)} parts came back unfinished; the same command takes them up again")
    return summary
