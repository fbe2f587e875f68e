"""Conclude an export: sum up what was done, and declare it finished if it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pipeline.errors import EngineError, OutputError, PublishError, StorageError
from pipeline.exporting.finishing import Totals, finish_export
from pipeline.exporting.source import Source
from pipeline.exporting.summary import ExportSummary, summarize
from pipeline.exporting.target import Target
from pipeline.job.summary import Budget
from pipeline.job.tracking import Tracker


def conclude_export(
    source: Source,
    target: Target,
    plan: Mapping[str, int],
    about: Mapping[str, Any],
    tracker: Tracker,
    budget: Budget,
    *,
    interrupted: bool,
) -> ExportSummary:
    """Sum up an export, and finish it if all parts are done.

    Raises:
        EngineError: A part is neither complete nor failed, although nobody stopped the export.
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
            found = finish_export(source, target, about, found, done)
    except (StorageError, OutputError) as error:
        raise PublishError(f"{error}; what was exported stays, the same command goes on from there") from error
    summary = summarize(source, target, plan, about, tracker, found, len(done))
    summary = dataclasses.replace(
        summary, interrupted=interrupted and not finished, failed_units_exceeded=budget.failed_units_exceeded
    )
    if not (finished or interrupted or budget.exceeded or summary.failures):
        raise EngineError(f"{len(plan) - len(done)} parts came back unfinished; the same command takes them up again")
    return summary
