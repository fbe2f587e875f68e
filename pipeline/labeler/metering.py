"""From a labeler's receipts to its counters."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from pipeline import metrics
from pipeline.machine import available_memory_bytes, device_memory_bytes, process_memory_bytes
from pipeline.metrics import Meter
from pipeline.records import Receipt

T = TypeVar("T")


class Timed(Generic[T]):
    """An iterator that counts the seconds for which its source kept it waiting."""

    def __init__(self, source: Iterator[T]) -> None:
        self._source = source
        self.seconds = 0.0

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        begun = time.perf_counter()
        try:
            return next(self._source)
        finally:
            self.seconds += time.perf_counter() - begun

    def close(self) -> None:
        """Close the source, if it can be."""
        close = getattr(self._source, "close", None)
        if close is not None:
            close()


class UnitMeter:
    """Passes on what was done of a unit from one of its receipts to the next.

    Args:
        meter: Where to.
        before: The receipt before anything is done; what it holds was done, and counted, by others.
        skipped_bytes: Of the unit, passed over without being read.
    """

    def __init__(self, meter: Meter, before: Receipt, skipped_bytes: int) -> None:
        self._meter = meter
        self._began = time.monotonic()
        self._labelled = before.num_labelled
        self._bytes = skipped_bytes
        self._parts = len(before.parts)
        self._quarantined: dict[str, float] = dict(before.num_quarantined)
        self._events: dict[str, float] = dict(before.num_events)
        self._stage_s: dict[str, float] = {}
        self._wait_s: dict[str, float] = {}

    def take(self, receipt: Receipt) -> None:
        """Note how far it has come."""
        add = self._meter.add
        add(metrics.IMAGES, receipt.num_labelled - self._labelled, outcome="labelled")
        for reason, count in _gain(receipt.num_quarantined, self._quarantined):
            add(metrics.IMAGES, count, outcome=reason)
        for reason, count in _gain(receipt.num_events, self._events):
            add(metrics.SHARD_EVENTS, count, reason=reason)
        add(metrics.READ_BYTES, receipt.num_bytes - self._bytes)
        add(metrics.PARTS, len(receipt.parts) - self._parts)
        for stage, seconds in _gain(receipt.stage_s, self._stage_s):
            add(metrics.STAGE_SECONDS, seconds, stage=stage)
        for source, seconds in _gain(receipt.wait_s, self._wait_s):
            add(metrics.WAIT_SECONDS, seconds, source=source)
        self._labelled, self._parts = receipt.num_labelled, len(receipt.parts)
        self._bytes = max(self._bytes, receipt.num_bytes)

    def end(self, receipt: Receipt) -> None:
        """Note that it has come to an end, good or bad."""
        self.take(receipt)
        outcome = "finished" if receipt.finished else receipt.failure or "stopped"
        self._meter.add(metrics.UNITS, 1, outcome=outcome)
        self._meter.observe(metrics.UNIT_SECONDS, time.monotonic() - self._began)


def sample_memory(meter: Meter, *, on_gpu: bool) -> None:
    """Have this process's memory sampled, its machine's and its GPU's."""
    meter.sample(metrics.PROCESS_MEMORY, process_memory_bytes)
    sample_machine_memory(meter, on_gpu=on_gpu)


def sample_machine_memory(meter: Meter, *, on_gpu: bool) -> None:
    """Have the memory of this machine and of its GPU sampled."""
    meter.sample(metrics.AVAILABLE_MEMORY, available_memory_bytes)
    if on_gpu:
        meter.sample(metrics.DEVICE_MEMORY, lambda: device_memory_bytes()[0])
        meter.sample(metrics.DEVICE_MEMORY_TOTAL, lambda: device_memory_bytes()[1])


def _gain(now: Mapping[str, float], then: dict[str, float]) -> Iterator[tuple[str, float]]:
    """What each figure has grown by; ``then`` becomes ``now``."""
    for name, value in now.items():
        yield name, value - then.get(name, 0)
        then[name] = value
