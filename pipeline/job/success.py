"""``_SUCCESS``: the exact list of parts of a finished job, with their row counts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.output.ledger import PREDICTIONS, QUARANTINE, SUCCESS, Ledger
from pipeline.output.parts import Progress
from pipeline.records import Unit


def write_success(
    ledger: Ledger,
    fingerprint: str,
    units: Sequence[Unit],
    progress: Mapping[str, Progress],
    counts: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Write ``_SUCCESS``, unless it lists the same parts already.

    Args:
        ledger: Of the output.
        fingerprint: Of the job.
        units: All units of the plan; each is complete.
        progress: Which parts of each are published.
        counts: (predictions, quarantine) rows of parts that are known; others are read from the footers.

    Raises:
        OutputError: OUT cannot be written.
    """
    predictions = [name for unit in units for name in progress[unit.id].names(fingerprint, unit.id)]
    names = {PREDICTIONS: predictions, QUARANTINE: sorted(set(ledger.names(QUARANTINE)) & set(predictions))}
    listed = ledger.read_json(SUCCESS) or {}
    if all(isinstance(listed.get(folder), dict) and set(listed[folder]) == set(own) for folder, own in names.items()):
        return
    content: dict[str, Any] = {"fingerprint": fingerprint, "finished_at": int(time.time()), "units": len(units)}
    for position, (folder, own) in enumerate(names.items()):
        known = {name: counts[name][position] for name in own if name in counts} if counts else {}
        known |= ledger.count_rows(folder, [name for name in own if name not in known])
        content[folder] = {name: known[name] for name in own}
    ledger.write_json(SUCCESS, content, indent=None)
