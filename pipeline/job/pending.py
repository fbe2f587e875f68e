"""Pending work: the units of a plan that are not complete, and the items that workers are called with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

from pipeline.engines.workload import Item
from pipeline.inputs.plan import Plan
from pipeline.job.retrying import find_to_retry
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
        retried: Samples of published parts that are tried again, by part, by unit id.
        reasons: Why these samples are in quarantine.
        patched: Units that are complete apart from these samples.
    """

    plan: Plan
    units: list[Unit]
    parts_done: Mapping[str, int]
    samples_left: Mapping[str, int] = field(default_factory=dict)
    stored: Mapping[str, Progress] = field(default_factory=dict)
    retried: Mapping[str, Mapping[str, Sequence[int]]] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    patched: frozenset[str] = frozenset()

    def left(self) -> dict[str, tuple[Unit, int | None]]:
        """Each pending unit by its id, with the samples it still has, where that is known."""
        return {unit.id: (unit, self.samples_left.get(unit.id)) for unit in self.units}

    def items(self) -> Sequence[Item]:
        """What workers are called with, one item a unit."""
        return _Items(self)


def pending_work(plan: Plan, ledger: Ledger, fingerprint: str, reasons: Sequence[str] = ()) -> PendingWork:
    """What of a plan is not complete, by the names of the parts that are published.

    Args:
        plan: The plan.
        ledger: Of the output.
        fingerprint: Of the job.
        reasons: Of quarantine; what lies there for one of these is tried again.
    """
    progress = ledger.progress(fingerprint)
    retried = find_to_retry(ledger, plan.units, progress, fingerprint, reasons).samples
    complete = {unit.id for unit in plan.units if progress.get(unit.id, Progress()).complete}
    units = [unit for unit in plan.units if unit.id not in complete or unit.id in retried]
    done = {unit.id: progress[unit.id].num_parts for unit in units if unit.id in progress}
    return PendingWork(
        plan, units, done, retried=retried, reasons=tuple(reasons), patched=frozenset(complete & retried.keys())
    )


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
        if (retried := self._work.retried.get(unit.id)) is not None:
            item |= {"retried": {name: list(indices) for name, indices in retried.items()}}
            item |= {"complete": unit.id in self._work.patched}
        return item if stored is None else item | {"stored": dataclasses.asdict(stored)}


def is_progress(item: Item) -> bool:
    """Whether a receipt reports something that need not be done again if its labeler dies now."""
    receipt = Receipt.from_dict(item)
    return bool(receipt.parts) or receipt.finished or receipt.failure is not None
