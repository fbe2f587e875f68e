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
from pipeline.inputs.same_content import Compared, ContentCheck, Touched
from pipeline.inputs.units import change_entries, tar_unit
from pipeline.output.ledger import Ledger
from pipeline.output.parts import Progress
from pipeline.output.probabilities import stored_aliases
from pipeline.output.rewriting import PartRewriter
from pipeline.records import Unit, UnitKind
from pipeline.storage import Entry, Storage
from pipeline.text import fmt

UNITS_AT_ONCE = 8
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
        note: Called with lines for the user.

    Attributes:
        fingerprint: Of the job.
    """

    def __init__(
        self, ledger: Ledger, storage: Storage, job: Mapping[str, Any], *, prune: bool, note: Callable[[str], object]
    ) -> None:
        self._ledger = ledger
        self._storage = storage
        self._job = job
        self.fingerprint = str(job["fingerprint"])
        self._prune = prune
        self._note = note
        self._rewriter = PartRewriter(ledger, storage, stored_aliases(job))
        self._known: dict[tuple[str, tuple[tuple[int, Entry], ...]], Compared] = {}

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
        for item, compared in zip(touched, self._compare(plan, touched), strict=True):
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
            self._say(
                found,
                f"{_count(found.same, touched)} with another version, and the bytes that were labelled: "
                "nothing of that is labelled again",
            )

    def _compare(self, plan: Plan, touched: Sequence[Touched]) -> list[Compared]:
        keys = [(item.unit.id, tuple(item.entries.items())) for item in touched]
        new = [(key, item) for key, item in zip(keys, touched, strict=True) if key not in self._known]
        if new:
            num_bytes = sum(entry.size_bytes for _, item in new for entry in item.entries.values())
            self._note(f"reading {fmt.size(num_bytes)} of inputs whose version changed, to compare them with OUT")
        check = ContentCheck(self._ledger, self._storage, self._job, plan.progress)
        with ThreadPoolExecutor(UNITS_AT_ONCE, thread_name_prefix="compare") as pool:
            self._known |= zip((key for key, _ in new), pool.map(check, [item for _, item in new]), strict=True)
        return [self._known[key] for key in keys]

    # -- gone ---------------------------------------------------------------------------------------------

    def _settle_gone(self, plan: Plan, found: Changes) -> None:
        ids = {unit.id for unit in plan.unlisted}
        units = [unit for unit in plan.units if unit.id in ids]
        gone = list(find_gone(units, self._storage, None if self._prune else _MOST_LOOKED_UP))
        found.gone = sum(len(item.indices) for item in gone)
        if not gone:
            return
        what = f"{found.gone:,} planned inputs are gone ({_name(gone)})"
        if not self._prune:
            self._say(
                found,
                f"{what}; what was labelled of them stays. Put them back, or say where they are now (shardlabel "
                f"relocate {self._ledger.out} OLD NEW), or let go of them: the same command with --prune",
            )
            return
        if sum(item.whole for item in gone) == len(plan.units):
            raise OutputError(f"--prune: {what}, and nothing else is in {self._ledger.out}; remove it instead")
        dropped = [item.unit for item in gone if item.whole]
        parts = [item for item in gone if not item.whole]
        kept = self._let_go(
            {item.unit.id: item.indices for item in parts},
            [(item.unit, dict.fromkeys(item.indices)) for item in parts],
        )
        plan.change(kept=kept, dropped=dropped)
        found.pruned = found.gone
        self._say(found, f"let go of {what}")

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
        merged[item.unit.id] = item if older is None else Touched(item.unit, {**older.entries, **item.entries})
    return list(merged.values())


def _count(number: int, touched: Sequence[Touched]) -> str:
    kinds = {item.unit.kind for item in touched}
    what = "inputs" if len(kinds) > 1 else "shards" if UnitKind.TAR in kinds else "images"
    return f"{number:,} {what}" if number != 1 else f"1 {what[:-1]}"


def _name(gone: Sequence[Gone]) -> str:
    names = [item.unit.uri for item in gone]
    return ", ".join(names[:_MAX_NAMED]) + (f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else "")
