"""Host processes, seen from the labeler's process: started, given units, replaced when they die."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import queue
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.connection import Connection

from pipeline.engines.workload import Item
from pipeline.errors import EngineError
from pipeline.hosts.crop_memory import CropLayout, CropMemory
from pipeline.hosts.messages import (
    Answer,
    Channel,
    Close,
    Ended,
    Gauges,
    Log,
    Predict,
    Reading,
    Ready,
    Result,
    Setup,
    Stop,
    Work,
    portable,
)
from pipeline.hosts.meters import HostMetrics
from pipeline.machine import process_cpu_s
from pipeline.models.device_queue import BatchResult, Crops

_POLL_S = 0.2
_CLOSE_S = 30.0
_START_S = 300.0
_KILL_S = 10.0

Submit = Callable[[int, Crops, "tuple[str, ...] | None"], "Future[BatchResult]"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SharedDevice:
    """What all host processes of a labeler share.

    Attributes:
        submit: Queues a batch for the device; see :meth:`pipeline.labeler.backends.InProcessBackend.submit`.
        pinned: Whether crops are pinned for a GPU.
        metrics: Where metrics go.
    """

    submit: Submit
    pinned: bool
    metrics: HostMetrics


class HostDied(Exception):  # noqa: N818 - what happened
    """The host process of an item is gone."""


class Host:
    """One host process, which is started again after it died.

    Args:
        fork: Forks a process, from descriptors of its connection and its crop memory; returns its process id.
        setup: What it is for.
        layout: Of its crops.
        device: What it shares with others: the device, and the meter.
    """

    def __init__(self, fork: Callable[[int, int], int], setup: Setup, layout: CropLayout, device: SharedDevice) -> None:
        self._fork = fork
        self._setup = setup
        self._memory = CropMemory.make(layout)
        self._device = device
        self._pins = True
        self._pinned: set[int] = set()
        self._process = self._start()

    def _start(self) -> _Process:
        process = _Process(self._fork, self._setup, self._memory)
        threading.Thread(target=self._receive, args=(process,), name="host", daemon=True).start()
        return process

    def run(self, item: Item, stopping: Callable[[], bool]) -> Iterator[Item]:
        """Have it work on an item.

        Raises:
            HostDied: It died.
            EngineError: It does not start.
        """
        process = self._process
        try:
            process.ready.result(_START_S)
        except TimeoutError as error:
            raise EngineError(f"a process that decodes images has not started in {_START_S:g} s") from error
        number, stream = process.begin(item)
        stopped = False
        while True:
            if not stopped and stopping():
                stopped = True
                process.send(Stop())
            try:
                message = stream.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if isinstance(message, Result):
                yield message.result
                continue
            process.streams.pop(number, None)
            if message.error is not None:
                raise message.error
            return

    def _receive(self, process: _Process) -> None:
        """In a thread: take what a process sends, until it is gone."""
        try:
            while True:
                message = process.channel.receive()
                if isinstance(message, Predict):
                    self._predict(process, message)
                elif isinstance(message, Result | Ended):
                    process.streams[message.number].put(message)
                elif isinstance(message, Reading | Gauges):
                    self._device.metrics.take(self, message)
                elif isinstance(message, Log):
                    logging.getLogger(message.logger).log(message.level, "%s", message.text)
                elif isinstance(message, Ready):
                    process.ready.set_result(None)
        except (EOFError, OSError):
            pass  # as processes end
        finally:
            self._device.metrics.forget(self)
            process.lose()

    def _predict(self, process: _Process, message: Predict) -> None:
        if self._device.pinned and self._pins and message.batch not in self._pinned:
            try:
                self._memory.pin(message.batch)
            except RuntimeError as error:
                self._pins = False
                _log.warning("crops cannot be pinned, so that copies to the GPU wait: %s", error)
            else:
                self._pinned.add(message.batch)
        batch = self._memory.batch(message.batch, message.geometries)
        crops = {geometry: slots[: message.num_images] for geometry, slots in batch.items()}
        future = self._device.submit(message.turn, crops, message.new)
        future.add_done_callback(lambda done: process.send(Answer(message.number, _outcome(done))))

    def restart(self) -> bool:
        """Start it again; returns whether it was gone."""
        if not self._process.gone:
            return False
        self._process.end(0.0)
        self._process = self._start()
        return True

    def cpu_s(self) -> float:
        """CPU time of its process, seconds."""
        return self._process.cpu_s()

    def close(self) -> None:
        """End it; it is at no item any more."""
        self._process.send(Stop())
        self._process.send(Close())
        self._process.end(_CLOSE_S)

    def release(self) -> None:
        """Let go of its crops, which the device does not read any more."""
        for number in self._pinned:
            self._memory.unpin(number)
        self._memory.close()


def _outcome(done: Future[BatchResult]) -> BatchResult | BaseException:
    error = done.exception()
    return done.result() if error is None else portable(error)


class _Process:
    """One life of a host process.

    Attributes:
        channel: To it.
        ready: Done when it can work.
        streams: What it says of each item that it is at.
    """

    def __init__(self, fork: Callable[[int, int], int], setup: Setup, memory: CropMemory) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._pid = fork(theirs.fileno(), memory.descriptor)
        self.channel = Channel(Connection(ours.detach()))
        self.ready: Future[None] = Future()
        self.streams: dict[int, queue.SimpleQueue[Result | Ended]] = {}
        self._ended = threading.Event()
        self._numbers = itertools.count()
        self._outbox: queue.SimpleQueue[object | None] = queue.SimpleQueue()
        self.send(memory.layout)
        self.send(setup)
        threading.Thread(target=self._post, name="to-host", daemon=True).start()

    @property
    def gone(self) -> bool:
        """Whether it has ended."""
        return self._ended.is_set()

    def send(self, message: object) -> None:
        """Send a message soon; a device must not wait until a busy process has taken it."""
        self._outbox.put(message)

    def _post(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                self.channel.send(message)
            except OSError:
                return  # it is gone, as whoever receives from it finds

    def begin(self, item: Item) -> tuple[int, queue.SimpleQueue[Result | Ended]]:
        """Send it an item; returns the item's number, and what comes of it."""
        number, stream = next(self._numbers), queue.SimpleQueue[Result | Ended]()
        self.streams[number] = stream
        self.send(Work(number, item))
        if self.gone:  # and has not seen this item's stream
            stream.put(Ended(number, HostDied()))
        return number, stream

    def lose(self) -> None:
        """It is gone, or ends as nobody listens to it any more: say so to all who wait."""
        self.channel.close()
        self._ended.set()
        if not self.ready.done():
            self.ready.set_exception(HostDied())
        for number, stream in tuple(self.streams.items()):
            stream.put(Ended(number, HostDied()))

    def cpu_s(self) -> float:
        """CPU time so far, seconds."""
        return process_cpu_s(self._pid)

    def end(self, grace_s: float) -> None:
        """Wait until it has ended; kill it after a grace period, seconds."""
        if not self._ended.wait(grace_s):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._ended.wait(_KILL_S)
        self._outbox.put(None)
