"""Pending work: the units of a plan that are not complete, and the items that workers are called with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

from pipeline.engines.workload import Item
from pipeline.inputs.plan import Plan
from pipeline.output.ledger import Ledger
from pipeline.output.parts import Progress
from pipeline.records import Receipt, Unit


@dataclass(frozen=True, slots=True)
class PendingWork:
    """What is left of a job.

    Attributes:
        plan: All units.
        units: Those that are not complete.
        parts_done: How many parts of a pending unit are published, by its id, where there are any.
        samples_left: How many samples a pending unit still has, by its id, where that is known.
        stored: The parts of pending units in the older output that is reused, by unit id.
    """

    plan: Plan
    units: list[Unit]
    parts_done: Mapping[str, int]
    samples_left: Mapping[str, int] = field(default_factory=dict)
    stored: Mapping[str, Progress] = field(default_factory=dict)

    def left(self) -> dict[str, tuple[Unit, int | None]]:
        """Each pending unit by its id, with the samples it still has, where that is known."""
        return {unit.id: (unit, self.samples_left.get(unit.id)) for unit in self.units}

    def items(self) -> Sequence[Item]:
        """What workers are called with, one item a unit."""
        return _Items(self)


def pending_work(plan: Plan, ledger: Ledger, fingerprint: str) -> PendingWork:
    """What of a plan is not complete, by the names of the parts that are published."""
    progress = ledger.progress(fingerprint)
    units = [unit for unit in plan.units if not progress.get(unit.id, Progress()).complete]
    return PendingWork(plan, units, {unit.id: progress[unit.id].num_parts for unit in units if unit.id in progress})


class _Items(Sequence[Item]):
    """Items that are made when they are needed: a million at once take most of a gigabyte."""

    def __init__(self, work: PendingWork) -> None:
        self._work = work

    def __len__(self) -> int:
        return len(self._work.units)

    @overload
    def __getitem__(self, at: int) -> Item: ...

    @overload
    def __getitem__(self, at: slice) -> list[Item]: ...

    def __getitem__(self, at: int | slice) -> Item | list[Item]:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(len(self)))]
        unit = self._work.units[at]
        item = {"unit": unit.to_dict(), "parts_done": self._work.parts_done.get(unit.id, 0)}
        stored = self._work.stored.get(unit.id)
        return item if stored is None else item | {"stored": dataclasses.asdict(stored)}


def is_progress(item: Item) -> bool:
    """Whether a receipt reports something that need not be done again if its labeler dies now."""
    receipt = Receipt.from_dict(item)
    return bool(receipt.parts) or receipt.finished or receipt.failure is not None
