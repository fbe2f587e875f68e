"""A device that is kept busy: batches go in from many threads, predictions come out as futures.

One thread feeds the device and never waits for the batch that it has just given it. Each batch goes through
three steps, and while the host waits for a step of one batch, the device has the next batch to work on::

    host    begin 1   begin 2   settle 1   begin 3   settle 2   finish 1   begin 4 ...
    device  |first pass 1 |first pass 2 |again 1|first pass 3 |again 2|first pass 4 ...
    copies  crops 1   crops 2   flags 1    crops 3   flags 2    answers 1

- **begin**: the crops are copied on a stream of their own, every member sees them, and the flags that say
  which images are near ties start on their way to the host.
- **settle**: the flags are there. Those images go through again in fp32, and the answers start on their way.
- **finish**: the answers are there.

Which images are computed together depends on the batch alone, never on what else is under way.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from pipeline.models.ensemble import Array, Ensemble, FirstPass, Predictions
from pipeline.models.recipe import Geometry

_AHEAD = 1  # batches that are begun before an older one is settled, and settled before an older one is finished
_LAST_TURN = 1 << 62

Crops = Mapping[Geometry, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a batch.

    Attributes:
        predictions: Of its images, in their order.
        seconds: For which it kept the device from other batches, about.
    """

    predictions: Predictions
    seconds: float


class Link(Protocol):
    """The way to a device and back. Nothing but the call that ``download`` returns waits for the device."""

    def upload(self, tensors: Crops) -> Crops:
        """Tensors in host memory to the device."""

    def upload_indices(self, indices: Array) -> torch.Tensor:
        """A few int64 numbers to the device."""

    def download(self, tensor: torch.Tensor) -> Callable[[], Array]:
        """Start a copy to the host; what is returned waits for it and gives it."""


class HostLink:
    """To a CPU there is no way to go."""

    def upload(self, tensors: Crops) -> Crops:
        """The same."""
        return tensors

    def upload_indices(self, indices: Array) -> torch.Tensor:
        """The same."""
        return torch.from_numpy(indices)

    def download(self, tensor: torch.Tensor) -> Callable[[], Array]:
        """The same."""
        return tensor.numpy


class CudaLink:
    """Copies that run beside the computation. Host memory must be pinned, or they would wait for it.

    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html (CUDA streams; use pinned memory buffers)
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's own

    def upload(self, tensors: Crops) -> Crops:
        """On the stream of copies; what is computed next waits for it, on the device."""
        compute = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._copies):
            uploaded = {key: tensor.to(self._device, non_blocking=True) for key, tensor in tensors.items()}
        compute.wait_stream(self._copies)
        for tensor in uploaded.values():
            tensor.record_stream(compute)  # its memory must not go to the next copy while it is computed with
        return uploaded

    def upload_indices(self, indices: Array) -> torch.Tensor:
        """On the stream of the computation: they are few."""
        return torch.from_numpy(indices).pin_memory().to(self._device, non_blocking=True)

    def download(self, tensor: torch.Tensor) -> Callable[[], Array]:
        """On the stream of the computation, after what makes it; it is small."""
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        host.copy_(tensor, non_blocking=True)
        # one that sleeps: the usual event spins, on a core that could decode
        arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # torch's own
        arrived.record(torch.cuda.current_stream(self._device))

        def wait() -> Array:
            arrived.synchronize()
            return host.numpy()

        return wait


@dataclass(order=True, slots=True)
class _Task:
    """A batch that waits for its turn; without crops, the end."""

    turn: int
    order: int
    crops: Crops | None = field(compare=False)
    future: Future[Answer] = field(compare=False)
    ensemble: Ensemble = field(compare=False)


@dataclass(slots=True)
class _Flight:
    """A batch that the device has."""

    future: Future[Answer]
    ensemble: Ensemble
    first: FirstPass
    wait_flags: Callable[[], Array] | None
    wait_answers: Callable[[], Array] | None = None


class DeviceQueue:
    """Feeds an ensemble's device from a thread of its own.

    Args:
        ensemble: The members on their device.
    """

    def __init__(self, ensemble: Ensemble) -> None:
        self._ensemble = ensemble
        self._link: Link = CudaLink(ensemble.device) if ensemble.device.type == "cuda" else HostLink()
        self._tasks: queue.PriorityQueue[_Task] = queue.PriorityQueue()
        self._order = itertools.count()
        self._begun: deque[_Flight] = deque()
        self._settled: deque[_Flight] = deque()
        self._free_since = 0.0
        self._thread = threading.Thread(target=self._loop, name="device", daemon=True)
        self._thread.start()

    def submit(self, turn: int, crops: Crops, ensemble: Ensemble | None = None) -> Future[Answer]:
        """Ask for the predictions of a batch.

        Args:
            turn: Batches of a lower turn go first.
            crops: For each geometry of the ensemble uint8, (B, 3, S, S), in host memory, pinned where the device
                is a GPU; it must stay as it is until the future is done.
            ensemble: Some of the members, if not all are asked.
        """
        task = _Task(turn, next(self._order), crops, Future(), ensemble or self._ensemble)
        self._tasks.put(task)
        return task.future

    @property
    def depth(self) -> int:
        """Batches that wait for the device."""
        return self._tasks.qsize()

    def close(self) -> None:
        """End the thread; what was submitted before is answered."""
        self._tasks.put(_Task(_LAST_TURN, next(self._order), None, Future(), self._ensemble))
        self._thread.join()

    def _loop(self) -> None:
        while True:
            idle = not (self._begun or self._settled)
            try:
                task = self._tasks.get(block=idle)
            except queue.Empty:
                self._step()  # nothing comes in: one step on, and look again
                continue
            if task.crops is None:
                self._drain()
                return
            if idle:
                self._free_since = time.perf_counter()
            if task.future.set_running_or_notify_cancel():
                self._begin(task.crops, task.future, task.ensemble)
            while len(self._begun) > _AHEAD or len(self._settled) > _AHEAD:
                self._step(_AHEAD)
            del task

    def _step(self, ahead: int = 0) -> None:
        """Take the oldest batch one step further; those to be settled first, so that the device has work."""
        if len(self._begun) > ahead:
            self._settle(self._begun.popleft())
        elif self._settled:
            self._finish(self._settled.popleft())

    def _drain(self) -> None:
        while self._begun or self._settled:
            self._step()

    def _begin(self, crops: Crops, future: Future[Answer], ensemble: Ensemble) -> None:
        try:
            try:
                first = ensemble.first_pass(self._link.upload(crops))
            except torch.OutOfMemoryError:
                if not (self._begun or self._settled):
                    raise
                self._drain()  # alone it may fit
                torch.cuda.empty_cache()
                first = ensemble.first_pass(self._link.upload(crops))
            wait_flags = None if first.again_MB is None else self._link.download(first.again_MB)
        except BaseException as error:  # noqa: BLE001 - it is the caller's, who sees it in result()
            future.set_exception(error)
            return
        flight = _Flight(future, ensemble, first, wait_flags)
        if wait_flags is None:
            self._settle(flight)  # there is nothing to wait for
        else:
            self._begun.append(flight)

    def _settle(self, flight: _Flight) -> None:
        try:
            where = [] if flight.wait_flags is None else self._where(flight.wait_flags())
            flight.wait_answers = self._link.download(flight.ensemble.second_pass(flight.first, where))
        except BaseException as error:  # noqa: BLE001 - likewise
            flight.future.set_exception(error)
        else:
            self._settled.append(flight)

    def _where(self, flags_MB: Array) -> list[torch.Tensor]:
        """For each member, which images it should see again: one copy to the device for all."""
        places = [np.flatnonzero(flags_B) for flags_B in flags_MB]
        if not any(len(found) for found in places):
            return []
        uploaded = self._link.upload_indices(np.concatenate(places))
        return list(torch.split(uploaded, [len(found) for found in places]))

    def _finish(self, flight: _Flight) -> None:
        assert flight.wait_answers is not None
        try:
            predictions = flight.ensemble.unpack(flight.wait_answers())
        except BaseException as error:  # noqa: BLE001 - likewise
            flight.future.set_exception(error)
            return
        now = time.perf_counter()
        seconds, self._free_since = now - self._free_since, now
        flight.future.set_result(Answer(predictions, seconds))
