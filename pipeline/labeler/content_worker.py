"""The worker that compares inputs with what was labelled of them: no network, and nothing is decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from pipeline.engines.workload import Item
from pipeline.inputs.same_content import ContentCheck, Touched
from pipeline.metrics import Meter


class ContentWorker:
    """Compares the units of items.

    Args:
        check: Compares one.
        _blobs, _num_threads, _meter: Unused: as many units as are given at a time are compared at a time.
    """

    def __init__(self, check: ContentCheck, _blobs: Mapping[str, bytes], _num_threads: int, _meter: Meter) -> None:
        self._check = check

    def __call__(self, item: Item, stopping: Callable[[], bool]) -> Iterator[Item]:
        """Compare the unit of an item."""
        if not stopping():
            touched = Touched.from_dict(item)
            found = self._check(touched)
            yield {"unit": touched.unit.id, "same": sorted(found.same), "problem": found.problem}

    def close(self) -> None:
        """Nothing to let go of."""
