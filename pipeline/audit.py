"""Verify: prove from the inputs that the output accounts for every sample exactly once.

The inputs' member lists are read again, and per unit: samples in = predictions + quarantine, each once,
under its own key and index; no part is missing, doubled, damaged or foreign; all damage to the shard
that can be seen is noted. Every discrepancy is named.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.errors import ObjectDamaged, StorageError
from pipeline.ledger import (
    PREDICTIONS,
    QUARANTINE,
    SUCCESS,
    Ledger,
    PartName,
    open_output,
    unit_of,
)
from pipeline.planning import read_units
from pipeline.records import Sample, Unit
from pipeline.stages.read import UnitReader
from pipeline.storage import Storage

_PARALLEL_UNITS = 8
_MAX_NAMED = 3


@dataclass(frozen=True, slots=True)
class Verification:
    """What an audit found.

    Attributes:
        out: The output.
        units: Units in its plan.
        samples: Samples in the inputs.
        predictions, quarantined: Rows that account for them.
        discrepancies: One line each; none is what one hopes for.
    """

    out: str
    units: int
    samples: int
    predictions: int
    quarantined: int
    discrepancies: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 only if every sample is accounted for exactly once."""
        return 1 if self.discrepancies else 0


@dataclass(slots=True)
class _UnitAudit:
    samples: int = 0
    predictions: int = 0
    quarantined: int = 0
    discrepancies: tuple[str, ...] = ()


def verify(
    out: str | os.PathLike[str], *, s3_endpoint: str | None = None, no_sign_request: bool = False
) -> Verification:
    """Audit an output against its inputs.

    Args:
        out: Directory or ``s3://`` prefix of a job's output.
        s3_endpoint: As for ``label``.
        no_sign_request: As for ``label``.

    Raises:
        OutputError: It is not the output of a job, or cannot be read.
    """
    ledger, storage = open_output(out, s3_endpoint, no_sign_request=no_sign_request)
    fingerprint = str(ledger.job()["fingerprint"])
    units = read_units(ledger, storage)
    names = {folder: ledger.names(folder) for folder in (PREDICTIONS, QUARANTINE)}
    found = [*_foreign_files(names, units, fingerprint), *_against_success(ledger, names)]
    parts: dict[str, list[PartName]] = {unit.id: [] for unit in units}
    for name in names[PREDICTIONS]:
        parsed = PartName.parse(name)
        if parsed is not None and parsed.fingerprint == fingerprint[:8] and parsed.unit_id in parts:
            parts[parsed.unit_id].append(parsed)
    quarantined = set(names[QUARANTINE])
    with ThreadPoolExecutor(_PARALLEL_UNITS) as pool:
        audits = list(pool.map(lambda unit: _audit(unit, parts[unit.id], quarantined, ledger, storage), units))
    return Verification(
        out=ledger.out,
        units=len(units),
        samples=sum(audit.samples for audit in audits),
        predictions=sum(audit.predictions for audit in audits),
        quarantined=sum(audit.quarantined for audit in audits),
        discrepancies=(*found, *(line for audit in audits for line in audit.discrepancies)),
    )


def _foreign_files(names: dict[str, list[str]], units: list[Unit], fingerprint: str) -> Iterator[str]:
    planned = {unit.id for unit in units}
    for folder, present in names.items():
        committed = set(names[PREDICTIONS])
        for name in present:
            unit_id = unit_of(name)
            if unit_id is None or not name.startswith(f"part-{fingerprint[:8]}-") or unit_id not in planned:
                yield f"{folder}/{name}: a foreign file, not of this job"
            elif folder == QUARANTINE and PartName.parse(name) is not None and name not in committed:
                yield f"{folder}/{name}: quarantine without the predictions part that commits it"


def _against_success(ledger: Ledger, names: dict[str, list[str]]) -> Iterator[str]:
    """Differences to ``_SUCCESS``, where the job was finished."""
    success = ledger.read_json(SUCCESS)
    if success is None:
        return
    for folder in (PREDICTIONS, QUARANTINE):
        listed: dict[str, int] = success.get(folder, {})
        present = set(names[folder])
        for name in sorted(listed.keys() - present):
            yield f"{folder}/{name}: listed in {SUCCESS}, but missing"
        for name in sorted(present - listed.keys()):
            if unit_of(name) is not None:
                yield f"{folder}/{name}: not listed in {SUCCESS}"
        for name in sorted(listed.keys() & present):
            try:
                num_rows = ledger.footer(folder, name).num_rows
            except StorageError:
                continue  # named by the unit's own audit
            if num_rows != listed[name]:
                yield f"{folder}/{name}: {num_rows} rows, but {SUCCESS} lists {listed[name]}"


def _audit(unit: Unit, parts: list[PartName], quarantined: set[str], ledger: Ledger, storage: Storage) -> _UnitAudit:
    audit = _UnitAudit()
    found = list(_chain_faults(unit, parts))
    rows: Counter[tuple[int, str]] = Counter()
    events: Counter[str] = Counter()
    for part in sorted(parts, key=lambda part: (part.part, part.last)):
        try:
            audit.predictions += _read_rows(ledger, PREDICTIONS, part, unit, rows, events)
            if str(part) in quarantined:
                audit.quarantined += _read_rows(ledger, QUARANTINE, part, unit, rows, events)
        except StorageError as error:
            found.append(str(error))
    try:
        expected, expected_events = _members(unit, storage)
    except StorageError as error:
        audit.discrepancies = (*found, f"{unit.uri}: cannot be checked: {error}")
        return audit
    audit.samples = expected.total()
    found += _differences(unit, expected, rows)
    for reason, count in (expected_events - events).items():
        found.append(f"{unit.uri}: {count} x {reason} in the shard that quarantine does not note")
    audit.discrepancies = tuple(found)
    return audit


def _chain_faults(unit: Unit, parts: list[PartName]) -> Iterator[str]:
    """Parts that are missing or doubled."""
    numbers = Counter(part.part for part in parts)
    for number, count in numbers.items():
        if count > 1:
            yield f"{unit.uri}: part {number} is there {count} times"
    lasts = [part.part for part in parts if part.last]
    expected = max(lasts) if lasts else max(numbers, default=-1)
    for number in range(expected + 1):
        if number not in numbers:
            yield f"{unit.uri}: part {number} is missing"
    if not parts:
        yield f"{unit.uri}: not labelled"
    elif not lasts:
        yield f"{unit.uri}: not complete, its last part is missing"


def _read_rows(
    ledger: Ledger,
    folder: str,
    part: PartName,
    unit: Unit,
    rows: Counter[tuple[int, str]],
    events: Counter[str],
) -> int:
    """Take a part's rows in; returns how many samples they account for."""
    footer = ledger.footer(folder, str(part))
    if (footer.unit_id, footer.part, footer.last) != (part.unit_id, part.part, part.last):
        raise ObjectDamaged(f"{folder}/{part}: holds another part under this name")
    table = ledger.read_part(folder, str(part))  # every column: a damaged byte may be anywhere
    shards = set(table.column("shard").to_pylist()) - {unit.uri}
    if shards:
        raise ObjectDamaged(f"{folder}/{part}: rows of another shard: {', '.join(sorted(map(str, shards)))}")
    keys = table.column("key").to_pylist()
    samples = 0
    for position, (key, index) in enumerate(zip(keys, table.column("index").to_pylist(), strict=True)):
        if key is None:
            events[table.column("reason")[position].as_py()] += 1
        else:
            rows[(index, key)] += 1
            samples += 1
    return samples


def _members(unit: Unit, storage: Storage) -> tuple[Counter[tuple[int, str]], Counter[str]]:
    """The samples and the damage that the input holds now."""
    samples: Counter[tuple[int, str]] = Counter()
    events: Counter[str] = Counter()
    for item in UnitReader(unit, storage, payloads=False):
        if isinstance(item, Sample):
            samples[(item.index, item.key)] += 1
        else:
            events[item.reason] += 1
    return samples, events


def _differences(unit: Unit, expected: Counter[tuple[int, str]], rows: Counter[tuple[int, str]]) -> Iterator[str]:
    missing = [key for key in expected if key not in rows]
    unexpected = [key for key in rows if key not in expected]
    doubled = [key for key in rows if key in expected and rows[key] > 1]
    for what, keys in (
        ("in the input, but not in the output", missing),
        ("in the output, but not in the input", unexpected),
        ("more than once in the output", doubled),
    ):
        if keys:
            named = ", ".join(f"{key!r} (index {index})" for index, key in sorted(keys)[:_MAX_NAMED])
            more = f" and {len(keys) - _MAX_NAMED} more" if len(keys) > _MAX_NAMED else ""
            yield f"{unit.uri}: {len(keys)} samples {what}: {named}{more}"
