"""Inputs that lie at another place now: the plan and the rows of an output follow them.

What has the bytes that were labelled at the new place is moved there; everything else stays where it was. The plan is
written first, and the rows after it. A process that is killed in between leaves rows under their older URI, which
``verify`` names, and which the same command finds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import ObjectMissing, OutputError, RequestError, StorageError
from pipeline.inputs.plan import Plan
from pipeline.inputs.presence import find_present
from pipeline.inputs.same_content import (
    UNITS_AT_ONCE,
    Compare,
    Compared,
    Comparer,
    ContentCheck,
    Touched,
)
from pipeline.inputs.units import change_entries, held_entries, unit_id
from pipeline.output.ledger import Ledger
from pipeline.output.parts import PartName, Progress
from pipeline.output.probabilities import stored_aliases
from pipeline.output.rewriting import PartRewriter
from pipeline.records import Unit, UnitKind
from pipeline.storage import Entry, Storage


@dataclass(slots=True)
class Moved:
    """What a move did, counted by object: shards and loose images.

    Attributes:
        moved: They are at the new place as they were labelled.
        changed: They are there with other bytes; they stay where they were.
        missing: They are not there; they stay where they were.
        labelled_twice: They were labelled at both places; the rows of the older place are removed.
        problems: Units that could not be compared, and why not; they stay where they were.
    """

    moved: int = 0
    changed: int = 0
    missing: int = 0
    labelled_twice: int = 0
    problems: list[tuple[Unit, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Move:
    """A unit and where it goes.

    Attributes:
        unit: The unit.
        uri: Its URI there.
        num_objects: Of its objects, those that are wanted there.
        there: Those that are there, by index.
        doubled: Indices of those that another unit has labelled there already.
    """

    unit: Unit
    uri: str
    num_objects: int
    there: Mapping[int, Entry]
    doubled: frozenset[int]


@dataclass(frozen=True, slots=True)
class _Following:
    """What the rows and the key list of a moved slice are to follow.

    Attributes:
        there: Its entries at the new place, by index.
        removed: Indices that are no longer in it.
    """

    there: Mapping[int, Entry]
    removed: tuple[int, ...]


class Move:
    """Moves the inputs of an output from one place to another.

    Args:
        ledger: The output.
        storage: How to reach it, and both places.
        job: Its ``job.json``.
        places: The old and the new one: folders, prefixes, or single tars.
        compare: Compares units with their rows.
        note: Called with lines for the user.
    """

    def __init__(
        self,
        ledger: Ledger,
        storage: Storage,
        job: Mapping[str, Any],
        places: tuple[str, str],
        compare: Compare,
        note: Callable[[str], object],
    ) -> None:
        self._ledger = ledger
        self._storage = storage
        self._old, self._new = (place.rstrip("/") for place in places)
        self._fingerprint = str(job["fingerprint"])
        self._rewriter = PartRewriter(ledger, storage, stored_aliases(job))
        self._comparer = Comparer(ContentCheck(ledger, storage, job), compare, note)

    def run(self) -> Moved:
        """Move them.

        Raises:
            OutputError: OUT cannot be read or written.
            RequestError: No input of the output is below the old place, or none of them is at the new one.
        """
        try:
            while True:
                plan = Plan(self._ledger, self._storage, self._fingerprint)
                found = Moved()
                changes = self._change(plan, found)
                if changes is None or plan.write():
                    break
            self._follow(plan, changes or {})
        except StorageError as error:
            raise OutputError(f"{error}; the same command goes on from there") from error
        return found

    def new_place(self, uri: str) -> str | None:
        """Where something is now; None if it was not below the old place, or is below the new one already."""
        if _is_below(uri, self._old) and not (self._new.startswith(f"{self._old}/") and _is_below(uri, self._new)):
            return self._new + uri[len(self._old) :]
        return None

    # -- the plan -----------------------------------------------------------------------------------------

    def _change(self, plan: Plan, found: Moved) -> dict[str, _Following] | None:
        """Change a plan; what moved slices are to follow, by their id, or None if nothing is below the old place."""
        places = {unit.id: place for unit in plan.units if (place := self.new_place(unit.uri)) is not None}
        is_begun = any(unit.id not in places and _is_below(unit.uri, self._new) for unit in plan.units)
        if not places:
            if is_begun:
                return None
            raise RequestError(
                f"{self._ledger.out}: none of its inputs is below {self._old}; the first of them is {plan.units[0].uri}"
                if plan.units
                else f"{self._ledger.out}: nothing is planned there yet"
            )
        taken = self._give_way(plan, places)
        moves = self._look_up([unit for unit in plan.units if unit.id in places], places, taken)
        compared = self._compare(plan, moves)
        kept, rests, dropped = [], [], []
        changes: dict[str, _Following] = {}
        for move, result in zip(moves, compared, strict=True):
            unit, num_same, num_there = move.unit, len(result.same), len(move.there)
            found.labelled_twice += len(move.doubled)
            if result.problem:
                found.problems.append((unit, result.problem))
                continue
            found.moved += num_same
            found.changed += num_there - num_same
            found.missing += move.num_objects - num_there
            if num_same == 0:
                dropped += [unit] * (move.num_objects == 0)
            elif unit.kind == UnitKind.TAR:
                kept.append(dataclasses.replace(unit, uri=move.uri, etag=move.there[0].etag))
            else:
                there = {index: move.there[index] for index in result.same}
                removed = tuple(index for index, _ in held_entries(unit, self._storage) if index not in there)
                if left := tuple(index for index in removed if index not in move.doubled):
                    rests.append(self._leave_behind(plan, unit, left))
                kept.append(dataclasses.replace(unit, uri=move.uri, num_samples=num_same))
                changes[unit.id] = _Following(there, removed)
        if not (kept or dropped or found.problems or is_begun):
            raise RequestError(
                f"{self._new}: none of the {found.changed + found.missing:,} inputs below {self._old} is there as it "
                f"was labelled ({found.changed:,} differ, {found.missing:,} are missing, the first of them "
                f"{moves[0].uri}); nothing was changed"
            )
        if rests or dropped or any(change.removed for change in changes.values()):
            self._ledger.remove_success()
        plan.change(kept=kept, added=rests, dropped=dropped)
        self._ledger.remove_units(plan.replaced)
        return changes

    def _give_way(self, plan: Plan, places: Mapping[str, str]) -> set[str]:
        """URIs of what was labelled at the new place already; units there that have no labels yet are dropped."""
        there = [unit for unit in plan.units if unit.id not in places and _is_below(unit.uri, self._new)]
        taken: set[str] = set()
        dropped = []
        for unit in there:
            progress = plan.progress.get(unit.id, Progress())
            if not (progress.complete if unit.kind == UnitKind.TAR else progress.num_parts):
                dropped.append(unit)
            elif unit.kind == UnitKind.TAR:
                taken.add(unit.uri)
            else:
                taken |= {entry.uri for _, entry in held_entries(unit, self._storage)}
        plan.change(dropped=dropped)
        return taken

    def _look_up(self, units: Sequence[Unit], places: Mapping[str, str], taken: set[str]) -> list[_Move]:
        """Find out what of some units is at the new place."""

        def look_up(unit: Unit) -> _Move:
            uri = places[unit.id]
            held = [(0, Entry(uri, unit.size_bytes, ""))]
            if unit.kind == UnitKind.SLICE:
                own = held_entries(unit, self._storage)
                held = [(i, Entry(uri + entry.uri[len(unit.uri) :], entry.size_bytes, "")) for i, entry in own]
            doubled = frozenset(index for index, entry in held if entry.uri in taken)
            wanted = [(index, entry) for index, entry in held if index not in doubled]
            try:
                present = find_present([entry for _, entry in wanted], uri, self._storage)
            except ObjectMissing:  # not even the bucket is there
                present = {}
            there = {index: present[entry.uri] for index, entry in wanted if entry.uri in present}
            return _Move(unit, uri, len(wanted), there, doubled)

        with ThreadPoolExecutor(UNITS_AT_ONCE) as pool:
            return list(pool.map(look_up, units))

    def _compare(self, plan: Plan, moves: Sequence[_Move]) -> list[Compared]:
        touched = [Touched(move.unit, move.there, plan.progress.get(move.unit.id, Progress())) for move in moves]
        found = iter(self._comparer.compare([item for item in touched if item.entries]))
        return [next(found) if item.entries else Compared() for item in touched]

    def _leave_behind(self, plan: Plan, unit: Unit, indices: tuple[int, ...]) -> Unit:
        """Make a unit of the images of a slice that are not moved, with their rows under its own name."""
        own_id = unit_id("rest", unit.id, indices)
        keys_uri = self._ledger.uri("plan", f"keys-{own_id}.parquet")
        assert unit.keys_uri is not None
        self._storage.replace(keys_uri, self._storage.read(unit.keys_uri))
        held = [i for i, _ in held_entries(unit, self._storage)]
        rest = dataclasses.replace(unit, id=own_id, keys_uri=keys_uri)
        rest = change_entries(rest, self._storage, dict.fromkeys(i for i in held if i not in indices))
        for part in self._parts(plan, unit):
            self._rewriter.copy_rows(part, own_id, indices)
        return rest

    # -- the rows -----------------------------------------------------------------------------------------

    def _follow(self, plan: Plan, changes: Mapping[str, _Following]) -> None:
        """Make the rows and key lists of everything below the new place follow the plan."""
        self._rewriter.remove_rows({own_id: change.removed for own_id, change in changes.items()})
        self._rewriter.rename_shards({unit.id: unit.uri for unit in plan.units if _is_below(unit.uri, self._new)})

        def follow(unit: Unit) -> None:
            change = changes[unit.id]
            change_entries(unit, self._storage, {**change.there, **dict.fromkeys(change.removed)})

        with ThreadPoolExecutor(UNITS_AT_ONCE) as pool:
            list(pool.map(follow, [unit for unit in plan.units if unit.id in changes]))

    def _parts(self, plan: Plan, unit: Unit) -> Sequence[PartName]:
        return list(plan.progress.get(unit.id, Progress()).parts(self._fingerprint, unit.id))


def _is_below(uri: str, place: str) -> bool:
    return uri == place or uri.startswith(f"{place}/")
