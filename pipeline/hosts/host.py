"""The host process: a worker whose forward passes another process runs.

It ends when the labeler's process does, wherever it is then: its units are as if their labeler had died.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from multiprocessing.connection import Connection
from typing import Any

from pipeline.engines.end_when_stuck import exit_when_stuck
from pipeline.engines.workload import Item, Worker
from pipeline.hosts.crop_memory import CropLayout, CropMemory
from pipeline.hosts.messages import (
    Answer,
    Channel,
    Close,
    Ended,
    Log,
    Predict,
    Ready,
    Result,
    Setup,
    Stop,
    Work,
    portable,
)
from pipeline.hosts.meters import ForwardedMeter
from pipeline.labeler.backends import MakeBatch
from pipeline.labeler.predictors import DevicePredictor
from pipeline.labeler.tasks import Predictor
from pipeline.metrics import NoMeter
from pipeline.models.device_queue import BatchResult, Crops
from pipeline.models.preprocessing import Geometry
from pipeline.stages.crop import Batch, BatchPool

_OBJECTS_BEFORE_COLLECTING = 20_000  # rows of a part are many, and make no cycles


class RemoteDevice:
    """The device of the labeler's process, seen from a host process: batches go there, and predictions come back.

    Args:
        channel: To the labeler's process.
        memory: Where the crops are put.
    """

    def __init__(self, channel: Channel, memory: CropMemory) -> None:
        self.memory = memory
        self._channel = channel
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[BatchResult]] = {}
        self._batches = itertools.count()

    def submit(self, turn: int, crops: Crops, new: tuple[str, ...] | None) -> Future[BatchResult]:
        """Have a batch predicted: see :meth:`pipeline.labeler.backends.InProcessBackend.submit`."""
        number, future = next(self._numbers), Future[BatchResult]()
        self._waiting[number] = future
        num_images = len(next(iter(crops.values())))
        self._channel.send(Predict(number, turn, self.memory.number_of(crops), tuple(crops), num_images, new))
        return future

    def resolve(self, answer: Answer) -> None:
        """Pass an answer on to whoever waits for it."""
        future = self._waiting.pop(answer.number)
        if not future.set_running_or_notify_cancel():
            return
        if isinstance(answer.result, BaseException):
            future.set_exception(answer.result)
        else:
            future.set_result(answer.result)

    @property
    def depth(self) -> int:
        """Batches without an answer."""
        return len(self._waiting)

    def next_batch(self, geometries: Sequence[Geometry]) -> Mapping[Geometry, Any]:
        """The crops of a batch that nobody has used yet."""
        return self.memory.batch(next(self._batches), geometries)


class RemoteBackend:
    """A :class:`pipeline.labeler.backends.ForwardBackend` whose device belongs to the labeler's process.

    Args:
        device: Of the labeler's process.
        device_chunks: Chunks of a unit that wait for the device or are on it.
        make_batch: Makes a batch of its crops.
    """

    def __init__(self, device: RemoteDevice, device_chunks: int, make_batch: MakeBatch = Batch) -> None:
        self.chunk_images = device.memory.layout.num_slots
        self.device_chunks = device_chunks
        self._device = device
        self._make_batch = make_batch

    def predictor(self, new: Sequence[str] | None) -> Predictor:
        """The step from crops to predictions."""
        aliases = None if new is None else tuple(new)
        return DevicePredictor(lambda turn, crops: self._device.submit(turn, crops, aliases))

    def batches(self, geometries: Sequence[Geometry]) -> BatchPool:
        """Where crops of these geometries are put: in shared memory."""
        return BatchPool(lambda: self._make_batch(self._device.next_batch(geometries)))

    @property
    def depth(self) -> int:
        """Batches that wait for the device."""
        return self._device.depth

    def close(self) -> None:
        """Nothing to finish: no unit is being labelled any more."""


class _LogSender(logging.Handler):
    """Sends log records to the labeler's process, whose handlers are those that the user has set."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        self._channel.send(Log(record.name, record.levelno, record.getMessage()))


class _Service:
    """Serves one labeler's process until it says so, or is gone."""

    def __init__(self, channel: Channel, device: RemoteDevice) -> None:
        self._channel = channel
        self._device = device
        self._stopping = threading.Event()

    def run(self) -> None:
        """Serve.

        Raises:
            EOFError, OSError: The labeler's process is gone.
        """
        setup = self._channel.receive()
        assert isinstance(setup, Setup)
        logging.getLogger("pipeline").setLevel(setup.log_level)
        meter = ForwardedMeter(self._channel) if setup.metered else NoMeter()
        worker: Worker = setup.make_worker(self._device, meter=meter)
        gc.set_threshold(_OBJECTS_BEFORE_COLLECTING)
        self._channel.send(Ready())
        while True:
            message = self._channel.receive()
            if isinstance(message, Answer):
                self._device.resolve(message)
            elif isinstance(message, Work):
                threading.Thread(target=self._work, args=(worker, message), name="unit", daemon=True).start()
            elif isinstance(message, Stop):
                self._stopping.set()
            elif isinstance(message, Close):
                worker.close()
                return

    def _work(self, worker: Worker, work: Work) -> None:
        error = None
        try:
            for result in self._results(worker, work.item):
                self._channel.send(Result(work.number, result))
        except BaseException as raised:  # noqa: BLE001 - raised in the labeler's process
            error = portable(raised)
        with contextlib.suppress(OSError):  # the labeler's process is gone, and this one is about to be
            self._channel.send(Ended(work.number, error))

    def _results(self, worker: Worker, item: Item) -> Iterator[Item]:
        stopping: Callable[[], bool] = self._stopping.is_set
        yield from worker(item, stopping)


def serve(connection: int, memory: int) -> None:
    """Run a host process.

    Args:
        connection: Descriptor of its end of the connection to the labeler's process.
        memory: Descriptor of its :class:`pipeline.hosts.crop_memory.CropMemory`.
    """
    channel = Channel(Connection(connection))
    try:
        layout = channel.receive()
        assert isinstance(layout, CropLayout)
        logging.getLogger("pipeline").addHandler(_LogSender(channel))
        exit_when_stuck()
        _Service(channel, RemoteDevice(channel, CropMemory(layout, memory))).run()
    except (EOFError, OSError):
        os._exit(1)  # whatever its threads are at
