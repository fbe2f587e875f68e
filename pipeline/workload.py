"""What engines run, and what they promise. Nothing here knows of images.

Items and what comes back are JSON-able dicts. A worker is made once per process, from a factory and
large binary blobs, and may be called for a few items at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Item = dict[str, Any]


class Worker(Protocol):
    """What an engine runs: called with an item, yields dicts; asks ``stopping`` now and then."""

    def __call__(self, item: Item, stopping: Callable[[], bool]) -> Iterator[Item]:
        """Work on an item."""

    def close(self) -> None:
        """Let go of threads; no call is running any more."""


class WorkerFactory(Protocol):
    """Makes a worker in the process where it will run."""

    def __call__(self, blobs: Mapping[str, bytes], num_threads: int) -> Worker:
        """Make one."""


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
    """

    factory: WorkerFactory
    blobs: Mapping[str, bytes]
    items: Sequence[Item]
    items_at_once: int
    on_gpu: bool
    num_workers: int | None
    num_threads: int | None


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

    def close(self) -> None:
        """Let go of everything."""
