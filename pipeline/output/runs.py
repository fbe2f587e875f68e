"""The rate of a job, from the runs that ``job.json`` lists; from the times of files only while a run is under way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.storage import Entry

# in job.json: each with run, started_at, of a command line its words, and once it has ended: ended_at, images, seconds
RUNS = "runs"
_SAME_MOMENT_S = 60.0  # between the clocks of a machine and of a store


def known_rate(
    job: Mapping[str, Any], job_entry: Entry | None, parts: Sequence[tuple[Entry, int]]
) -> tuple[float | None, bool]:
    """Samples per second, where that is known.

    A run that has ended has left its numbers. While one is under way, the times of its parts tell, provided that
    ``job.json`` is of the time that it holds: a copy is not.

    Args:
        job: ``job.json``.
        job_entry: Its version; None where it is not known.
        parts: Each part of the predictions, with the number of its samples.

    Returns:
        The rate, None where it is not known; and whether it is that of a run that has not ended.
    """
    runs = [run for run in job.get(RUNS, ()) if isinstance(run, Mapping) and _number(run, "started_at") is not None]
    if runs and "ended_at" not in runs[-1] and job_entry is not None:
        started_at = float(runs[-1]["started_at"])
        own = sorted((entry.modified_s, count) for entry, count in parts if entry.modified_s >= started_at)
        if abs(job_entry.modified_s - started_at) < _SAME_MOMENT_S and len(own) > 1 and own[-1][0] > own[0][0]:
            return sum(count for _, count in own[1:]) / (own[-1][0] - own[0][0]), True
    for run in reversed(runs):
        images, seconds = _number(run, "images"), _number(run, "seconds")
        if images and seconds:
            return images / seconds, False
    return None, False


def _number(run: Mapping[str, Any], name: str) -> float | None:
    value = run.get(name)
    return float(value) if isinstance(value, int | float) and value > 0 else None


def last_command(job: Mapping[str, Any]) -> tuple[str, ...]:
    """The words of the command that ran last, as they were typed, without ``shardlabel``; empty where none is known."""
    words = next((run.get("command") for run in reversed(job.get(RUNS, ())) if isinstance(run, Mapping)), None)
    return tuple(words) if isinstance(words, list) and all(isinstance(word, str) for word in words) else ()
