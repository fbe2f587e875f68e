"""The agenda: what of a plan is left to do, and what workers are called with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

from pipeline.engines.workload import Item
from pipeline.inputs.plan import Plan
from pipeline.output.ledger import Ledger
from pipeline.output.parts import Progress
from pipeline.records import Unit


@dataclass(frozen=True, slots=True)
class PendingWork:
    """What there is to do.

    Attributes:
        plan: All units.
        pending: Those that are not complete.
        parts_done: How many parts of a pending unit are published, by its id, where there are any.
        stored: What an older output has of the units whose probabilities are used again, by id.
    """

    plan: Plan
    pending: list[Unit]
    parts_done: dict[str, int]
    stored: Mapping[str, Progress] = field(default_factory=dict)


def pending_work(plan: Plan, ledger: Ledger, mark: str) -> PendingWork:
    """What of a plan is left to do."""
    progress = ledger.progress(mark)
    pending = [unit for unit in plan.units if not progress.get(unit.id, Progress()).complete]
    return PendingWork(plan, pending, {unit.id: progress[unit.id].num_parts for unit in pending if unit.id in progress})


class Items(Sequence[Item]):
    """What labelers are called with, made when it is asked for: a million at once take most of a gigabyte."""

    def __init__(self, agenda: PendingWork) -> None:
        self._agenda = agenda

    def __len__(self) -> int:
        return len(self._agenda.pending)

    @overload
    def __getitem__(self, at: int) -> Item: ...

    @overload
    def __getitem__(self, at: slice) -> list[Item]: ...

    def __getitem__(self, at: int | slice) -> Item | list[Item]:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(len(self)))]
        unit = self._agenda.pending[at]
        item = {"unit": unit.to_dict(), "parts_done": self._agenda.parts_done.get(unit.id, 0)}
        stored = self._agenda.stored.get(unit.id)
        return item if stored is None else item | {"stored": dataclasses.asdict(stored)}
