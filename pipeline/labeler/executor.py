"""The executor: runs chunks on the worker threads of one process, and yields them in order.

It knows threads, not images: the functions that prepare a piece of a chunk, and forward a whole one, are arguments.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import InvalidStateError
from types import TracebackType

from pipeline import metrics
from pipeline.labeler.chunks import PIECE_IMAGES, Chunk, PartEnd
from pipeline.labeler.metering import Timed
from pipeline.labeler.tasks import ChunkResult, ChunkTask, Piece, Steps
from pipeline.labeler.threads import ReadAhead, Workers
from pipeline.labeler.watchdog import Overtaken
from pipeline.metrics import Meter
from pipeline.records import Receipt

_CHUNKS_READ_AHEAD = 4

PrepareStep = Callable[[Piece], None]
ForwardStep = Callable[[ChunkTask, ChunkResult], None]


class Executor:
    """Runs chunks on threads. Safe to call from several threads.

    Args:
        num_threads: Worker threads.
        chunk_images: Samples in a chunk at most.
        prepare: Called with each piece of a chunk, in a worker thread.
        forward: Called with each chunk when all its pieces are prepared, in the thread that prepared the last one.
        on_start: Called once in each worker thread, first.
        device_chunks: Chunks of a unit that wait for a device or are on it; 0 if no device computes the predictions.
            For a device chunks are cut into pieces small enough that all threads work on the older unit.
    """

    def __init__(
        self,
        num_threads: int,
        chunk_images: int,
        prepare: PrepareStep,
        forward: ForwardStep,
        *,
        on_start: Callable[[], object],
        device_chunks: int,
    ) -> None:
        self.chunk_images = chunk_images
        self._prepare = prepare
        self._forward = forward
        self._piece_images = PIECE_IMAGES if device_chunks else None
        self.chunks_ahead = num_threads + 1
        self.read_ahead = device_chunks or _CHUNKS_READ_AHEAD
        if device_chunks:
            self.chunks_ahead = chunks_ahead_of_device(num_threads, chunk_images, device_chunks)
        self._workers = Workers(num_threads, on_start=on_start)
        self._priorities = itertools.count()  # an earlier unit goes first
        self._reading: set[ReadAhead[Chunk | PartEnd]] = set()

    def stream(self, chunks: Iterator[Chunk | PartEnd], steps: Steps) -> ChunkStream:
        """Run a unit's chunks, in order.

        Args:
            chunks: What is cut of the unit; read ahead in a thread.
            steps: What its samples go through.
        """
        return ChunkStream(self, chunks, steps, next(self._priorities), self._reading)

    def submit(self, chunk: Chunk, steps: Steps, priority: int) -> ChunkTask:
        """Begin with a chunk."""
        task = ChunkTask(chunk, steps, priority, self._piece_images)
        for piece in task.pieces:
            self._workers.submit(priority, self._run, piece, self._prepare)
        return task

    def take_over(self, piece: Piece, thread: threading.Thread, prepare: PrepareStep) -> None:
        """Replace a thread that hangs, and have another one go on with its piece."""
        self._workers.replace(thread)
        self._workers.submit(piece.task.priority, self._run, piece, prepare)

    @property
    def num_hanging(self) -> int:
        """Threads that were replaced and have not come back since."""
        return self._workers.num_lost

    def sample_gauges(self, meter: Meter) -> None:
        """Have a meter sample how much is waiting, and what hangs."""
        meter.sample(metrics.QUEUE_DEPTH, lambda: sum(ahead.depth for ahead in tuple(self._reading)), queue="read")
        meter.sample(metrics.QUEUE_DEPTH, lambda: self._workers.depth, queue="work")
        meter.sample(metrics.HANGING_THREADS, lambda: self._workers.num_lost)

    def close(self) -> None:
        """Wait for the threads to end; no chunk is under way any more."""
        self._workers.close()

    def _run(self, piece: Piece, prepare: PrepareStep) -> None:
        """In a worker thread: prepare a piece; who prepares the last one of a chunk has it forwarded."""
        task = piece.task
        if task.done.done():
            return  # cancelled, or another piece has failed
        try:
            prepare(piece)
            whole = task.join(piece)
            if whole is not None:
                self._forward(task, whole)
                task.done.set_result(whole)
        except Overtaken:
            return  # another thread goes on with the piece
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits for the chunk
            with contextlib.suppress(InvalidStateError):  # the chunk was cancelled meanwhile
                task.done.set_exception(error)


class ChunkStream:
    """The results of a unit's chunks in order, with the ends of parts between them. A context manager that iterates."""

    def __init__(
        self,
        executor: Executor,
        chunks: Iterator[Chunk | PartEnd],
        steps: Steps,
        priority: int,
        reading: set[ReadAhead[Chunk | PartEnd]],
    ) -> None:
        self._executor = executor
        self._steps = steps
        self._priority = priority
        self._all_reading = reading
        self._read = Timed(chunks)
        self._ahead = ReadAhead(self._read, executor.read_ahead)

    def __enter__(self) -> ChunkStream:
        self._all_reading.add(self._ahead)
        self._chunks = Timed(self._ahead.__enter__())
        self._ordered = self._in_order()
        self._results = Timed(self._ordered)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ordered.close()
        self._ahead.__exit__(kind, error, traceback)
        self._all_reading.discard(self._ahead)

    def __iter__(self) -> Iterator[ChunkResult | PartEnd]:
        return self._results

    def count_seconds(self, receipt: Receipt) -> None:
        """Note how long reading took, and what was waited for."""
        receipt.stage_s["read"] = self._read.seconds
        waited_s = self._chunks.seconds
        receipt.wait_s |= {"read": waited_s, "compute": self._results.seconds - waited_s}

    def _in_order(self) -> Generator[ChunkResult | PartEnd, None, None]:
        """Send chunks to the worker threads, a few ahead, and yield what comes back in their order."""
        pending: deque[ChunkTask | PartEnd] = deque()
        try:
            for chunk in self._chunks:
                if isinstance(chunk, PartEnd):
                    pending.append(chunk)
                else:
                    pending.append(self._executor.submit(chunk, self._steps, self._priority))
                while len(pending) > self._executor.chunks_ahead:
                    yield self._finished(pending.popleft())
            while pending:
                yield self._finished(pending.popleft())
        finally:
            for item in pending:
                if isinstance(item, ChunkTask):
                    item.cancel()

    def _finished(self, item: ChunkTask | PartEnd) -> ChunkResult | PartEnd:
        if isinstance(item, PartEnd):
            return item
        result = item.done.result()
        self._steps.predictor.finish(result)
        return result


def chunks_ahead_of_device(num_threads: int, chunk_images: int, device_chunks: int) -> int:
    """Chunks of a unit that are under way beside the one that is waited for, so that no thread is idle.

    Args:
        num_threads: Worker threads.
        chunk_images: Samples in a chunk.
        device_chunks: Chunks that wait for the device or are on it.
    """
    return device_chunks + -(-num_threads * PIECE_IMAGES // chunk_images)
