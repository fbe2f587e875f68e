"""The parts that are left to export, unit by unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

from pipeline.engines.workload import Item
from pipeline.exporting.source import Source
from pipeline.exporting.target import Target
from pipeline.records import Unit


@dataclass(slots=True)
class PendingUnit:
    """A unit with parts left to export.

    Attributes:
        unit: The unit.
        parts: Numbers of these parts, and whether each is the unit's last.
        images: Selected images in them.
    """

    unit: Unit
    parts: list[tuple[int, bool]] = field(default_factory=list)
    images: int = 0


class PendingParts(Sequence[Item]):
    """The items of exporters: units with their parts that have selected images and are not done.

    Args:
        source: The output.
        target: Where it is exported to.
        plan: Selected images of each part, by name.
        done: Names of the parts that are done.

    Attributes:
        pending: The units.
        num_done: Parts of the plan that are done.
    """

    def __init__(self, source: Source, target: Target, plan: Mapping[str, int], done: set[str]) -> None:
        self.pending: list[PendingUnit] = []
        self.num_done = len(done & plan.keys())
        for unit, part in source.parts():
            name = target.name(part)
            if name not in plan or name in done:
                continue
            if not self.pending or self.pending[-1].unit is not unit:
                self.pending.append(PendingUnit(unit))
            self.pending[-1].parts.append((part.part, part.last))
            self.pending[-1].images += plan[name]

    def __len__(self) -> int:
        return len(self.pending)

    @overload
    def __getitem__(self, at: int) -> Item: ...

    @overload
    def __getitem__(self, at: slice) -> list[Item]: ...

    def __getitem__(self, at: int | slice) -> Item | list[Item]:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(len(self)))]
        return {"unit": self.pending[at].unit.to_dict(), "parts": self.pending[at].parts}
