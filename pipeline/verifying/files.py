"""Files of an output: those of each unit, those that do not belong there, and those that ``_SUCCESS`` lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.output.ledger import PREDICTIONS, PROBABILITIES, QUARANTINE, SUCCESS, Ledger
from pipeline.output.parts import PartName, unit_of
from pipeline.records import Unit
from pipeline.verifying.messages import RERUN
from pipeline.verifying.unit_files import UnitFiles


def group_by_unit(units: Sequence[Unit], names: dict[str, list[str]], fingerprint: str) -> Iterator[UnitFiles]:
    """Yield each unit with its files.

    Args:
        units: The units of the plan.
        names: File names in ``predictions`` and in ``quarantine``.
        fingerprint: Fingerprint of the job.
    """
    parts: dict[str, list[PartName]] = {unit.id: [] for unit in units}
    quarantine: dict[str, set[str]] = {}
    for name in names[PREDICTIONS]:
        parsed = PartName.parse(name)
        if parsed is not None and parsed.fingerprint == fingerprint[:8] and parsed.unit_id in parts:
            parts[parsed.unit_id].append(parsed)
    for name in names[QUARANTINE]:
        quarantine.setdefault(unit_of(name) or "", set()).add(name)
    for unit in units:
        own = sorted(parts[unit.id], key=lambda part: (part.part, part.last))
        yield UnitFiles(unit, tuple(own), frozenset(quarantine.get(unit.id, ())))


def find_foreign_files(names: dict[str, list[str]], units: list[Unit], fingerprint: str) -> Iterator[str]:
    """Find files that are not of this job, and quarantine without its commit; one line each."""
    planned = {unit.id for unit in units}
    committed = set(names[PREDICTIONS])
    for folder, present in names.items():
        for name in present:
            unit_id = unit_of(name)
            if unit_id is None or not name.startswith(f"part-{fingerprint[:8]}-") or unit_id not in planned:
                yield f"{folder}/{name}: a foreign file, not of this job; move it away, or it is read with the others"
            elif folder == QUARANTINE and PartName.parse(name) is not None and name not in committed:
                yield f"{folder}/{name}: quarantine without the predictions part that commits it; delete it and {RERUN}"


def find_foreign_probabilities(ledger: Ledger, committed: Sequence[str], kept: Sequence[str]) -> Iterator[str]:
    """Find stored probabilities that belong to no part; one line each."""
    present = set(committed)
    for path in ledger.names(PROBABILITIES):
        alias, _, name = path.partition("/")
        if alias not in kept or PartName.parse(name) is None:
            yield f"{PROBABILITIES}/{path}: a foreign file, not of this job; move it away"
        elif name not in present:
            yield (
                f"{PROBABILITIES}/{path}: probabilities without the predictions part that commits them; delete the "
                f"file, and {RERUN}"
            )


def compare_with_success(ledger: Ledger, names: dict[str, list[str]], num_rows: dict[str, int]) -> Iterator[str]:
    """Compare the parts with those that ``_SUCCESS`` lists; one line for each difference."""
    success = ledger.success()
    if success is None:
        return
    for folder in (PREDICTIONS, QUARANTINE):
        listed: dict[str, int] = success.get(folder, {})
        present = set(names[folder])
        mend = RERUN if folder == PREDICTIONS else f"delete the part of this name in {PREDICTIONS} too, and {RERUN}"
        for name in sorted(listed.keys() - present):
            yield f"{folder}/{name}: listed in {SUCCESS}, but missing; {mend}"
        for name in sorted(present - listed.keys()):
            if unit_of(name) is not None:
                yield f"{folder}/{name}: not listed in {SUCCESS}; if nothing else is wrong with it, {RERUN}"
        for name in sorted(listed.keys() & present):
            found = num_rows.get(f"{folder}/{name}")  # None if the part is damaged, which is reported with its unit
            if found is not None and found != listed[name]:
                yield f"{folder}/{name}: {found} rows, but {SUCCESS} lists {listed[name]}; delete it and {mend}"
