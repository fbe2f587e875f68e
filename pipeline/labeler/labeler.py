"""The labeler: one unit from bytes to published parts.

Read it top to bottom and you know what happens to an image.

::

    reader thread          worker threads (one per core)          device thread     caller's thread     uploader
    UnitReader --chunks--> decode, crop into a batch ---------+-> [forward          gather a part ----> one part,
               (bounded)   [forward on the CPU] --------------|    on a GPU] --+--> (in order)          published whole

On the CPU every core carries a chunk from bytes to probabilities, each with one torch thread, because
stages that share cores fight for them. For a GPU the cores take a chunk piece by piece and put the crops
where the device fetches them from; a thread of its own keeps the device busy. A labeler may be called for
two units at once: the second fills the cores and the device where the tail of the first leaves them idle,
and waits wherever the first has work.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from pipeline import metrics
from pipeline.errors import NotAsStored, PublishError, StorageError
from pipeline.labeler.attempts import DEATHS_BEFORE_ISOLATION, Attempts
from pipeline.labeler.chunks import Assembly, Chunk, PartEnd, Ready, cut_chunks
from pipeline.labeler.config import LabelerConfig
from pipeline.labeler.executor import Executor
from pipeline.labeler.metering import Timed, UnitMeter, sample_memory
from pipeline.labeler.stored import StoredReader
from pipeline.labeler.threads import ReadAhead
from pipeline.metrics import Meter, NoMeter
from pipeline.output.ledger import Ledger, translate_out_errors
from pipeline.output.parts import Progress
from pipeline.records import CRASHING, UNAVAILABLE, UNWRITABLE, Cursor, Receipt, Unit
from pipeline.stages.read import UnitReader, failure_reason
from pipeline.stages.write import Part, Writer
from pipeline.storage import Storage

UNITS_AT_ONCE = 2  # one in full swing, one that fills the gaps at its end
_CHUNKS_READ_AHEAD = 4
_GRACE_S = 10.0
_TICK_S = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Committed:
    """A part that is published."""

    name: str
    num_rows: list[int]
    at: float
    seconds: float


class Labeler:
    """Labels units with one resident ensemble. Safe to call from several threads.

    Args:
        config: What to do.
        blobs: The members' tensors by alias, as safetensors bytes.
        device_thread: Whether forward passes run in a thread of their own, as a GPU needs it, or in the threads
            that decode, as is fastest on a CPU; None for what suits the device.
        meter: Where its metrics go; None for nowhere.
    """

    def __init__(
        self,
        config: LabelerConfig,
        blobs: Mapping[str, bytes],
        *,
        device_thread: bool | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._config = config
        self._storage = Storage(config.storage)
        self._executor = Executor(config, blobs, device_thread=device_thread)
        aliases = [member.alias for member in config.members]
        self._writer = Writer(
            config.out,
            self._storage,
            config.fingerprint,
            aliases,
            config.class_names,
            config.keep,
            keep_probs=config.keep_probs,
        )
        self._attempts = Attempts(self._writer.ledger, self._storage, config.run)
        self._uploader = ThreadPoolExecutor(UNITS_AT_ONCE, thread_name_prefix="upload")
        self._turns = itertools.count()
        self._reading: set[ReadAhead[Chunk | PartEnd]] = set()
        self._publishing: set[Future[_Committed]] = set()
        self._meter = meter or NoMeter()
        self._meter_gauges(self._meter)

    def _meter_gauges(self, meter: Meter) -> None:
        def depth(queue: str, read: Callable[[], int]) -> None:
            meter.sample(metrics.QUEUE_DEPTH, read, queue=queue)

        depth("read", lambda: sum(ahead.depth for ahead in tuple(self._reading)))
        depth("publish", lambda: len(self._publishing))
        self._executor.sample_gauges(meter)
        sample_memory(meter, on_gpu=self._config.device == "cuda")

    def __call__(
        self,
        unit: Unit,
        parts_done: int = 0,
        stopping: Callable[[], bool] = lambda: False,
        stored: Progress | None = None,
    ) -> Iterator[Receipt]:
        """Label one unit.

        Args:
            unit: What to label.
            parts_done: How many of its parts are known to be published; those published since are found.
            stopping: Asked before each chunk; once true, the part in flight is finished if that takes
                less than ten seconds, and nothing after it is begun.
            stored: The unit's parts in the older output that is used, if it is complete there.

        Yields:
            Receipts, the latest of which tells all: after each part, and about once a second.
        """
        if stored is not None:
            try:
                yield from self._label(unit, parts_done, stopping, stored)
            except NotAsStored as error:
                _log.warning("%s: run in full: %s", unit.uri, error)
            else:
                return
        yield from self._label(unit, parts_done, stopping, None)

    def _label(
        self, unit: Unit, parts_done: int, stopping: Callable[[], bool], stored: Progress | None
    ) -> Iterator[Receipt]:
        if stopping():
            return
        receipt = Receipt(unit.id, started_at=time.time())
        metered = UnitMeter(self._meter, receipt, 0)
        try:
            with translate_out_errors():
                cursor, receipt.finished = self._writer.ledger.find_cursor(unit, self._config.fingerprint, parts_done)
                self._attempts.count_published(receipt, self._config.fingerprint, parts_done, cursor)
            metered = UnitMeter(self._meter, receipt, 0 if cursor.compressed else cursor.offset)
            if not receipt.finished:
                with contextlib.closing(self._attempt(unit, cursor, receipt, stopping, stored)) as attempt:
                    for so_far in attempt:
                        metered.take(so_far)
                        yield so_far
        except StorageError as error:
            self._note_failure(unit, receipt, error)
        except PublishError as error:
            receipt.failure, receipt.message = UNWRITABLE, str(error)
        metered.end(receipt)
        yield receipt

    def _attempt(
        self, unit: Unit, cursor: Cursor, receipt: Receipt, stopping: Callable[[], bool], stored: Progress | None
    ) -> Generator[Receipt, None, None]:
        """Run a unit, the more carefully the more labelers have died while they were at it."""
        with translate_out_errors():
            deaths = self._attempts.begin(unit.id)
            hopeless = self._attempts.is_hopeless(unit.id, deaths)
        try:
            if hopeless:
                receipt.failure = CRASHING
                receipt.message = f"{unit.uri}: {deaths} labelers died while they were at it, and not of its images"
                return
            isolated = deaths >= DEATHS_BEFORE_ISOLATION
            if isolated:
                _log.warning("%s: %d labelers died while they were at it; decoding it apart", unit.uri, deaths)
            yield from self._run(unit, cursor, receipt, stopping, stored, isolated=isolated)
        finally:
            self._attempts.end(unit.id, deaths)

    def _note_failure(self, unit: Unit, receipt: Receipt, error: StorageError) -> None:
        reason = failure_reason(error)
        receipt.failure = reason or UNAVAILABLE
        receipt.message = str(error)
        if reason is not None:
            with translate_out_errors():
                self._writer.note_unreadable(unit, reason, str(error))

    def close(self) -> None:
        """Wait for the threads to end; no unit is being labelled any more."""
        self._executor.close()
        self._uploader.shutdown()

    def _run(
        self,
        unit: Unit,
        cursor: Cursor,
        receipt: Receipt,
        stopping: Callable[[], bool],
        stored: Progress | None,
        *,
        isolated: bool,
    ) -> Iterator[Receipt]:
        reader = UnitReader(unit, self._storage, cursor, self._config.keep)
        beside = None if stored is None else self._beside(reader, unit, cursor, stored)
        part = Part(cursor.part, cursor.index)
        upload: Future[_Committed] | None = None
        begun = ticked = time.monotonic()
        reading = Timed(cut_chunks(beside or reader, cursor, self._config.rows_per_part, self._executor.chunk_images))
        with (
            self._read_ahead(reading) as read,
            contextlib.closing(self._in_order(chunks := Timed(read), beside, isolated=isolated)) as in_order,
        ):
            results = Timed(in_order)
            for result in results:
                receipt.stage_s["read"] = reading.seconds
                receipt.wait_s |= {"read": chunks.seconds, "compute": results.seconds - chunks.seconds}
                if isinstance(result, PartEnd):
                    if upload is not None:
                        self._commit(upload, receipt)
                        yield receipt
                    upload = self._uploader.submit(self._publish, unit, part, result)
                    self._publishing.add(upload)
                    upload.add_done_callback(self._publishing.discard)
                    part = Part(result.following.part, result.following.index)
                else:
                    self._gather(part, result, receipt)
                    receipt.num_bytes = reader.bytes_done
                if time.monotonic() - ticked > _TICK_S:
                    ticked = time.monotonic()
                    yield receipt
                if stopping() and not self._worth_finishing(unit, part, receipt, time.monotonic() - begun):
                    break
            else:
                receipt.finished = True
        if upload is not None:
            self._commit(upload, receipt)

    @contextlib.contextmanager
    def _read_ahead(self, source: Iterator[Chunk | PartEnd]) -> Iterator[Iterator[Chunk | PartEnd]]:
        ahead = ReadAhead(source, _CHUNKS_READ_AHEAD)
        self._reading.add(ahead)
        try:
            with ahead as read:
                yield read
        finally:
            self._reading.discard(ahead)

    def _beside(self, reader: UnitReader, unit: Unit, cursor: Cursor, stored: Progress) -> StoredReader:
        source = self._config.reused_from
        assert source is not None
        names = list(stored.parts(source.fingerprint, unit.id))
        older = Ledger(source.out, self._storage)
        return StoredReader(reader, cursor.index, older, source, names, len(self._config.class_names))

    def _in_order(
        self, chunks: Iterator[Chunk | PartEnd], stored: StoredReader | None, *, isolated: bool
    ) -> Generator[Ready | PartEnd, None, None]:
        """Send chunks to the worker threads, a few ahead, and yield what comes back in their order."""
        turn = next(self._turns)
        pending: deque[Assembly | PartEnd] = deque()
        try:
            for chunk in chunks:
                if isinstance(chunk, PartEnd):
                    pending.append(chunk)
                else:
                    pending.append(self._executor.submit(turn, chunk, stored, isolated=isolated))
                while len(pending) > self._executor.chunks_ahead:
                    yield self._done(pending.popleft())
            while pending:
                yield self._done(pending.popleft())
        finally:
            for item in pending:
                if isinstance(item, Assembly):
                    item.give_up()

    def _done(self, item: Assembly | PartEnd) -> Ready | PartEnd:
        return item if isinstance(item, PartEnd) else self._executor.result(item)

    def _worth_finishing(self, unit: Unit, part: Part, receipt: Receipt, elapsed_s: float) -> bool:
        """Whether the part in flight will be done within the grace period; one not begun is not."""
        if part.num_samples == 0:
            return False
        left = self._config.rows_per_part - part.num_samples
        if unit.num_samples is not None:
            left = min(left, unit.num_samples - part.first_index - part.num_samples)
        elif receipt.num_bytes and unit.size_bytes > 0:
            per_byte = receipt.num_samples / receipt.num_bytes
            left = min(left, int(per_byte * (unit.size_bytes - receipt.num_bytes)) + 1)
        return left * elapsed_s / max(1, receipt.num_samples) < _GRACE_S

    # -- caller's thread -------------------------------------------------------------------------------

    @staticmethod
    def _gather(part: Part, ready: Ready, receipt: Receipt) -> None:
        part.pictures += ready.pictures
        part.rejected += ready.rejected
        if ready.predictions is not None:
            part.predictions.append(ready.predictions)
        ready.count_in(receipt)

    def _publish(self, unit: Unit, part: Part, end: PartEnd) -> _Committed:
        begun = time.perf_counter()
        with translate_out_errors():
            name = self._writer.publish(unit, part, end.following, last=end.last)
        seconds = time.perf_counter() - begun
        return _Committed(str(name), [len(part.pictures), len(part.rejected)], time.time(), seconds)

    @staticmethod
    def _commit(upload: Future[_Committed], receipt: Receipt) -> None:
        """Wait for a part to be published. Parts of a unit are published strictly one after another."""
        begun = time.perf_counter()
        done = upload.result()
        receipt.parts[done.name] = done.num_rows
        receipt.committed_at = done.at
        receipt.stage_s["write"] = receipt.stage_s.get("write", 0.0) + done.seconds
        receipt.wait_s["publish"] = receipt.wait_s.get("publish", 0.0) + time.perf_counter() - begun
