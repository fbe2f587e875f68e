"""The files that a unit has in the output, and the parts that are missing or there twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.output.ledger import PREDICTIONS
from pipeline.output.parts import PartName
from pipeline.records import Unit
from pipeline.text import fmt
from pipeline.verifying.messages import RERUN


@dataclass(frozen=True, slots=True)
class UnitFiles:
    """A unit and its files. Plain data, so that it can be sent to another process.

    Attributes:
        unit: The unit.
        parts: Its predictions parts, in order.
        quarantine: Names of its quarantine parts.
    """

    unit: Unit
    parts: tuple[PartName, ...]
    quarantine: frozenset[str]


def find_part_faults(files: UnitFiles) -> Iterator[str]:
    """One line for each part that is missing or there more than once."""
    uri, parts = files.unit.uri, files.parts
    numbers = Counter(part.part for part in parts)
    for number, count in numbers.items():
        if count > 1:
            names = ", ".join(f"{PREDICTIONS}/{part}" for part in parts if part.part == number)
            yield f"{uri}: part {number} is there {fmt.plural(count, 'time')}: {names}; delete them and {RERUN}"
    lasts = [part.part for part in parts if part.last]
    expected = max(lasts) if lasts else max(numbers, default=-1)
    for number in range(expected + 1):
        if number not in numbers:
            name = str(PartName(parts[0].fingerprint, files.unit.id, number, last=False))
            yield f"{uri}: part {number} is missing, {PREDICTIONS}/{name}; {RERUN}"
    if not parts:
        yield f"{uri}: not labelled; {RERUN}"
    elif not lasts:
        yield f"{uri}: not complete, its last part is missing; {RERUN}"
