"""The wording of discrepancies: which samples, and what to do about them."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import ObjectChanged, ObjectDamaged, ObjectMissing, StorageError
from pipeline.output.ledger import PREDICTIONS, PROBABILITIES, QUARANTINE
from pipeline.records import Unit
from pipeline.text.commands import command_line

RERUN = "run the same label command again"
MOVED = "say where it is now with shardlabel relocate"
PRUNE = "run the same label command with --prune, which lets go of what is gone"
_MAX_NAMED = 3


def advise_combining(line: str, source: str) -> str:
    """A discrepancy of a combined output: what is to be done is done to the output it was combined from first."""
    first = f"label {source} again"
    then = "then run the same combine command again"
    line = line.replace(PRUNE, f"{first} with --prune, which lets go of what is gone, and {then}")
    return line.replace(RERUN, f"{first} if its inputs changed, {then}")


class SampleNames:
    """A number of samples, the first few of them by name."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[str] = []

    def add(self, index: int, key: str) -> None:
        """Count a sample."""
        self.count += 1
        if len(self._first) < _MAX_NAMED:
            self._first.append(name_sample(index, key))

    def __str__(self) -> str:
        return ", ".join(self._first) + (f" and {self.count - _MAX_NAMED} more" if self.count > _MAX_NAMED else "")


def name_sample(index: int, key: str) -> str:
    """A sample by key and index."""
    return f"{key!r} (index {index})"


def relabel(unit: Unit) -> str:
    """How to label a unit again."""
    where = f"{PREDICTIONS}, {QUARANTINE} and below {PROBABILITIES}"
    return f"delete what is called part-*-{unit.id}-* in {where}, and {RERUN}"


def describe_unread(unit: Unit, error: StorageError) -> str:
    """Why a unit's input could not be read, and what to do about it."""
    if isinstance(error, ObjectChanged):
        return f"{error}; {RERUN}: what has the bytes that were labelled is not labelled again"
    if isinstance(error, ObjectDamaged | ObjectMissing) and unit.keys_uri is not None:
        return f"{unit.uri}: the list of its images in OUT is missing or damaged: {error}; {RERUN}, which makes another"
    if isinstance(error, ObjectMissing):
        return f"{error}; put it back, {MOVED}, or {PRUNE}"
    return f"{unit.uri}: cannot be checked: {error}; mend that, and verify again"


def describe_bad_part(error: StorageError, folder: str, name: str) -> str:
    """What is wrong with the file of a part, and what to do about it."""
    if isinstance(error, ObjectMissing):
        return f"{error}; {RERUN}"
    if not isinstance(error, ObjectDamaged):
        return f"{folder}/{name}: cannot be checked: {error}; mend that, and verify again"
    also = "" if folder == PREDICTIONS else f" and {PREDICTIONS}/{name}"
    return f"{error}; delete it{also}, and {RERUN}"


def describe_other_shards(out: str, unit: Unit, folder: str, name: str, shards: Sequence[str]) -> str:
    """That rows of a part name another shard than the plan, and what to do about it."""
    files = f"{PREDICTIONS}/{name}" if folder == PREDICTIONS else f"{folder}/{name} and {PREDICTIONS}/{name}"
    return (
        f"{folder}/{name}: rows of another shard: {', '.join(shards)}; if it was moved, run "
        f"{command_line('relocate', out, shards[0], unit.uri)} again, otherwise delete {files}, and {RERUN}"
    )
