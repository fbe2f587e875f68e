"""When runs of a job began and ended, in ``job.json``: what rates are computed from.

Times of files say nothing once an output was copied. A run that was killed leaves its beginning only.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from typing import Any

from pipeline.errors import OutputError, StorageError
from pipeline.job.summary import LabelSummary
from pipeline.output.ledger import JOB, Ledger, to_json
from pipeline.output.runs import RUNS
from pipeline.text.commands import words_under_way

_MOST_KEPT = 20
_MAX_TRIES = 20


def with_new_run(content: dict[str, Any], owner: Mapping[str, Any] | None, run: str) -> dict[str, Any]:
    """Add a run that begins now to what ``job.json`` is to hold.

    Args:
        content: What it is to hold.
        owner: What it holds now, if it is of the same job.
        run: Name of the run.
    """
    begun: dict[str, Any] = {"run": run, "started_at": round(time.time(), 3)}
    if words := words_under_way():
        begun["command"] = list(words)
    return {**content, RUNS: [*_runs_of(owner or {}), begun][-_MOST_KEPT:]}


def note_end(ledger: Ledger, fingerprint: str, run: str, summary: LabelSummary) -> None:
    """Note how much a run has done, and in what time. A run that did nothing is forgotten.

    Where that cannot be written, or another job has taken OUT over, the rate stays unknown.
    """
    with contextlib.suppress(OutputError, StorageError):
        for _ in range(_MAX_TRIES):
            version, content = ledger.version(JOB), ledger.job()
            if content["fingerprint"] != fingerprint or version is None:
                return
            runs = [found for found in _runs_of(content) if found.get("run") != run]
            own = [found for found in _runs_of(content) if found.get("run") == run]
            if summary.images:
                done = {"ended_at": round(time.time(), 3), "images": summary.images}
                if content["results"]["decode"] == "gpu":  # which it may not have been, where nvJPEG is not trusted
                    done["decoded_on_gpu"] = summary.decoded_on_gpu
                runs += [found | done | {"seconds": round(summary.seconds, 3)} for found in own]
            if ledger.write_if_unchanged(JOB, to_json({**content, RUNS: runs}), version):
                return


def _runs_of(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = content.get(RUNS, [])
    return json.loads(json.dumps(found)) if isinstance(found, list) and all(isinstance(x, dict) for x in found) else []
