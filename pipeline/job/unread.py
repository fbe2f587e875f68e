"""Shards of which nothing could be read, or that hold no sample, in a job that has no sample at all.

Damage to a shard is data: it is listed, and what can be read is labelled. A job that could read nothing of anything has
not done what it was asked for, though: it says so, and the next run tries again, perhaps with a version that can.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.errors import OutputError, StorageError
from pipeline.job.summary import FailedUnit
from pipeline.output.ledger import PREDICTIONS, QUARANTINE, SUCCESS, Ledger
from pipeline.output.parts import PartName, unit_of
from pipeline.records import Reason, Unit, UnitKind

_NO_SAMPLE = "it is a sound archive, but holds no sample"


def find_unread(ledger: Ledger, units: Sequence[Unit]) -> dict[str, FailedUnit]:
    """Find the shards that gave nothing, or nothing but damage, by unit.

    There are none while the job is not finished, or has a sample.

    It costs a look at ``_SUCCESS`` where anything was labelled.

    Raises:
        OutputError: OUT cannot be read.
    """
    success = ledger.read_json(SUCCESS) or {}
    labelled, listed = success.get(PREDICTIONS), success.get(QUARANTINE)
    if not isinstance(labelled, dict) or not isinstance(listed, dict) or any(labelled.values()):
        return {}
    uris = {unit.id: unit.uri for unit in units}
    found: dict[str, FailedUnit] = {}
    for unit_id, key, reason, message in _rows(ledger, sorted(listed)):
        if key is not None:
            return {}
        if unit_id in uris:
            found.setdefault(unit_id, FailedUnit(uris[unit_id], reason, message))
    for unit in units:
        if unit.kind == UnitKind.TAR:
            found.setdefault(unit.id, FailedUnit(unit.uri, Reason.EMPTY, _NO_SAMPLE))
    return found


def _rows(ledger: Ledger, names: Sequence[str]) -> Iterator[tuple[str, str | None, str, str]]:
    for name in names:
        if PartName.parse(name) is None:
            continue
        try:
            table = ledger.read_part(QUARANTINE, name, ["key", "reason", "message"])
        except StorageError as error:
            raise OutputError(str(error)) from error
        for row in table.to_pylist():
            yield unit_of(name) or "", row["key"], row["reason"], row["message"]


def retry_unread(ledger: Ledger, units: Sequence[Unit]) -> None:
    """Let go of what a job noted of such shards, so that they are read again.

    Raises:
        OutputError: OUT cannot be read or written.
    """
    unread = find_unread(ledger, units)
    if unread:
        ledger.remove_success()
        ledger.remove_units(set(unread))
