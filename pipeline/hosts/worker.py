"""A labeler whose host side is spread over processes, as engines call it."""

from __future__ import annotations

import collections
import functools
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

from pipeline import metrics
from pipeline.engines.workload import DeathLimit, Item, Worker
from pipeline.errors import EngineError
from pipeline.hosts.crop_memory import CropLayout
from pipeline.hosts.host import RemoteBackend, RemoteDevice
from pipeline.hosts.messages import Setup
from pipeline.hosts.meters import HostMetrics
from pipeline.hosts.pool import Host, HostDied, SharedDevice
from pipeline.hosts.template import Template
from pipeline.labeler.backends import InProcessBackend, chunk_images
from pipeline.labeler.config import LabelerConfig
from pipeline.labeler.executor import chunks_ahead_of_device
from pipeline.labeler.labeler import UNITS_AT_ONCE
from pipeline.labeler.metering import sample_machine_memory
from pipeline.labeler.step_factory import StepFactory
from pipeline.labeler.worker import LabelerWorker
from pipeline.machine import process_memory_bytes
from pipeline.metrics import Meter, NoMeter

THREADS_PER_HOST = 4  # measured: see the speed guide
_DEVICE_CHUNKS = 1  # of a unit; those of several processes keep the device busy

_log = logging.getLogger(__name__)


class LabelingWorker(Worker, Protocol):
    """A labeler as engines call it.

    Attributes:
        units_at_once: Items that it is to be called with at a time.
    """

    units_at_once: int

    def cpu_s(self) -> float:
        """CPU time of all of its processes, seconds."""


def num_hosts(config: LabelerConfig, num_units: int) -> int:
    """Over how many processes the host side of a labeler is spread; 1 is its own.

    Args:
        config: Of the labeler.
        num_units: How many units there are for it.
    """
    if config.device == "cpu" or config.decode == "gpu":  # a core carries a chunk to its end; decoding needs the device
        return 1
    return max(1, min(hosts_for(config.num_threads), num_units))


def hosts_for(num_threads: int) -> int:
    """How many processes so many threads that feed a device should be spread over."""
    return max(1, num_threads // THREADS_PER_HOST)


class LabelerFactory:
    """Makes a labeler where an engine wants it; survives pickling.

    Args:
        settings: Of the :class:`pipeline.labeler.config.LabelerConfig`, without the number of threads.
        num_units: How many units there are for each labeler, about.
    """

    def __init__(self, settings: Mapping[str, Any], num_units: int) -> None:
        self._settings = settings
        self._num_units = num_units

    def units_at_once(self, num_threads: int) -> int:
        """Units that a labeler of so many threads is to be called with at a time."""
        return UNITS_AT_ONCE * num_hosts(self._config(num_threads), self._num_units)

    def _config(self, num_threads: int) -> LabelerConfig:
        return LabelerConfig(num_threads=num_threads, **self._settings)

    def __call__(self, blobs: Mapping[str, bytes], num_threads: int, meter: Meter) -> LabelingWorker:
        """Make one: see :class:`pipeline.engines.workload.WorkerFactory`."""
        return make_labeler_worker(self._config(num_threads), blobs, meter, self._num_units)


def make_labeler_worker(
    config: LabelerConfig, blobs: Mapping[str, bytes], meter: Meter, num_units: int = sys.maxsize
) -> LabelingWorker:
    """Make a labeler as engines call it: in this process alone, or with host processes where that pays.

    Args:
        config: What it does.
        blobs: The members' tensors by alias, as safetensors bytes.
        meter: Where its metrics go.
        num_units: How many units there are for it, about.
    """
    hosts = num_hosts(config, num_units)
    if hosts == 1:
        return LabelerWorker(config, blobs, meter)
    make_worker = functools.partial(labeler_in_host, config)
    return HostedWorker(config, hosts, make_worker, lambda: InProcessBackend(config, blobs, device_thread=True), meter)


def labeler_in_host(
    config: LabelerConfig, device: RemoteDevice, *, num_threads: int, device_chunks: int, meter: Meter
) -> LabelerWorker:
    """Make the labeler of a host process, there.

    Args:
        config: Of the whole labeler.
        device: Of the labeler's process.
        num_threads: Worker threads of this process.
        device_chunks: Chunks of a unit that wait for the device or are on it.
        meter: Where its metrics go.
    """

    def make_steps(own: LabelerConfig) -> StepFactory:
        return StepFactory(own, RemoteBackend(device, device_chunks))

    return LabelerWorker(replace(config, device="cpu", num_threads=num_threads), {}, meter, make_steps=make_steps)


class HostedWorker:
    """A worker whose items are done by host processes, and whose device is in this process.

    Args:
        config: Of the labeler.
        hosts: Number of host processes; they share the threads.
        make_worker: Makes the worker of a host process there: called with its
            :class:`pipeline.hosts.host.RemoteDevice`, ``num_threads``, ``device_chunks`` and ``meter``.
        make_backend: Makes the backend that runs the forward passes, while the processes start.
        meter: Where metrics go.

    Attributes:
        units_at_once: Items that it is to be called with at a time.
    """

    def __init__(
        self,
        config: LabelerConfig,
        hosts: int,
        make_worker: Callable[..., Worker],
        make_backend: Callable[[], InProcessBackend],
        meter: Meter,
    ) -> None:
        shares = [config.num_threads // hosts + (place < config.num_threads % hosts) for place in range(hosts)]
        layout = crop_layout(config, max(shares), _DEVICE_CHUNKS)
        self.units_at_once = UNITS_AT_ONCE * hosts
        self._template = Template()  # which imports while the members are loaded
        self._backend = make_backend()
        host_metrics = HostMetrics(meter, {metrics.PROCESS_MEMORY: process_memory_bytes})
        device = SharedDevice(self._backend.submit, config.device == "cuda", host_metrics)
        self._hosts = [
            Host(
                self._template.fork,
                Setup(
                    functools.partial(make_worker, num_threads=share, device_chunks=_DEVICE_CHUNKS),
                    metered=not isinstance(meter, NoMeter),
                    log_level=_log.getEffectiveLevel(),
                ),
                layout,
                device,
            )
            for share in shares
        ]
        self._running = collections.Counter[Host]()
        self._deaths = collections.Counter[str]()
        self._limit = DeathLimit()
        self._lock = threading.Lock()
        self._meter = meter
        meter.sample(metrics.QUEUE_DEPTH, lambda: self._backend.depth, queue="device")
        sample_machine_memory(meter, on_gpu=config.device == "cuda")

    def __call__(self, item: Item, stopping: Callable[[], bool]) -> Iterator[Item]:
        """Have a host process work on an item; if it dies, another one begins again.

        Raises:
            EngineError: Host processes die again and again, with nothing done in between.
        """
        while True:
            host = self._take()
            try:
                for result in host.run(item, stopping):
                    if result.get("parts") or result.get("finished") or result.get("failure"):
                        self._limit.note_progress()
                    yield result
            except HostDied:
                self._replace(host)
            else:
                return
            finally:
                self._give(host)

    def _take(self) -> Host:
        with self._lock:
            host = min(self._hosts, key=lambda some: self._running[some])
            self._running[host] += 1
            return host

    def _give(self, host: Host) -> None:
        with self._lock:
            self._running[host] -= 1

    def _replace(self, host: Host) -> None:
        with self._lock:
            if not host.restart():
                return  # another item of it was quicker
            name = str(self._hosts.index(host))
            self._deaths[name] += 1
            self._meter.add(metrics.LABELER_DEATHS, 1)
            _log.warning("a process that reads and decodes images has died; its units are begun again in a new one")
            if self._limit.is_reached(dict(self._deaths)):
                raise EngineError(
                    "a process that reads and decodes images died again and again with nothing done in between; "
                    "what kills it is in the kernel's log (too little memory, as a rule)"
                )

    def cpu_s(self) -> float:
        """CPU time of this process and of its host processes, seconds."""
        return time.process_time() + sum(host.cpu_s() for host in self._hosts)

    def close(self) -> None:
        """End the host processes, and let go of the device."""
        for host in self._hosts:
            host.close()
        self._template.close()
        self._backend.close()
        for host in self._hosts:
            host.release()


def crop_layout(config: LabelerConfig, num_threads: int, device_chunks: int) -> CropLayout:
    """How the crops of a host process lie in memory: as many batches as it can ever hold at once.

    Args:
        config: Of the labeler.
        num_threads: Of the host process.
        device_chunks: Chunks of a unit that wait for the device or are on it.
    """
    images = chunk_images(config)
    at_once = UNITS_AT_ONCE * (chunks_ahead_of_device(num_threads, images, device_chunks) + 1)
    pools = 2 if config.reused else 1  # units that older outputs have need the crops of new members only
    geometries = tuple(dict.fromkeys(member.recipe.geometry for member in config.members))
    return CropLayout(geometries, images, pools * at_once)
