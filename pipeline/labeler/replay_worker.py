"""A replayer as engines call it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipeline.engines.workload import Item
from pipeline.labeler.config import LabelerConfig
from pipeline.labeler.replay import Replayer
from pipeline.metrics import Meter
from pipeline.output.parts import Progress
from pipeline.records import Unit


class ReplayWorker:
    """A replayer with the interface of an engine's worker: dicts in, dicts out."""

    def __init__(
        self, settings: Mapping[str, Any], _blobs: Mapping[str, bytes], num_threads: int, meter: Meter
    ) -> None:
        self._replayer = Replayer(LabelerConfig(num_threads=num_threads, **settings), meter)

    def __call__(self, item: Item, stopping: Callable[[], bool]) -> Iterator[Item]:
        """Publish the unit of an item; yields receipts."""
        unit, stored = Unit.from_dict(item["unit"]), Progress(**item["stored"])
        for receipt in self._replayer(unit, item["parts_done"], stored, stopping):
            yield receipt.to_dict()

    def close(self) -> None:
        """Close the replayer's threads."""
        self._replayer.close()
