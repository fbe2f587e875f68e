"""What engines run, and what they promise. Nothing here knows of images.

Items and what comes back are JSON-able dicts. A worker is made once per process, from a factory and
large binary blobs, and may be called for a few items at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.metrics import Meter

Item = dict[str, Any]
MAX_DEATHS = 10


class Worker(Protocol):
    """What an engine runs: called with an item, yields dicts; calls ``stopping`` now and then."""

    def __call__(self, item: Item, stopping: Callable[[], bool]) -> Iterator[Item]:
        """Work on an item."""

    def close(self) -> None:
        """Let go of threads; no call is running any more."""


class WorkerFactory(Protocol):
    """Makes a worker in the process where it will run."""

    def __call__(self, blobs: Mapping[str, bytes], num_threads: int, meter: Meter) -> Worker:
        """Make one, which may report to a meter."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is to be run.

    Attributes:
        factory: Makes the worker; must survive pickling.
        blobs: Large binary arguments of the factory, by name.
        items: What to call the worker with.
        items_at_once: How many items a worker takes at a time.
        on_gpu: Whether each worker takes a GPU; otherwise it takes a machine.
        num_workers: How many workers, or None for as many as fit.
        num_threads: Threads of a worker, or None for as many as it has CPUs.
        is_progress: Whether what a worker yielded tells of something that is done for good, so that it need not
            be done again if the worker dies now.
        labels: On every metric of it, whoever reports it.
    """

    factory: WorkerFactory
    blobs: Mapping[str, bytes]
    items: Sequence[Item]
    items_at_once: int
    on_gpu: bool
    num_workers: int | None
    num_threads: int | None
    is_progress: Callable[[Item], bool] = bool
    labels: Mapping[str, str] = field(default_factory=dict)


class DeathLimit:
    """How often workers may die: without limit while there is progress, so that machines may come and go.

    What counts is how often one worker has died since anything was last done for good, by whichever worker:
    when many machines go at once, each of their workers dies once. One that dies again and again, with
    nothing done by any of them in between, would do so for ever.
    """

    def __init__(self) -> None:
        self._progressed = False
        self._deaths_before: Mapping[str, int] = {}

    def note_progress(self) -> None:
        """Something is done for good."""
        self._progressed = True

    def is_reached(self, deaths: Mapping[str, int]) -> bool:
        """Whether some worker has died too often.

        Args:
            deaths: How often each worker has died since the beginning.
        """
        if self._progressed:
            self._progressed, self._deaths_before = False, deaths
        return any(count - self._deaths_before.get(worker, 0) >= MAX_DEATHS for worker, count in deaths.items())


@dataclass(frozen=True, slots=True)
class Share:
    """What one worker can count on, wherever it runs.

    Attributes:
        num_cpus: CPUs.
        memory_bytes: Of its GPU, or for a worker on CPUs, of its machine; None where that cannot be known.
        own_process: Whether it runs in a process of its own, which loads everything anew.
    """

    num_cpus: int
    memory_bytes: int | None
    own_process: bool


class Engine(Protocol):
    """Runs workloads. ``run`` yields None when nothing came for a while."""

    def num_gpus(self) -> int:
        """GPUs that workers could use."""

    def share(self, *, on_gpu: bool, num_workers: int | None) -> Share:
        """What each of so many workers would get; None is as many as fit."""

    def start(self) -> None:
        """Get ready to run; on the main thread, and before anyone takes over signals."""

    def run(self, workload: Workload, stop: threading.Event) -> Iterator[Item | None]:
        """Run a workload to its end, or until a little after ``stop`` is set."""

    def meter(self, workload: Workload) -> Meter:
        """Where whoever runs a workload reports on it; after the start."""

    def close(self) -> None:
        """Let go of everything."""
