"""``--retry``: samples that earlier runs quarantined for some reasons are tried again.

What is tried is what lies in quarantine. So that a run that is killed leaves no part half patched, the reasons stand in
``plan/retry.json`` until all is done, and every later run goes on with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pipeline.errors import StorageError
from pipeline.output.ledger import QUARANTINE, RETRY, Ledger
from pipeline.output.parts import PartName, Progress
from pipeline.records import Unit
from pipeline.text import fmt

_PARALLEL_READS = 32


@dataclass(frozen=True, slots=True)
class ToRetry:
    """What is tried again.

    Attributes:
        reasons: Why it was quarantined.
        samples: Indices of samples by part, by the id of their unit.
        damaged: Units that hold damage of such a reason, which belongs to no sample: they are labelled again in full.
    """

    reasons: tuple[str, ...] = ()
    samples: Mapping[str, Mapping[str, Sequence[int]]] = field(default_factory=dict)
    damaged: frozenset[str] = frozenset()

    def note(self) -> str:
        """What is tried again, in one line."""
        count = sum(len(indices) for parts in self.samples.values() for indices in parts.values())
        what = "nothing is in quarantine for that"
        if count:
            what = f"{fmt.plural(count, 'image', 'images')} of {fmt.plural(len(self.samples), 'unit', 'units')}"
        return f"trying again ({', '.join(self.reasons)}): {what}"


def reasons_to_retry(ledger: Ledger, requested: Sequence[str], fingerprint: str) -> tuple[str, ...]:
    """Reasons that this run asks for, and those that an earlier one did not get through with.

    Raises:
        OutputError: OUT cannot be read.
    """
    left = ledger.read_json(RETRY) or {}
    older = left.get("reasons") if left.get("fingerprint") == fingerprint else ()
    return tuple(dict.fromkeys([*requested, *(older if isinstance(older, list) else ())]))


def find_to_retry(
    ledger: Ledger, units: Sequence[Unit], progress: Mapping[str, Progress], fingerprint: str, reasons: Sequence[str]
) -> ToRetry:
    """Find what lies in quarantine for some reasons: only quarantine of published parts is read.

    Raises:
        OutputError: OUT cannot be read.
    """
    if not reasons:
        return ToRetry()
    known = {unit.id for unit in units}
    names: set[str] = set()
    for unit_id in known & progress.keys():
        names.update(progress[unit_id].names(fingerprint, unit_id))

    def read(name: str) -> list[tuple[str | None, int | None, str]]:
        try:
            table = ledger.read_part(QUARANTINE, name, ["key", "index", "reason"])
        except StorageError:
            return []  # which `verify` reports
        columns = (table[column].to_pylist() for column in ("key", "index", "reason"))
        return [row for row in zip(*columns, strict=True) if row[2] in reasons]

    samples: dict[str, dict[str, list[int]]] = {}
    damaged: set[str] = set()
    parts = [part for part in map(PartName.parse, ledger.names(QUARANTINE)) if part is not None and str(part) in names]
    with ThreadPoolExecutor(_PARALLEL_READS) as pool:
        for part, rows in zip(parts, pool.map(read, map(str, parts)), strict=True):
            if any(key is None for key, _, _ in rows):
                damaged.add(part.unit_id)
            if indices := [index for key, index, _ in rows if key is not None and index is not None]:
                samples.setdefault(part.unit_id, {})[str(part)] = indices
    for unit_id in damaged:
        samples.pop(unit_id, None)
    return ToRetry(tuple(reasons), samples, frozenset(damaged))


def begin_retry(ledger: Ledger, fingerprint: str, found: ToRetry) -> None:
    """Note what is tried again, before any part is changed.

    Raises:
        OutputError: OUT cannot be written.
    """
    if found.samples:
        ledger.write_json(RETRY, {"fingerprint": fingerprint, "reasons": list(found.reasons)})


def end_retry(ledger: Ledger) -> None:
    """Forget the note: all was tried.

    Raises:
        OutputError: OUT cannot be written.
    """
    ledger.remove_retry()
