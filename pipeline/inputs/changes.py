"""What has become of planned inputs: those with another version, and those that are gone.

A unit whose input has another version and the bytes that were labelled keeps its id and its parts; the plan takes on
the new version. Otherwise a shard becomes another unit, and of a slice only the images that differ are let go of: they
lose their rows, and get a slice of their own. Rows are removed before the plan forgets what they belong to, so that a
run that is killed in between leaves nothing that the next one would not find.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import OutputError, StorageError
from pipeline.inputs.plan import Plan
from pipeline.inputs.presence import Gone, find_gone
from pipeline.inputs.same_content import UNITS_AT_ONCE, Compare, Comparer, ContentCheck, Touched
from pipeline.inputs.units import change_entries, tar_unit
from pipeline.output.ledger import Ledger
from pipeline.output.parts import Progress
from pipeline.output.probabilities import stored_aliases
from pipeline.output.rewriting import PartRewriter
from pipeline.records import Unit, UnitKind
from pipeline.storage import Entry, Storage
from pipeline.text import fmt

_MOST_LOOKED_UP = 10_000  # objects, only to say that they are gone
_MAX_NAMED = 3


@dataclass(slots=True)
class Changes:
    """What was found of planned inputs, counted by object: shards and loose images.

    Attributes:
        same: With another version, and the bytes that were labelled.
        changed: With other bytes.
        gone: No longer there.
        pruned: Of these, let go of.
        notes: Messages for the user, one line each.
        problems: Units that could not be compared, and why not; they stay as they are.
    """

    same: int = 0
    changed: int = 0
    gone: int = 0
    pruned: int = 0
    notes: list[str] = field(default_factory=list)
    problems: list[tuple[Unit, str]] = field(default_factory=list)


class ChangedInputs:
    """Settles what a plan found changed.

    Args:
        ledger: The output.
        storage: How to reach it and the inputs.
        job: Its ``job.json``.
        prune: Whether to let go of inputs that are gone.
        compare: Compares units with their rows.
        note: Called with lines for the user.

    Attributes:
        fingerprint: Of the job.
    """

    def __init__(
        self,
        ledger: Ledger,
        storage: Storage,
        job: Mapping[str, Any],
        *,
        prune: bool,
        compare: Compare,
        note: Callable[[str], object],
    ) -> None:
        self._ledger = ledger
        self._storage = storage
        self._job = job
        self.fingerprint = str(job["fingerprint"])
        self._prune = prune
        self._note = note
        self._rewriter = PartRewriter(ledger, storage, stored_aliases(job))
        self._comparer = Comparer(ContentCheck(ledger, storage, job), compare, note)

    def settle(self, plan: Plan) -> Changes:
        """Settle what a plan found. Where it is called again for another plan, nothing is read twice.

        Raises:
            OutputError: OUT cannot be read or written, or nothing would be left of it.
        """
        found = Changes()
        try:
            if plan.touched:
                self._settle_touched(plan, found)
            if plan.unlisted:
                self._settle_gone(plan, found)
        except StorageError as error:
            raise OutputError(f"OUT cannot be used: {error}") from error
        return found

    # -- another version ----------------------------------------------------------------------------------

    def _settle_touched(self, plan: Plan, found: Changes) -> None:
        kept: list[Unit] = []
        dropped: list[Unit] = []
        added: list[Unit] = []
        images: list[tuple[str, list[Entry]]] = []
        slices: list[tuple[Unit, dict[int, Entry | None]]] = []
        touched = _merge(plan.touched)
        for item, compared in zip(touched, self._comparer.compare(touched), strict=True):
            if compared.problem:
                found.problems.append((item.unit, compared.problem))
                continue
            unit, now = item.unit, item.entries
            changed = [entry for index, entry in now.items() if index not in compared.same]
            found.same += len(compared.same)
            found.changed += len(changed)
            if unit.kind == UnitKind.TAR:
                if changed:
                    dropped.append(unit)
                    added.append(tar_unit(now[0], unit.max_samples))
                else:
                    kept.append(dataclasses.replace(unit, etag=now[0].etag))
                continue
            if changed:
                images.append((unit.uri, sorted(changed, key=lambda entry: entry.uri)))
            if len(changed) == unit.num_samples:
                dropped.append(unit)
            else:
                slices.append((unit, {i: entry if i in compared.same else None for i, entry in now.items()}))
        lost = {unit.id: [i for i, entry in entries.items() if entry is None] for unit, entries in slices}
        kept += self._let_go(lost, slices)
        complete = {unit.id for unit in kept if plan.progress.get(unit.id, Progress()).complete}
        self._rewriter.remove_uncommitted({unit.id for unit in kept} - complete)
        plan.change(kept=kept, dropped=dropped, added=added, images=images)
        if found.same:
            num_shards = sum(unit.kind == UnitKind.TAR for unit in kept)
            what = _count(num_shards, found.same - num_shards)
            self._say(found, f"of another version, but with the bytes that were labelled: {what}, not labelled again")
        if found.changed:
            num_shards = sum(unit.kind == UnitKind.TAR for unit in added)
            num_images = found.changed - num_shards
            where = ", images in further units" if num_images else ""
            self._say(found, f"changed since the last run: {_count(num_shards, num_images)}, labelled again{where}")

    # -- gone ---------------------------------------------------------------------------------------------

    def _settle_gone(self, plan: Plan, found: Changes) -> None:
        ids = {unit.id for unit in plan.unlisted}
        units = [unit for unit in plan.units if unit.id in ids]
        gone = list(find_gone(units, self._storage, None if self._prune else _MOST_LOOKED_UP))
        if not self._prune:  # what was never read has no label to lose
            split = [item.split() for item in gone]
            if unread := [lost for lost, _ in split if lost is not None]:
                self._forget(plan, unread)
            gone = [rest for _, rest in split if rest is not None]
        found.gone = sum(len(item.indices) for item in gone)
        if not gone:
            return
        num_shards = sum(item.unit.kind == UnitKind.TAR for item in gone)
        what, where = _count(num_shards, found.gone - num_shards), _name(gone)
        if not self._prune:
            self._say(
                found,
                f"gone: {what} ({where}). What was labelled of that stays. Put it back; say where it is now, with "
                f"shardlabel relocate {self._ledger.out} OLD NEW; or let go of it, with --prune",
            )
            return
        if sum(item.whole for item in gone) == len(plan.units):
            raise OutputError(f"--prune: all that was labelled is gone ({where}); remove {self._ledger.out} instead")
        self._forget(plan, gone)
        found.pruned = found.gone
        self._say(found, f"let go of what is gone: {what} ({where})")

    def _forget(self, plan: Plan, gone: Sequence[Gone]) -> None:
        """Let go of inputs that are gone."""
        dropped = [item.unit for item in gone if item.whole]
        parts = [item for item in gone if not item.whole]
        kept = self._let_go(
            {item.unit.id: item.indices for item in parts},
            [(item.unit, dict.fromkeys(item.indices)) for item in parts],
        )
        plan.change(kept=kept, dropped=dropped)

    # -- slices -------------------------------------------------------------------------------------------

    def _let_go(
        self, indices: Mapping[str, Sequence[int]], entries: Iterable[tuple[Unit, Mapping[int, Entry | None]]]
    ) -> list[Unit]:
        """Let go of images of slices, rows first, and change entries of their key lists.

        Args:
            indices: Of the images to let go of, by the id of their slice.
            entries: Each slice with its entries as they are now, None for what is let go of.

        Returns:
            The slices as they are then.
        """
        if any(indices.values()):
            self._ledger.remove_success()
            self._rewriter.remove_rows(indices)
        with ThreadPoolExecutor(UNITS_AT_ONCE) as pool:
            return list(pool.map(lambda item: change_entries(item[0], self._storage, item[1]), entries))

    def _say(self, found: Changes, line: str) -> None:
        found.notes.append(line)
        self._note(line)


def _merge(touched: Iterable[Touched]) -> list[Touched]:
    """Each unit once, with all its entries."""
    merged: dict[str, Touched] = {}
    for item in touched:
        older = merged.get(item.unit.id)
        merged[item.unit.id] = (
            item if older is None else dataclasses.replace(item, entries={**older.entries, **item.entries})
        )
    return list(merged.values())


def _count(shards: int, images: int) -> str:
    """How many shards and loose images."""
    counts = [fmt.plural(shards, "shard", "shards")] * (shards > 0)
    return " and ".join(counts + [fmt.plural(images, "image", "images")] * (images > 0))


def _name(gone: Sequence[Gone]) -> str:
    names = [item.unit.uri for item in gone]
    return ", ".join(names[:_MAX_NAMED]) + (f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else "")
