"""The plan of a combined output follows the output that it was combined from.

Labelling again, ``--prune`` and ``relocate`` change the plan of the source: a shard or an image has another version
with the bytes that were labelled, lies at another place, or is let go of. Under the same id the combined output takes
that over, and its rows stay, because they are about the same bytes. What the source let go of loses its rows here too.
Rows are changed before the plan, so that a run that is killed in between leaves nothing that the next one would not
find.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import ObjectDamaged, ObjectMissing, StorageError
from pipeline.inputs.plan import Plan
from pipeline.inputs.presence import find_gone, find_present
from pipeline.inputs.units import change_entries, held_entries
from pipeline.output.ledger import Ledger
from pipeline.output.parts import Progress
from pipeline.output.probabilities import stored_aliases
from pipeline.output.rewriting import PartRewriter
from pipeline.records import Unit, UnitKind
from pipeline.stages.read import LET_GO, slice_entries
from pipeline.storage import Entry, Storage

_UNITS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class _Change:
    """What becomes of a unit of the combined output.

    Attributes:
        older: The unit as planned.
        unit: The unit as it is to be, apart from its key list.
        entries: Of a slice, the entries that change, by index; None for what is let go of.
        keys_from: URI of the key list to start from, where its own cannot be read.
    """

    older: Unit
    unit: Unit
    entries: Mapping[int, Entry | None] = field(default_factory=dict)
    keys_from: str | None = None

    @property
    def lost(self) -> list[int]:
        """Indices of what is let go of."""
        return [index for index, entry in self.entries.items() if entry is None]


@dataclass(slots=True)
class Followed:
    """What was followed, counted by unit.

    Attributes:
        changed: Their version or place is another, or some of their images are let go of.
        dropped: They are let go of, or other units have taken their place.
    """

    changed: int = 0
    dropped: int = 0


class SourceFollower:
    """Makes the plan and the rows of an output follow the plan of another.

    Args:
        ledger: The output.
        storage: How to reach both outputs and the inputs.
        job: Its ``job.json``.
    """

    def __init__(self, ledger: Ledger, storage: Storage, job: Mapping[str, Any]) -> None:
        self._ledger = ledger
        self._storage = storage
        self._rewriter = PartRewriter(ledger, storage, stored_aliases(job))

    def follow(self, plan: Plan, source: Sequence[Unit]) -> Followed:
        """Make a plan follow the units of the source. Doing it again changes nothing.

        Args:
            plan: Of the output.
            source: Units of the source.

        Raises:
            StorageError: An output cannot be read or written.
        """
        own, theirs = {unit.id: unit for unit in plan.units}, {unit.id: unit for unit in source}
        changes, dropped = self._find_left(plan.units, theirs)
        shared = [(own[unit.id], unit) for unit in source if unit.id in own]
        with ThreadPoolExecutor(_UNITS_AT_ONCE) as pool:
            changes += [change for change in pool.map(lambda pair: self._compare(*pair), shared) if change is not None]
        new = [unit for unit in source if unit.id not in own]
        for change in [change for change in changes if change.entries and self._is_empty(change)]:
            changes.remove(change)
            dropped.append(change.older)
            new += [unit] if (unit := theirs.get(change.unit.id)) is not None else []
        kept = self._apply(plan, changes)
        with ThreadPoolExecutor(_UNITS_AT_ONCE) as pool:
            added = list(pool.map(self._copy, new))
        plan.change(kept=kept, dropped=dropped, added=added)
        return Followed(len(kept), len(dropped))

    # -- what changes -------------------------------------------------------------------------------------

    def _compare(self, older: Unit, unit: Unit) -> _Change | None:
        """What a unit takes over from the source's unit of the same id; None if it is as there.

        A version or place of the source is not taken over if the output already has the one that is there now.
        """
        if unit.kind == UnitKind.TAR:
            if unit == older or (not self._is_as_planned(unit) and self._is_as_planned(older)):
                return None
            return _Change(older, unit)
        assert older.keys_uri is not None
        assert unit.keys_uri is not None
        listed = self._storage.read(unit.keys_uri)
        with contextlib.suppress(ObjectMissing):  # it is made again below
            if self._storage.read(older.keys_uri) == listed and _with_keys_of(older, unit) == older:
                return None
        all_theirs = [entry for _, entry in slice_entries(unit, listed)]
        theirs = {index: entry for index, entry in enumerate(all_theirs) if entry.size_bytes != LET_GO}
        try:
            ours = dict(held_entries(older, self._storage))
        except (ObjectMissing, ObjectDamaged):
            return _Change(older, unit, {index: theirs.get(index) for index in range(len(all_theirs))}, unit.keys_uri)
        entries: dict[int, Entry | None] = dict.fromkeys(sorted(ours.keys() - theirs.keys()))
        shared = sorted(ours.keys() & theirs.keys())
        if older.uri == unit.uri:
            differing = [index for index in shared if ours[index] != theirs[index]]
            now = self._find_present([ours[index] for index in differing], unit.uri)
            known = {uri: _version(entry) for uri, entry in now.items()}
            stale = [index for index in differing if known.get(ours[index].uri) != _version(ours[index])]
            entries |= {index: theirs[index] for index in stale}
        elif self._find_present(theirs.values(), unit.uri) or not self._find_present(ours.values(), older.uri):
            entries |= {index: theirs[index] for index in shared}
        else:
            unit = older
        # a run that was killed may have changed the key list and not yet the plan
        is_changed = entries or unit.uri != older.uri or len(ours) != older.num_samples
        return _Change(older, unit, entries) if is_changed else None

    def _find_left(self, units: Sequence[Unit], source: Mapping[str, Unit]) -> tuple[list[_Change], list[Unit]]:
        """What becomes of units that the source does not have: it let go of them, or they were labelled here.

        What lies where a shard or a new slice of the source does, or is gone, is let go of.

        Returns:
            The changes, and the units to drop.
        """
        left = [unit for unit in units if unit.id not in source]
        if not left:
            return [], []
        tars = {unit.uri for unit in source.values() if unit.kind == UnitKind.TAR}
        dropped = {unit.id: unit for unit in left if unit.kind == UnitKind.TAR and unit.uri in tars}
        left = [unit for unit in left if unit.id not in dropped]
        lost = {item.unit.id: set(item.indices) for item in find_gone(left, self._storage)}
        changes = []
        known = {unit.id for unit in units}
        new = [unit for unit in source.values() if unit.id not in known]
        covered = self._find_covered([unit for unit in left if unit.kind == UnitKind.SLICE], new)
        for unit in left:
            indices = lost.get(unit.id, set()) | covered.get(unit.id, set())
            if indices and unit.kind == UnitKind.TAR:
                dropped[unit.id] = unit
            elif indices:
                changes.append(_Change(unit, unit, dict.fromkeys(sorted(indices))))
        return changes, list(dropped.values())

    def _find_covered(self, units: Sequence[Unit], source: Iterable[Unit]) -> dict[str, set[int]]:
        """Indices of those images of slices that other slices hold, by the id of their slice."""
        places: dict[str, list[tuple[str, int]]] = {}
        for unit in units:
            for index, entry in held_entries(unit, self._storage):
                places.setdefault(entry.uri, []).append((unit.id, index))
        prefixes = {unit.uri for unit in units}
        covered: dict[str, set[int]] = {}
        for unit in source:
            if unit.kind == UnitKind.TAR or not any(_overlap(unit.uri, prefix) for prefix in prefixes):
                continue
            for _, entry in held_entries(unit, self._storage):
                for own_id, index in places.get(entry.uri, ()):
                    covered.setdefault(own_id, set()).add(index)
        return covered

    def _is_as_planned(self, unit: Unit) -> bool:
        try:
            return _version(self._storage.stat(unit.uri)) == _version(unit)
        except StorageError:
            return False

    def _find_present(self, entries: Collection[Entry], prefix: str) -> dict[str, Entry]:
        """Those that are there, as they are now; none where they cannot be reached, which combining does without."""
        try:
            return find_present(list(entries), prefix, self._storage) if entries else {}
        except StorageError:
            return {}

    def _is_empty(self, change: _Change) -> bool:
        """Whether a slice holds nothing any more after a change."""
        if change.keys_from is not None:
            return False
        return {index for index, _ in held_entries(change.older, self._storage)} <= set(change.lost)

    # -- changing it --------------------------------------------------------------------------------------

    def _apply(self, plan: Plan, changes: Sequence[_Change]) -> list[Unit]:
        """Change rows and key lists; the units as they are then."""
        lost = {change.unit.id: change.lost for change in changes if change.lost}
        renamed = {change.unit.id: change.unit.uri for change in changes if change.unit.uri != change.older.uri}
        if lost or renamed:
            self._ledger.remove_success()
            self._rewriter.remove_rows(lost)
            if renamed:
                self._rewriter.rename_shards(renamed)
            begun = {i for i in {*lost, *renamed} if not plan.progress.get(i, Progress()).complete}
            self._rewriter.remove_uncommitted(begun)
        with ThreadPoolExecutor(_UNITS_AT_ONCE) as pool:
            return list(pool.map(self._change_keys, changes))

    def _change_keys(self, change: _Change) -> Unit:
        keys_uri = change.older.keys_uri
        unit = _with_keys_of(change.older, change.unit)
        if keys_uri is None:
            return unit
        if change.keys_from is not None:
            self._storage.replace(keys_uri, self._storage.read(change.keys_from))
        return change_entries(unit, self._storage, change.entries)

    def _copy(self, unit: Unit) -> Unit:
        """The unit with a key list of this output."""
        if unit.keys_uri is None:
            return unit
        keys_uri = self._ledger.uri("plan", f"keys-{unit.id}.parquet")
        self._storage.replace(keys_uri, self._storage.read(unit.keys_uri))
        return dataclasses.replace(unit, keys_uri=keys_uri)


def _version(planned: Entry | Unit) -> tuple[int, str]:
    return planned.size_bytes, planned.etag


def _with_keys_of(older: Unit, unit: Unit) -> Unit:
    return dataclasses.replace(unit, keys_uri=older.keys_uri)


def _overlap(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)
