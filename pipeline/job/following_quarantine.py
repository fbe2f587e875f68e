"""What the source of a combined output has labelled since: its quarantine tells.

A unit keeps its id where an image could not be read and now can be, or where ``label --retry`` has labelled what was in
quarantine. Then the combined output holds rows of quarantine that the source has no longer, and the unit is combined
again.
"""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

from pipeline.errors import StorageError
from pipeline.inputs.plan import Plan
from pipeline.output.ledger import QUARANTINE, Ledger
from pipeline.output.parts import PartName, Progress

_PARALLEL_READS = 32

Row = tuple[str | None, int | None, str]  # key, index and reason; without key and index for damage to the shard


def follow_quarantine(plan: Plan, ledger: Ledger, fingerprint: str, source: Ledger, source_fingerprint: str) -> None:
    """Have units combined again of which the source no longer has in quarantine what is there in the output.

    Args:
        plan: Of the combined output, which follows that of its source already.
        ledger: Of the combined output.
        fingerprint: Of its job.
        source: The output that it was combined from.
        source_fingerprint: Of that output's job.

    Raises:
        OutputError: An output cannot be listed.
    """
    own, _ = _rows_by_unit(ledger, fingerprint, {unit.id for unit in plan.units})
    if not own:
        return
    theirs, damaged = _rows_by_unit(source, source_fingerprint, own.keys())
    progress = source.progress(source_fingerprint)
    plan.replaced |= {
        unit_id
        for unit_id in own.keys() - damaged
        if progress.get(unit_id, Progress()).complete and not own[unit_id] <= theirs.get(unit_id, set())
    }


def _rows_by_unit(
    ledger: Ledger, fingerprint: str, unit_ids: Collection[str]
) -> tuple[dict[str, set[Row]], frozenset[str]]:
    """The rows in quarantine of some units, by their id; and units of which a file is damaged."""
    named = (part for part in map(PartName.parse, ledger.names(QUARANTINE)) if part is not None)
    parts = [part for part in named if part.fingerprint == fingerprint[:8] and part.unit_id in unit_ids]

    def read(part: PartName) -> list[Row] | None:
        try:
            table = ledger.read_part(QUARANTINE, str(part), ["key", "index", "reason"])
        except StorageError:
            return None  # which `verify` reports
        return list(zip(*(table[name].to_pylist() for name in ("key", "index", "reason")), strict=True))

    found: dict[str, set[Row]] = {}
    damaged: set[str] = set()
    with ThreadPoolExecutor(_PARALLEL_READS) as pool:
        for part, rows in zip(parts, pool.map(read, parts), strict=True):
            if rows is None:
                damaged.add(part.unit_id)
            else:
                found.setdefault(part.unit_id, set()).update(rows)
    return found, frozenset(damaged)
