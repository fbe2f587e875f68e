"""The samples of a unit as its input holds them now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pipeline.config.option_types import Images
from pipeline.errors import StorageError
from pipeline.records import Cursor, Item, Omitted, Sample, Unit, UnitKind
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
        omitted: What has no row, or not one of its own, so far.
        failure: Why reading ended before the end; None while it did not.
        count: Number of samples so far.
        unsorted: Whether the unit was labelled with an index of its headers; None if that is not known. It counts until
            the first sample is asked for.
    """

    def __init__(self, unit: Unit, storage: Storage, *, deep: bool, images: Images) -> None:
        self.events: Counter[str] = Counter()
        self.omitted = Omitted()
        self.failure: StorageError | None = None
        self.count = 0
        self.unsorted: bool | None = None
        self._unit = unit
        self._storage = storage
        self._images: Images = images
        self._payloads = deep and unit.kind == UnitKind.TAR
        self._items: Iterator[Item] | None = None
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
        if self._items is None:
            cursor = Cursor(unsorted=self.unsorted)
            reader = UnitReader(self._unit, self._storage, cursor, images=self._images, payloads=self._payloads)
            self._items = iter(reader)
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
