"""The samples of a unit as its input holds them now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pipeline.errors import StorageError
from pipeline.records import Sample, Unit, UnitKind
from pipeline.stages.read import UnitReader
from pipeline.storage import Storage


class InputSamples:
    """Reads the samples of a unit in order, up to one index after the other.

    Args:
        unit: The unit.
        storage: How to reach it.
        deep: Whether images in shards are read as well.

    Attributes:
        events: Damage to the shard so far, by reason.
        failure: Why reading ended before the end; None while it did not.
        count: Number of samples so far.
    """

    def __init__(self, unit: Unit, storage: Storage, *, deep: bool) -> None:
        self.events: Counter[str] = Counter()
        self.failure: StorageError | None = None
        self.count = 0
        self._items = iter(UnitReader(unit, storage, payloads=deep and unit.kind == UnitKind.TAR))
        self._held: Sample | None = None

    def up_to(self, stop: int | None) -> Iterator[Sample]:
        """The next samples before an index; all that are left if it is None."""
        while (sample := self._next()) is not None:
            if stop is not None and sample.index >= stop:
                self._held = sample
                return
            self.count += 1
            yield sample

    def _next(self) -> Sample | None:
        sample, self._held = self._held, None
        while sample is None and self.failure is None:
            try:
                item = next(self._items, None)
            except StorageError as error:
                self.failure = error
                break
            if item is None:
                break
            if isinstance(item, Sample):
                sample = item
            else:
                self.events[item.reason] += 1
        return sample
