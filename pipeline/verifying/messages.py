"""The wording of discrepancies: which samples, and what to do about them."""

from __future__ import annotations

from pipeline.errors import ObjectChanged, ObjectMissing, StorageError
from pipeline.output.ledger import PREDICTIONS, QUARANTINE
from pipeline.records import Unit

RERUN = "run the same label command again"
PRUNE = "run the same label command with --prune, which lets go of what is gone"
_MAX_NAMED = 3


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
    return f"delete what is called part-*-{unit.id}-* in {PREDICTIONS} and {QUARANTINE}, and {RERUN}"


def describe_unread(unit: Unit, error: StorageError) -> str:
    """Why a unit's input could not be read, and what to do about it."""
    if isinstance(error, ObjectChanged):
        return f"{error}; {RERUN}, which labels it again"
    if isinstance(error, ObjectMissing):
        return f"{error}; put the shard back: what was labelled of it cannot be proved"
    return f"{unit.uri}: cannot be checked: {error}"
