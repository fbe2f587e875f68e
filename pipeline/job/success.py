"""``_SUCCESS``: the exact list of parts of a finished job, with their row counts."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from pipeline.output.ledger import PREDICTIONS, QUARANTINE, SUCCESS, Ledger
from pipeline.output.parts import Progress
from pipeline.records import Omitted, Receipt, Unit

_OMITTED = {item.name for item in fields(Omitted)}


def write_success(
    ledger: Ledger,
    fingerprint: str,
    units: Sequence[Unit],
    progress: Mapping[str, Progress],
    receipts: Iterable[Receipt] = (),
) -> Omitted | None:
    """Write ``_SUCCESS``, unless it lists the same parts already.

    Args:
        ledger: Of the output.
        fingerprint: Of the job.
        units: All units of the plan; each is complete.
        progress: Which parts of each are published.
        receipts: Of the run; what they do not tell of parts is read from the footers.

    Returns:
        What of all inputs has no row, as far as ``_SUCCESS`` tells.

    Raises:
        OutputError: OUT cannot be written.
    """
    predictions = [name for unit in units for name in progress[unit.id].names(fingerprint, unit.id)]
    names = {PREDICTIONS: predictions, QUARANTINE: sorted(set(ledger.names(QUARANTINE)) & set(predictions))}
    content = ledger.read_json(SUCCESS) or {}
    if not all(
        isinstance(content.get(folder), dict) and set(content[folder]) == set(own) for folder, own in names.items()
    ):
        content = {"fingerprint": fingerprint, "finished_at": int(time.time()), "units": len(units)}
        content |= _count(ledger, names, list(receipts))
        ledger.write_json(SUCCESS, content, indent=None)
    omitted = content.get("omitted", {})
    return Omitted.from_dict(omitted) if isinstance(omitted, dict) and omitted.keys() <= _OMITTED else None


def _count(ledger: Ledger, names: Mapping[str, Sequence[str]], receipts: Sequence[Receipt]) -> dict[str, Any]:
    """Rows by folder and part, and what has no row; what was not seen in this run is read from the footers."""
    seen = {name: counts for receipt in receipts for name, counts in receipt.parts.items()}
    omitted = Omitted()
    for receipt in receipts:
        omitted.add(receipt.omitted)
    found: dict[str, Any] = {}
    for position, (folder, own) in enumerate(names.items()):
        known = {name: seen[name][position] for name in own if name in seen}
        for name, footer in ledger.footers(folder, [name for name in own if name not in known]).items():
            known[name] = footer.num_rows
            if folder == PREDICTIONS:
                omitted.add(footer.omitted)
        found[folder] = {name: known[name] for name in own}
    if omitted:
        found["omitted"] = omitted.to_dict()
    return found
