"""Metrics of host processes: they go through the labeler's process, as those of one labeler."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from pipeline.hosts.messages import Channel, Gauges, Labels, Reading
from pipeline.metrics import AVAILABLE_MEMORY, Meter, Metric

_SAMPLE_S = 1.0


class ForwardedMeter:
    """In a host process: a :class:`pipeline.metrics.Meter` whose readings go to the labeler's process.

    Args:
        channel: To it.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._samples: dict[tuple[Metric, Labels], Callable[[], float | None]] = {}
        threading.Thread(target=self._keep_reading, name="meter", daemon=True).start()

    def add(self, metric: Metric, value: float, **labels: str) -> None:
        """Add to a counter."""
        if value > 0:
            self._channel.send(Reading("add", metric, value, labels))

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Add a value to a histogram."""
        self._channel.send(Reading("observe", metric, value, labels))

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Set a gauge."""
        self._channel.send(Gauges({(metric, tuple(labels.items())): value}))

    def sample(self, metric: Metric, read: Callable[[], float | None], **labels: str) -> None:
        """Read a gauge regularly from now on; the machine's own are read in the labeler's process."""
        if metric != AVAILABLE_MEMORY:
            self._samples[metric, tuple(labels.items())] = read

    def _keep_reading(self) -> None:
        while True:
            time.sleep(_SAMPLE_S)
            values = {name: value for name, read in tuple(self._samples.items()) if (value := read()) is not None}
            try:
                self._channel.send(Gauges(values))
            except OSError:
                return  # the labeler's process is gone, and this one is about to be


class HostMetrics:
    """In the labeler's process: passes on what its host processes measure, with gauges added up.

    Args:
        meter: Where to.
        own: Gauges of this process that are added to theirs.
    """

    def __init__(self, meter: Meter, own: Mapping[Metric, Callable[[], float | None]]) -> None:
        self._meter = meter
        self._own = own
        self._gauges: dict[tuple[Metric, Labels], dict[object, float]] = {}
        self._lock = threading.Lock()

    def take(self, source: object, message: Reading | Gauges) -> None:
        """Pass on what a host process measured."""
        if isinstance(message, Reading):
            put = self._meter.add if message.method == "add" else self._meter.observe
            put(message.metric, message.value, **message.labels)
            return
        for (metric, labels), value in message.values.items():
            self._sources(metric, labels)[source] = value

    def forget(self, source: object) -> None:
        """A host process is gone."""
        with self._lock:
            for sources in self._gauges.values():
                sources.pop(source, None)

    def _sources(self, metric: Metric, labels: Labels) -> dict[object, float]:
        with self._lock:
            if (metric, labels) not in self._gauges:
                found: dict[object, float] = {}
                self._gauges[metric, labels] = found
                read = self._own.get(metric, float)
                self._meter.sample(metric, lambda: sum(tuple(found.values())) + (read() or 0.0), **dict(labels))
            return self._gauges[metric, labels]
