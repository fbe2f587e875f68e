"""Metrics of a job: their catalogue as data, and the protocol of a meter that takes readings.

Counters and histograms count the work of labelers, including work that is repeated after a labeler died. Gauges
describe a labeler (``LABELER``) or the job as its driver knows it (``DRIVER``). Where nobody collects metrics, readings
go to :class:`NoMeter` and cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

PREFIX = "shardlabel"
JOB_LABEL = "fingerprint"  # label of every metric
_JOB_DIGITS = 8  # digits of the fingerprint, as in the names of parts
LABELER, DRIVER = "labeler", "driver"


class Kind(StrEnum):
    """Type of a metric, as in Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: Without the prefix, in base units.
        kind: Counter, gauge or histogram.
        source: Who reports it: each labeler, or the driver.
        unit: Unit of its values.
        description: One line.
        labels: Names of its labels besides the job's. Labels have few values: never keys or URIs.
        buckets: Upper bounds of a histogram's buckets.
    """

    name: str
    kind: Kind
    source: str
    unit: str
    description: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def full_name(self) -> str:
        """Name with the prefix."""
        return f"{PREFIX}_{self.name}"

    @property
    def exported_name(self) -> str:
        """Name in Prometheus on a Ray cluster; a histogram's series have suffixes after it."""
        return f"ray_{self.full_name}{'_total' if self.kind == Kind.COUNTER else ''}"


IMAGES = Metric(
    "images",
    Kind.COUNTER,
    LABELER,
    "images",
    "Images processed; outcome is labelled, or why it was quarantined",
    ("outcome",),
)
SHARD_EVENTS = Metric(
    "shard_events",
    Kind.COUNTER,
    LABELER,
    "events",
    "Damage to shards that belongs to no single sample",
    ("reason",),
)
READ_BYTES = Metric(
    "read_bytes",
    Kind.COUNTER,
    LABELER,
    "bytes",
    "Bytes of tars (inflated) and loose images processed",
)
PARTS = Metric(
    "parts",
    Kind.COUNTER,
    LABELER,
    "parts",
    "Parts published",
)
STAGE_SECONDS = Metric(
    "stage_seconds",
    Kind.COUNTER,
    LABELER,
    "seconds",
    "Time spent in a stage, summed over threads: read, hash, decode, resize, classify, write",
    ("stage",),
)
WAIT_SECONDS = Metric(
    "wait_seconds",
    Kind.COUNTER,
    LABELER,
    "seconds",
    "Time that units waited for something: read (nothing was read yet), compute (decode and classify are at work), "
    "publish (the part before is not published yet)",
    ("source",),
)
UNITS = Metric(
    "units",
    Kind.COUNTER,
    LABELER,
    "units",
    "Attempts at units that ended; outcome is finished, stopped, or why it failed",
    ("outcome",),
)
UNIT_SECONDS = Metric(
    "unit_seconds",
    Kind.HISTOGRAM,
    LABELER,
    "seconds",
    "Time that a labeler takes for a unit, two at once",
    buckets=(1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200),
)
QUEUE_DEPTH = Metric(
    "queue_depth",
    Kind.GAUGE,
    LABELER,
    "items",
    "What waits: read (chunks that are read), work (pieces for a thread), device (batches for a GPU), publish (parts)",
    ("queue",),
)
HANGING_THREADS = Metric(
    "hanging_threads",
    Kind.GAUGE,
    LABELER,
    "threads",
    "Threads that hang in a decoder and were replaced",
)
PROCESS_MEMORY = Metric(
    "process_memory_bytes",
    Kind.GAUGE,
    LABELER,
    "bytes",
    "Resident memory of the labeler",
)
AVAILABLE_MEMORY = Metric(
    "available_memory_bytes",
    Kind.GAUGE,
    LABELER,
    "bytes",
    "Memory that the labeler could still take: of its machine, or of its container where that has a limit",
)
DEVICE_MEMORY = Metric(
    "device_memory_bytes",
    Kind.GAUGE,
    LABELER,
    "bytes",
    "Memory of the labeler's GPU in use by all processes; on a GPU only",
)
DEVICE_MEMORY_TOTAL = Metric(
    "device_memory_total_bytes",
    Kind.GAUGE,
    LABELER,
    "bytes",
    "Memory of the labeler's GPU; on a GPU only",
)
LABELER_DEATHS = Metric(
    "labeler_deaths",
    Kind.COUNTER,
    DRIVER,
    "deaths",
    "Labelers, and processes that decode for one, that died and were replaced",
)
JOB_IMAGES = Metric(
    "job_images",
    Kind.GAUGE,
    DRIVER,
    "images",
    "Images done in this run, each counted once",
)
JOB_IMAGES_EXPECTED = Metric(
    "job_images_expected",
    Kind.GAUGE,
    DRIVER,
    "images",
    "Images to be done in this run, estimated where the plan does not know; absent before the first estimate",
)
JOB_UNITS = Metric(
    "job_units",
    Kind.GAUGE,
    DRIVER,
    "units",
    "Units of this run; state is done, failed or left",
    ("state",),
)
JOB_BAD_RATIO = Metric(
    "job_bad_ratio",
    Kind.GAUGE,
    DRIVER,
    "0-1",
    "Share of this run's images that are quarantined",
)
JOB_BAD_RATIO_LIMIT = Metric(
    "job_bad_ratio_limit",
    Kind.GAUGE,
    DRIVER,
    "0-1",
    "The share at which the job stops, --max-bad-rate",
)
JOB_FAILED_UNITS_LIMIT = Metric(
    "job_failed_units_limit",
    Kind.GAUGE,
    DRIVER,
    "units",
    "The number of failed units beyond which the job stops, --max-failed-units",
)

CATALOGUE = (
    IMAGES,
    SHARD_EVENTS,
    READ_BYTES,
    PARTS,
    STAGE_SECONDS,
    WAIT_SECONDS,
    UNITS,
    UNIT_SECONDS,
    QUEUE_DEPTH,
    HANGING_THREADS,
    PROCESS_MEMORY,
    AVAILABLE_MEMORY,
    DEVICE_MEMORY,
    DEVICE_MEMORY_TOTAL,
    LABELER_DEATHS,
    JOB_IMAGES,
    JOB_IMAGES_EXPECTED,
    JOB_UNITS,
    JOB_BAD_RATIO,
    JOB_BAD_RATIO_LIMIT,
    JOB_FAILED_UNITS_LIMIT,
)


class Meter(Protocol):
    """Takes readings of metrics, from any thread."""

    def add(self, metric: Metric, value: float, **labels: str) -> None:
        """Add to a counter; adding 0 is no reading."""

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Add a value to a histogram."""

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Set a gauge; Ray drops it after 20 s unless it is set again."""

    def sample(self, metric: Metric, read: Callable[[], float | None], **labels: str) -> None:
        """Read a gauge regularly from now on; None is no reading. ``read`` must be quick."""


class NoMeter:
    """A meter that drops all readings."""

    def add(self, metric: Metric, value: float, **labels: str) -> None:
        """Do nothing."""

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Do nothing."""

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Do nothing."""

    def sample(self, metric: Metric, read: Callable[[], float | None], **labels: str) -> None:
        """Do nothing."""


def markdown_table() -> str:
    """The catalogue as a Markdown table, for deploy/grafana/README.md."""
    lines = ["| metric | kind | labels | of | what |", "|---|---|---|---|---|"]
    for metric in CATALOGUE:
        labels = " ".join(f"`{label}`" for label in metric.labels)
        about = f"{metric.description} ({metric.unit})"
        cells = (f"`{metric.exported_name}`", metric.kind, labels, metric.source, about)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def job_labels(fingerprint: str) -> dict[str, str]:
    """Labels that all metrics of a job have.

    Args:
        fingerprint: The job's, as in ``job.json``.
    """
    return {JOB_LABEL: fingerprint[:_JOB_DIGITS]}
