"""Metrics of one process on their way to Ray. Ray itself is handed in."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.metrics import Kind, Metric

_SAMPLE_S = 1.0


class RayMeter:
    """Metrics of this process on their way to Ray's agent on the machine, which serves them to Prometheus.

    Ray adds the prefix ``ray_`` and, to counters, ``_total``. A call takes 2 microseconds and hands a number over to
    Ray's core, which sends them every ten seconds; where nobody collects them (Ray without its dashboard's packages)
    they are dropped. A gauge is forgotten within twenty seconds unless it is set again
    (``findings/ray-gauge-expires.sh``).

    Args:
        makers: What makes a metric of each kind: Ray's own classes.
        labels: On every metric.
    """

    def __init__(self, makers: Mapping[Kind, Callable[..., Any]], labels: Mapping[str, str]) -> None:
        self._makers = makers
        self._labels = dict(labels)
        self._made: dict[Metric, Any] = {}
        self._totals: dict[Metric, float] = {}
        self._samples: list[tuple[Metric, Callable[[], float | None], dict[str, str]]] = []
        self._lock = threading.Lock()

    def _ray_metric(self, metric: Metric) -> Any:  # noqa: ANN401 - Ray's own type
        with self._lock:
            if metric not in self._made:
                options: dict[str, Any] = {"boundaries": list(metric.buckets)} if metric.buckets else {}
                self._made[metric] = self._makers[metric.kind](
                    metric.full_name, metric.description, tag_keys=(*self._labels, *metric.labels), **options
                )
            return self._made[metric]

    def add(self, metric: Metric, value: float, **labels: str) -> None:
        if value > 0:
            self._ray_metric(metric).inc(value, self._labels | labels)

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        self._ray_metric(metric).observe(value, self._labels | labels)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        self._ray_metric(metric).set(value, self._labels | labels)

    def sample(self, metric: Metric, read: Callable[[], float | None], **labels: str) -> None:
        self._samples.append((metric, read, labels))

    def count_to(self, metric: Metric, total: float) -> None:
        """Bring a counter to what somebody else has counted."""
        self.add(metric, total - self._totals.get(metric, 0.0))
        self._totals[metric] = total

    def keep_reading(self) -> None:
        """Read all gauges that are to be sampled, again and again until the process ends."""
        while True:
            for metric, read, labels in tuple(self._samples):
                value = read()
                if value is not None:
                    self.set(metric, value, **labels)
            time.sleep(_SAMPLE_S)
