"""The samples of a unit as its input holds them now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pipeline.config.option_types import Images
from pipeline.errors import StorageError
from pipeline.records import Omitted, Sample, Unit, UnitKind
from pipeline.stages.read import UnitReader
from pipeline.storage import Storage


class InputSamples:
    """Reads the samples of a unit in order, up to one index after the other.

    Args:
        unit: The unit.
        storage: How to reach it.
        deep: Whether images in shards are read as well.
        images: Which images of a sample are labelled: the first, or all.

    Attributes:
        events: Damage to the shard so far, by reason.
        omitted: What has no row, so far.
        failure: Why reading ended before the end; None while it did not.
        count: Number of samples so far.
    """

    def __init__(self, unit: Unit, storage: Storage, *, deep: bool, images: Images) -> None:
        self.events: Counter[str] = Counter()
        self.omitted = Omitted()
        self.failure: StorageError | None = None
        self.count = 0
        self._items = iter(UnitReader(unit, storage, images=images, payloads=deep and unit.kind == UnitKind.TAR))
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
            elif isinstance(item, Omitted):
                self.omitted.add(item)
            else:
                self.events[item.reason] += 1
        return sample
