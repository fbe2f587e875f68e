"""Labeler and replayer as engines call them: dicts in, dicts out, settings that travel."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipeline.engines.workload import Item
from pipeline.labeler.config import LabelerConfig
from pipeline.labeler.labeler import UNITS_AT_ONCE, Labeler
from pipeline.labeler.replay import Replayer
from pipeline.labeler.step_factory import MakeSteps
from pipeline.metrics import Meter
from pipeline.output.parts import Progress
from pipeline.records import UNAVAILABLE, Unit


class LabelerWorker:
    """Labels the units of items, or publishes again what an older output holds of them.

    Attributes:
        units_at_once: Items that it is to be called with at a time.

    Args:
        config: What it does.
        blobs: The members' tensors by alias, as safetensors bytes.
        meter: Where its metrics go.
        make_steps: See :class:`pipeline.labeler.labeler.Labeler`.
    """

    units_at_once = UNITS_AT_ONCE

    def __init__(
        self, config: LabelerConfig, blobs: Mapping[str, bytes], meter: Meter, *, make_steps: MakeSteps | None = None
    ) -> None:
        self._labeler = Labeler(config, blobs, meter=meter, make_steps=make_steps)
        self._replayer = Replayer(config, meter) if config.replayed else None

    def __call__(self, item: Item, stopping: Callable[[], bool]) -> Iterator[Item]:
        """Label the unit of an item."""
        unit, done = Unit.from_dict(item["unit"]), item["parts_done"]
        stored = Progress(**item["stored"]) if "stored" in item else None
        retried, complete = item.get("retried"), bool(item.get("complete"))
        if self._replayer is not None and stored is not None and not retried:
            receipt = None
            for receipt in self._replayer(unit, done, stored, stopping):
                if receipt.failure != UNAVAILABLE:
                    yield receipt.to_dict()
            if receipt is None or receipt.failure != UNAVAILABLE:
                return
        for receipt in self._labeler(unit, done, stopping, stored, retried, complete=complete):
            yield receipt.to_dict()

    def cpu_s(self) -> float:
        """CPU time of this process, seconds."""
        return time.process_time()

    def close(self) -> None:
        """Wait for the threads to end."""
        self._labeler.close()
        if self._replayer is not None:
            self._replayer.close()


class ReplayWorker:
    """Publishes the units of items from what an older output holds of them.

    Args:
        settings: Of the :class:`pipeline.labeler.config.LabelerConfig`, without the number of threads.
        _blobs: Unused: no network is run.
        num_threads: Threads that pool.
        meter: Where its metrics go.
    """

    def __init__(
        self, settings: Mapping[str, Any], _blobs: Mapping[str, bytes], num_threads: int, meter: Meter
    ) -> None:
        self._replayer = Replayer(LabelerConfig(num_threads=num_threads, **settings), meter)

    def __call__(self, item: Item, stopping: Callable[[], bool]) -> Iterator[Item]:
        """Publish the unit of an item."""
        unit, stored = Unit.from_dict(item["unit"]), Progress(**item["stored"])
        for receipt in self._replayer(unit, item["parts_done"], stored, stopping):
            yield receipt.to_dict()

    def close(self) -> None:
        """Wait for the threads to end."""
        self._replayer.close()
