"""Keep a device busy: batches come in from many threads, and predictions go out as futures.

One thread feeds the device, and never waits for the batch that it has just started. Each batch takes three steps. While
the host waits for a step of one batch, the device works on the next batch::

    host    start 1   start 2   recompute 1   start 3   recompute 2   finish 1   start 4 ...
    device  |first pass 1 |first pass 2 |second 1|first pass 3 |second 2|first pass 4 ...
    copies  crops 1   crops 2   flags 1    crops 3   flags 2    results 1

- **start**: the crops are copied on their own stream, every member computes them, and the copy of the flags that
  mark near ties to the host starts.
- **recompute**: the flags have arrived. The marked images are computed again in fp32, and the copy of the results
  starts.
- **finish**: the results have arrived.

Which images are computed together depends on the batch alone, not on other batches.
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

from pipeline.models.device_errors import is_out_of_memory
from pipeline.models.ensemble import Array, Ensemble, FirstPass, Predictions
from pipeline.models.preprocessing import Geometry

_AHEAD = 1  # batches that are started before an older one is recomputed, and recomputed before one is finished
_LAST_TURN = 1 << 62

Crops = Mapping[Geometry, torch.Tensor]


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The predictions of a batch.

    Attributes:
        predictions: Predictions for its images, in order.
        seconds: Time that the device spent on it, about.
    """

    predictions: Predictions
    seconds: float


class Transfer(Protocol):
    """Copies to a device and back. Only the function that ``download`` returns waits for the device."""

    def upload(self, tensors: Crops) -> Crops:
        """Copy tensors from host memory to the device."""

    def upload_indices(self, indices: Array) -> torch.Tensor:
        """Copy a few int64 numbers to the device."""

    def download(self, tensor: torch.Tensor) -> Callable[[], Array]:
        """Start a copy to the host; the returned function waits for it and returns it."""


class HostTransfer:
    """No copies: the device is the CPU."""

    def upload(self, tensors: Crops) -> Crops:
        """Return them as they are."""
        return tensors

    def upload_indices(self, indices: Array) -> torch.Tensor:
        """Wrap them."""
        return torch.from_numpy(indices)

    def download(self, tensor: torch.Tensor) -> Callable[[], Array]:
        """Return its ``numpy`` method."""
        return tensor.numpy


class CudaTransfer:
    """Copies that run in parallel to the computation, if host memory is pinned.

    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html (CUDA streams; use pinned memory buffers)
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's own

    def upload(self, tensors: Crops) -> Crops:
        """Copy on the stream for copies; the device waits for it before the next computation."""
        compute = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._copies):
            uploaded = {key: tensor.to(self._device, non_blocking=True) for key, tensor in tensors.items()}
        compute.wait_stream(self._copies)
        for tensor in uploaded.values():
            tensor.record_stream(compute)  # the next copy must not reuse its memory during the computation
        return uploaded

    def upload_indices(self, indices: Array) -> torch.Tensor:
        """Copy on the stream of the computation, because they are few."""
        return torch.from_numpy(indices).pin_memory().to(self._device, non_blocking=True)

    def download(self, tensor: torch.Tensor) -> Callable[[], Array]:
        """Copy on the stream of the computation, because it is small."""
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        host.copy_(tensor, non_blocking=True)
        # a blocking event sleeps; the default one keeps a core busy that could decode
        arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # torch's own
        arrived.record(torch.cuda.current_stream(self._device))

        def wait() -> Array:
            arrived.synchronize()
            return host.numpy()

        return wait


@dataclass(order=True, slots=True)
class _Task:
    """A batch in the queue; without crops, the request to stop."""

    turn: int
    order: int
    crops: Crops | None = field(compare=False)
    future: Future[BatchResult] = field(compare=False)
    ensemble: Ensemble = field(compare=False)


@dataclass(slots=True)
class _InFlightBatch:
    """A batch that the device is working on."""

    future: Future[BatchResult]
    ensemble: Ensemble
    first: FirstPass
    wait_flags: Callable[[], Array] | None
    wait_results: Callable[[], Array] | None = None


class DeviceQueue:
    """Feeds the device of an ensemble from its own thread, in which the members are warmed up first.

    To be made before other threads of the process use the device: warming up refuses what waits for it.

    Args:
        ensemble: The members on their device.

    Raises:
        RuntimeError: The device has failed.
    """

    def __init__(self, ensemble: Ensemble) -> None:
        self._ensemble = ensemble
        self._transfer: Transfer = CudaTransfer(ensemble.device) if ensemble.device.type == "cuda" else HostTransfer()
        self._tasks: queue.PriorityQueue[_Task] = queue.PriorityQueue()
        self._order = itertools.count()
        self._started: deque[_InFlightBatch] = deque()
        self._recomputed: deque[_InFlightBatch] = deque()
        self._free_since = 0.0
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()
        self._ready.result()

    def submit(self, turn: int, crops: Crops, ensemble: Ensemble | None = None) -> Future[BatchResult]:
        """Predict a batch.

        Args:
            turn: Batches with a lower number go first.
            crops: For each geometry of the ensemble uint8, (B, 3, S, S), in host memory, pinned where the device
                is a GPU; it must stay as it is until the future is done.
            ensemble: A subset of the members; None for all.
        """
        task = _Task(turn, next(self._order), crops, Future(), ensemble or self._ensemble)
        self._tasks.put(task)
        return task.future

    @property
    def depth(self) -> int:
        """Number of batches in the queue."""
        return self._tasks.qsize()

    def close(self) -> None:
        """Finish all submitted batches, and end the thread."""
        self._tasks.put(_Task(_LAST_TURN, next(self._order), None, Future(), self._ensemble))
        self._thread.join()

    def _run(self) -> None:
        try:
            self._ensemble.warm_up()
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits for it
            self._ready.set_exception(error)
        else:
            self._ready.set_result(None)
            self._loop()

    def _loop(self) -> None:
        while True:
            idle = not (self._started or self._recomputed)
            try:
                task = self._tasks.get(block=idle)
            except queue.Empty:
                self._step()  # the queue is empty: take one step, and look again
                continue
            if task.crops is None:
                self._drain()
                return
            if idle:
                self._free_since = time.perf_counter()
            if task.future.set_running_or_notify_cancel():
                self._start(task.crops, task.future, task.ensemble)
            while len(self._started) > _AHEAD or len(self._recomputed) > _AHEAD:
                self._step(_AHEAD)
            del task

    def _step(self, ahead: int = 0) -> None:
        """Take the oldest batch one step further; recompute before finish, so that the device has work."""
        if len(self._started) > ahead:
            self._recompute(self._started.popleft())
        elif self._recomputed:
            self._finish(self._recomputed.popleft())

    def _drain(self) -> None:
        while self._started or self._recomputed:
            self._step()

    def _start(self, crops: Crops, future: Future[BatchResult], ensemble: Ensemble) -> None:
        try:
            first = self._first_pass(crops, ensemble)
            wait_flags = None if first.recompute_MB is None else self._transfer.download(first.recompute_MB)
        except BaseException as error:  # noqa: BLE001 - raised to the caller by result()
            future.set_exception(error)
            return
        batch = _InFlightBatch(future, ensemble, first, wait_flags)
        if wait_flags is None:
            self._recompute(batch)  # there is nothing to wait for
        else:
            self._started.append(batch)

    def _first_pass(self, crops: Crops, ensemble: Ensemble) -> FirstPass:
        try:
            return ensemble.first_pass(self._transfer.upload(crops))
        except RuntimeError as error:
            if not is_out_of_memory(error) or not (self._started or self._recomputed):
                raise
        # Without other batches it may fit. Not before the error is gone: its traceback holds the tensors of this one.
        self._drain()
        torch.cuda.empty_cache()
        return ensemble.first_pass(self._transfer.upload(crops))

    def _recompute(self, batch: _InFlightBatch) -> None:
        try:
            where = [] if batch.wait_flags is None else self._where(batch.wait_flags())
            batch.wait_results = self._transfer.download(batch.ensemble.second_pass(batch.first, where))
        except BaseException as error:  # noqa: BLE001 - likewise
            batch.future.set_exception(error)
        else:
            self._recomputed.append(batch)

    def _where(self, flags_MB: Array) -> list[torch.Tensor]:
        """Indices of the images that each member must compute again, in one copy to the device."""
        indices_by_member = [np.flatnonzero(flags_B) for flags_B in flags_MB]
        if not any(len(found) for found in indices_by_member):
            return []
        uploaded = self._transfer.upload_indices(np.concatenate(indices_by_member))
        return list(torch.split(uploaded, [len(found) for found in indices_by_member]))

    def _finish(self, batch: _InFlightBatch) -> None:
        assert batch.wait_results is not None
        try:
            predictions = batch.ensemble.unpack(batch.wait_results())
        except BaseException as error:  # noqa: BLE001 - likewise
            batch.future.set_exception(error)
            return
        now = time.perf_counter()
        seconds, self._free_since = now - self._free_since, now
        batch.future.set_result(BatchResult(predictions, seconds))
