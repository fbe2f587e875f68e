"""Inputs that lie at another place now: the plan and the rows of an output follow them.

What has the bytes that were labelled at the new place is moved there; everything else stays where it was. The plan is
written first, with key lists under new names, and the rows after it. A process that is killed in between leaves rows
under their older URI, or of images that their slice has let go of, which the same command finds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence, Set
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
from pipeline.inputs.units import change_entries, held_entries, let_go_entries, unit_id
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
        labelled_twice: They were labelled at both places, and are the same at both; the rows of the older place are
            removed.
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
        num_objects: Number of its objects below the old place.
        is_whole: Whether these are all that it holds.
        there: Those that are there, by index.
        doubled: Indices of those whose URI there another unit has labelled already.
    """

    unit: Unit
    uri: str
    num_objects: int
    is_whole: bool
    there: Mapping[int, Entry]
    doubled: frozenset[int]


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
        self._older_lists: set[str] = set()

    def run(self) -> Moved:
        """Move them.

        Raises:
            OutputError: OUT cannot be read or written.
            RequestError: No input of the output is below the old place, or none of them is at the new one.
        """
        try:
            while True:
                plan = Plan(self._ledger, self._storage, self._fingerprint)
                self._older_lists = {unit.keys_uri for unit in plan.units if unit.keys_uri is not None}
                found = Moved()
                if not self._change(plan, found) or plan.write():
                    break
            self._follow(plan)
        except StorageError as error:
            raise OutputError(f"{error}; the same command goes on from there") from error
        return found

    def new_place(self, uri: str) -> str | None:
        """Where something is now; None if it was not below the old place, or is below the new one already."""
        if _is_below(uri, self._old) and not (self._new.startswith(f"{self._old}/") and _is_below(uri, self._new)):
            return self._new + uri[len(self._old) :]
        return None

    def _new_place_of(self, unit: Unit) -> str | None:
        """Where a unit is now, or those of its images that were below the old place; None if none of it was.

        A slice may hold more than what was moved, if a folder above the old place was labelled.

        Raises:
            RequestError: Images would get other keys at the new place.
        """
        if unit.kind == UnitKind.TAR or not self._old.startswith(unit.uri):
            return self.new_place(unit.uri)
        if not any(_is_below(entry.uri, self._old) for _, entry in held_entries(unit, self._storage)):
            return None
        inside = self._old[len(unit.uri) :]
        if not self._new.endswith(f"/{inside}"):
            raise RequestError(
                f"{self._new}: images below {self._old} were labelled as a part of {unit.uri}, with keys that begin "
                f"with {inside}/, and keep their keys only at a place that ends in /{inside}"
            )
        return self._new.removesuffix(inside)

    # -- the plan -----------------------------------------------------------------------------------------

    def _change(self, plan: Plan, found: Moved) -> bool:
        """Change a plan; False if nothing is below the old place."""
        places = {unit.id: place for unit in plan.units if (place := self._new_place_of(unit)) is not None}
        is_begun = any(unit.id not in places and _is_at(unit, self._new) for unit in plan.units)
        if not places:
            if is_begun:
                return False
            raise RequestError(
                f"{self._ledger.out}: none of its inputs is below {self._old}; the first of them is {plan.units[0].uri}"
                if plan.units
                else f"{self._ledger.out}: nothing is planned there yet"
            )
        taken = self._give_way(plan, places)
        moves = self._look_up([unit for unit in plan.units if unit.id in places], places, taken)
        compared = self._compare(plan, moves)
        kept, rests, dropped = [], [], []
        for move, result in zip(moves, compared, strict=True):
            unit, same = move.unit, result.same
            if result.problem:
                found.problems.append((unit, result.problem))
                continue
            moved, twice = same - move.doubled, same & move.doubled
            found.moved += len(moved)
            found.labelled_twice += len(twice)
            found.changed += len(move.there) - len(same)
            found.missing += move.num_objects - len(move.there)
            if not same:
                continue
            if move.is_whole and len(twice) == move.num_objects:
                dropped.append(unit)
            elif unit.kind == UnitKind.TAR:
                kept.append(dataclasses.replace(unit, uri=move.uri, etag=move.there[0].etag))
            elif moved:
                if left := self._held(unit) - same:
                    rests.append(self._leave_behind(plan, unit, left))
                kept.append(self._with_entries(unit, move.uri, {index: move.there[index] for index in moved}))
            else:
                own = dict(held_entries(unit, self._storage))
                kept.append(self._with_entries(unit, unit.uri, {i: own[i] for i in own if i not in twice}))
        if not (kept or dropped or found.problems or is_begun):
            raise RequestError(
                f"{self._new}: none of the {found.changed + found.missing:,} inputs below {self._old} is there as it "
                f"was labelled ({found.changed:,} differ, {found.missing:,} are missing, the first of them "
                f"{moves[0].uri}); nothing was changed"
            )
        if rests or dropped or found.labelled_twice:
            self._ledger.remove_success()
        plan.change(kept=kept, added=rests, dropped=dropped)
        self._ledger.remove_units(plan.replaced)
        return True

    def _give_way(self, plan: Plan, places: Mapping[str, str]) -> set[str]:
        """URIs of what was labelled at the new place already; units there that have no labels yet are dropped."""
        there = [unit for unit in plan.units if unit.id not in places and _is_at(unit, self._new)]
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
            held, is_whole = [(0, Entry(uri, unit.size_bytes, ""))], True
            if unit.kind == UnitKind.SLICE:
                everything = held_entries(unit, self._storage)
                own = [(i, entry) for i, entry in everything if _is_below(entry.uri, self._old)]
                is_whole = len(own) == len(everything)
                held = [(i, Entry(uri + entry.uri[len(unit.uri) :], entry.size_bytes, "")) for i, entry in own]
            doubled = frozenset(index for index, entry in held if entry.uri in taken)
            try:
                present = find_present([entry for _, entry in held], uri, self._storage)
            except ObjectMissing:  # not even the bucket is there
                present = {}
            there = {index: present[entry.uri] for index, entry in held if entry.uri in present}
            return _Move(unit, uri, len(held), is_whole, there, doubled)

        with ThreadPoolExecutor(UNITS_AT_ONCE) as pool:
            return list(pool.map(look_up, units))

    def _compare(self, plan: Plan, moves: Sequence[_Move]) -> list[Compared]:
        touched = [Touched(move.unit, move.there, plan.progress.get(move.unit.id, Progress())) for move in moves]
        found = iter(self._comparer.compare([item for item in touched if item.entries]))
        return [next(found) if item.entries else Compared() for item in touched]

    def _held(self, unit: Unit) -> set[int]:
        return {index for index, _ in held_entries(unit, self._storage)}

    def _leave_behind(self, plan: Plan, unit: Unit, indices: Set[int]) -> Unit:
        """Make a unit of the images of a slice that are not moved, with their rows under its own name."""
        own_id = unit_id("rest", unit.id, sorted(indices))
        keys_uri = self._ledger.uri("plan", f"keys-{own_id}.parquet")
        rest = dataclasses.replace(unit, id=own_id)
        rest = change_entries(rest, self._storage, dict.fromkeys(self._held(unit) - indices), keys_uri)
        for part in self._parts(plan, unit):
            self._rewriter.copy_rows(part, own_id, sorted(indices))
        return rest

    def _with_entries(self, unit: Unit, uri: str, entries: Mapping[int, Entry]) -> Unit:
        """Make a slice at a place hold these of its entries, and no others.

        The plan in OUT names the older key list until it is written, so the new one has a name of its own.
        """
        content = sorted((index, entry.size_bytes, entry.etag) for index, entry in entries.items())
        keys_uri = self._ledger.uri("plan", f"keys-{unit_id('held', unit.id, uri, content)}.parquet")
        changes = {**dict.fromkeys(self._held(unit)), **entries}
        return change_entries(dataclasses.replace(unit, uri=uri), self._storage, changes, keys_uri)

    # -- the rows -----------------------------------------------------------------------------------------

    def _follow(self, plan: Plan) -> None:
        """Make the rows of everything below both places follow the plan."""
        there = [unit for unit in plan.units if _is_at(unit, self._new)]
        slices = [unit for unit in plan.units if unit.kind == UnitKind.SLICE]
        slices = [unit for unit in slices if _is_at(unit, self._new) or _is_at(unit, self._old)]
        with ThreadPoolExecutor(UNITS_AT_ONCE) as pool:  # from the plan alone: a killed process may have written it
            let_go = pool.map(lambda unit: let_go_entries(unit, self._storage), slices)
            removed = {unit.id: indices for unit, indices in zip(slices, let_go, strict=True)}
        self._rewriter.remove_rows(removed)
        self._rewriter.rename_shards({unit.id: unit.uri for unit in there})
        in_use = {unit.keys_uri for unit in plan.units}
        for unit in slices:  # the list that its images had when they were planned
            if (first := self._ledger.uri("plan", f"keys-{unit.id}.parquet")) not in in_use:
                self._storage.delete(first)
        for keys_uri in self._older_lists - in_use:
            self._storage.delete(keys_uri)

    def _parts(self, plan: Plan, unit: Unit) -> Sequence[PartName]:
        return list(plan.progress.get(unit.id, Progress()).parts(self._fingerprint, unit.id))


def _is_at(unit: Unit, place: str) -> bool:
    """Whether a unit is below a place, or is a slice of images of which some may be."""
    return _is_below(unit.uri, place) or (unit.kind == UnitKind.SLICE and place.startswith(unit.uri))


def _is_below(uri: str, place: str) -> bool:
    return uri == place or uri.startswith(f"{place}/")
