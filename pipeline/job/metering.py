"""From snapshots of a job to the driver's gauges."""

from __future__ import annotations

from pipeline import metrics
from pipeline.job.tracking import Snapshot
from pipeline.metrics import Meter


class JobMeter:
    """The driver's gauges.

    Args:
        meter: Where to.
        max_bad_rate: The share of bad samples at which the job stops, 0-1.
        max_failed_units: The number of failed units beyond which it stops.
    """

    def __init__(self, meter: Meter, max_bad_rate: float, max_failed_units: int) -> None:
        self._meter = meter
        self._limits = {metrics.JOB_BAD_RATIO_LIMIT: max_bad_rate, metrics.JOB_FAILED_UNITS_LIMIT: max_failed_units}

    def update(self, snapshot: Snapshot) -> None:
        """Set the gauges from a snapshot; call it at least every few seconds."""
        gauge = self._meter.set
        for metric, limit in self._limits.items():
            gauge(metric, limit)
        gauge(metrics.JOB_IMAGES, snapshot.images)
        if snapshot.total is not None:
            gauge(metrics.JOB_IMAGES_EXPECTED, max(snapshot.total, snapshot.images))
        left = max(0, snapshot.units_total - snapshot.units_done - snapshot.failed_units)
        for state, count in (("done", snapshot.units_done), ("failed", snapshot.failed_units), ("left", left)):
            gauge(metrics.JOB_UNITS, count, state=state)
        bad = sum(snapshot.quarantined.values())
        gauge(metrics.JOB_BAD_RATIO, bad / snapshot.images if snapshot.images else 0.0)
