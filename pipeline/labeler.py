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
import hashlib
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass

from pipeline import metrics
from pipeline.attempts import DEATHS_BEFORE_ISOLATION, Attempts
from pipeline.chunks import Assembly, Chunk, Encoded, PartEnd, Piece, Ready, cut_chunks
from pipeline.errors import ImageError, NotAsStored, PublishError, StorageError
from pipeline.labeler_config import LabelerConfig
from pipeline.ledger import Ledger, about_out
from pipeline.metering import Timed, UnitMeter, sample_memory
from pipeline.metrics import Meter, NoMeter
from pipeline.models.device import DeviceQueue
from pipeline.models.ensemble import Ensemble, Predictions
from pipeline.models.pool import pool
from pipeline.parts import Progress
from pipeline.probabilities import Word
from pipeline.records import CRASHING, UNAVAILABLE, UNWRITABLE, Cursor, Receipt, Sample, ShardEvent, Stage, Unit
from pipeline.stages.classify import BatchPool
from pipeline.stages.decode import LIMIT_S, Decoded, decode
from pipeline.stages.isolation import IsolatedDecoder
from pipeline.stages.nvjpeg import DeviceDecoder, trusted_decoder
from pipeline.stages.read import UnitReader, failure_reason
from pipeline.stages.write import Part, Picture, Rejected, Writer
from pipeline.storage import Storage
from pipeline.stored import StoredReader, words_of
from pipeline.threads import ReadAhead, Workers, one_torch_thread
from pipeline.watch import Overtaken, Watch

UNITS_AT_ONCE = 2  # one in full swing, one that fills the gaps at its end
# On a GPU near ties are computed again chunk by chunk, so that many are worth more than one forward pass.
CPU_CHUNK_IMAGES, GPU_CHUNK_IMAGES = 16, 256
PIECE_IMAGES = 16  # of a chunk for a GPU: what a thread prepares at a time
_CHUNKS_ON_DEVICE = 4  # one that waits, three in the steps of a device queue
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
        self._ensemble = Ensemble(
            config.members,
            blobs,
            device=config.device,
            precision=config.precision,
            rule=config.rule,
            top_k=config.top_k,
            temperature=config.temperature,
            compiled=config.compiled,
            at_once=config.batch_size,
            tuning=config.tuning,
            keep_probs=config.keep_probs,
        )
        on_cpu = config.device == "cpu"
        self._chunk_images = config.batch_size or (CPU_CHUNK_IMAGES if on_cpu else GPU_CHUNK_IMAGES)
        self._batches = BatchPool(self._ensemble.geometries, self._chunk_images, pinned=not on_cpu)
        # members that no older output has said anything of; None where there are none
        new = [member.alias for member in config.members if member.alias not in config.reused]
        self._new = self._ensemble.part(new) if new and config.reused else None
        wanted = self._new.geometries if self._new else ()
        self._new_batches = BatchPool(wanted, self._chunk_images, pinned=not on_cpu)
        self._device = DeviceQueue(self._ensemble) if device_thread or (device_thread is None and not on_cpu) else None
        # pieces small enough that all threads work on the older unit, chunks enough that the device never waits
        self._piece_images = PIECE_IMAGES if self._device else None
        self._chunks_ahead = config.num_threads + 1
        if self._device:
            self._chunks_ahead = _CHUNKS_ON_DEVICE + -(-config.num_threads * PIECE_IMAGES // self._chunk_images)
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
        self._gpu_decoder = trusted_decoder(self._ensemble.device) if config.decode == "gpu" else None
        self._workers = Workers(config.num_threads, on_start=self._begin_thread)
        self._watch = Watch(LIMIT_S, self._rescue)
        self._isolated = IsolatedDecoder(LIMIT_S)
        self._most_hanging = max(1, config.num_threads // 4)  # each may keep a core busy
        self._uploader = ThreadPoolExecutor(UNITS_AT_ONCE, thread_name_prefix="upload")
        self._turns = itertools.count()
        largest = max(geometry.resize_px for geometry in self._ensemble.geometries)
        self._fast_to_px = largest if config.decode == "fast" else None
        self._reading: set[ReadAhead[Chunk | PartEnd]] = set()
        self._publishing: set[Future[_Committed]] = set()
        self._meter = meter or NoMeter()
        self._meter_gauges(self._meter)

    def _meter_gauges(self, meter: Meter) -> None:
        def depth(queue: str, read: Callable[[], int]) -> None:
            meter.sample(metrics.QUEUE_DEPTH, read, queue=queue)

        depth("read", lambda: sum(ahead.depth for ahead in tuple(self._reading)))
        depth("work", lambda: self._workers.depth)
        depth("publish", lambda: len(self._publishing))
        depth("device", lambda: self._device.depth if self._device else 0)
        meter.sample(metrics.HANGING_THREADS, lambda: self._workers.num_lost)
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
            with about_out():
                cursor, receipt.finished = self._writer.ledger.advance(unit, self._config.fingerprint, parts_done)
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
        with about_out():
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
            with about_out():
                self._writer.note_unreadable(unit, reason, str(error))

    def close(self) -> None:
        """Wait for the threads to end; no unit is being labelled any more."""
        self._isolated.close()
        self._workers.close()
        self._watch.close()
        if self._device:
            self._device.close()
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
        reading = Timed(cut_chunks(beside or reader, cursor, self._config.rows_per_part, self._chunk_images))
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
                begun = chunk if isinstance(chunk, PartEnd) else self._begin(turn, chunk, stored, isolated=isolated)
                pending.append(begun)
                while len(pending) > self._chunks_ahead:
                    yield self._settled(pending.popleft())
            while pending:
                yield self._settled(pending.popleft())
        finally:
            for item in pending:
                if isinstance(item, Assembly):
                    item.give_up()

    def _begin(self, turn: int, chunk: Chunk, stored: StoredReader | None, *, isolated: bool) -> Assembly:
        batches = self._batches if stored is None else self._new_batches
        assembly = Assembly(turn, chunk, self._piece_images, batches, isolated=isolated, stored=stored)
        for piece in assembly.pieces:
            self._workers.submit(turn, self._prepare, piece)
        return assembly

    def _settled(self, item: Assembly | PartEnd) -> Ready | PartEnd:
        if isinstance(item, PartEnd):
            return item
        ready = item.done.result()
        if ready.answer is not None:
            answer = ready.answer.result()
            ready.predictions = self._with_stored(ready, answer.predictions)
            ready.seconds["classify"] += answer.seconds
        return ready

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

    # -- worker threads --------------------------------------------------------------------------------

    def _begin_thread(self) -> None:
        one_torch_thread()
        if self._gpu_decoder:
            self._gpu_decoder.own_stream()

    def _prepare(self, piece: Piece, overdue: Encoded | None = None) -> None:
        """What is left of a piece, after an image that hangs in another thread; who is last passes the chunk on."""
        assembly = piece.assembly
        if assembly.done.done():
            return  # given up, or another piece has failed
        try:
            if overdue is not None:
                self._prepare_image(overdue, isolated=True)
            elif self._gpu_decoder and not assembly.isolated and self._decodes(assembly):
                self._decode_ahead(piece, self._gpu_decoder)
            for slot, item in piece.left:
                if isinstance(item, ShardEvent):
                    piece.ready.rejected.append(Rejected.event(item))
                else:
                    self._prepare_sample(piece, slot, item)
            whole = assembly.join(piece)
            if whole is not None:
                self._forward(assembly, whole)
                assembly.done.set_result(whole)
        except Overtaken:
            return  # another thread goes on with the piece
        except BaseException as error:  # noqa: BLE001 - it is the caller's, who sees it in result()
            with contextlib.suppress(InvalidStateError):  # the chunk was given up meanwhile
                assembly.done.set_exception(error)

    @staticmethod
    def _decode_ahead(piece: Piece, decoder: DeviceDecoder) -> None:
        """Have a GPU decode what it can of a piece, all at once."""
        begun = time.perf_counter()
        items = list(piece.left)
        piece.left = iter(items)
        images = [(slot, item.image) for slot, item in items if isinstance(item, Sample) and item.image]
        found = decoder.decode([data for _, data in images])
        piece.decoded = {slot: decoded for (slot, _), decoded in zip(images, found, strict=True) if decoded is not None}
        piece.ready.seconds["decode"] += time.perf_counter() - begun

    def _prepare_sample(self, piece: Piece, slot: int, sample: Sample) -> None:
        piece.ready.num_samples += 1
        data, sample.image = sample.image, None
        stored = piece.assembly.stored
        if data is None:
            if stored is not None:
                stored.forget(sample)
            reason = sample.reason or "no_image"
            piece.ready.rejected.append(Rejected.sample(sample, Stage.READ, reason, sample.message))
            return
        begun = time.perf_counter()
        digest = hashlib.sha256(data).hexdigest()
        piece.ready.seconds["hash"] += time.perf_counter() - begun
        if stored is not None and not self._needs_pixels(piece, sample, digest, stored):
            return
        isolated = piece.assembly.isolated or self._workers.num_lost >= self._most_hanging
        self._prepare_image(Encoded(piece, slot, sample, data, digest), isolated=isolated)

    def _needs_pixels(self, piece: Piece, sample: Sample, digest: str, stored: StoredReader) -> bool:
        """Whether an image has to be decoded, after what an older output holds of it."""
        ready, row = piece.ready, stored.take(sample, digest)
        if row.row is None:
            ready.rejected.append(Rejected.sample(sample, Stage.DECODE, row.reason, row.message, digest))
            return False
        ready.stored.append(row)
        if self._new is not None:
            return True
        ready.pictures.append(
            Picture(sample.index, sample.key, digest, row.width, row.height, sample.truth, sample.kept)
        )
        return False

    def _decodes(self, assembly: Assembly) -> bool:
        return assembly.stored is None or self._new is not None

    def _prepare_image(self, image: Encoded, *, isolated: bool) -> None:
        piece, sample, ready = image.piece, image.sample, image.piece.ready
        begun = time.perf_counter()
        try:
            decoded = self._decode(image, isolated=isolated)
        except ImageError as error:
            ready.rejected.append(Rejected.sample(sample, Stage.DECODE, error.reason, error.message, image.sha256))
            return
        done = time.perf_counter()
        piece.assembly.batch().put(image.slot, decoded.pixels_CHW)
        ready.slots.append(image.slot)
        ready.pictures.append(
            Picture(sample.index, sample.key, image.sha256, decoded.width, decoded.height, sample.truth, sample.kept)
        )
        ready.seconds["decode"] += done - begun
        ready.seconds["resize"] += time.perf_counter() - done

    def _decode(self, image: Encoded, *, isolated: bool) -> Decoded:
        if (decoded := image.piece.decoded.pop(image.slot, None)) is not None:
            return decoded
        if isolated:
            return self._isolated.decode(image.data, fast_to_px=self._fast_to_px)
        with self._watch.over(image) as clock:
            return decode(image.data, fast_to_px=self._fast_to_px, waiting=clock.paused)

    def _rescue(self, overdue: Encoded, thread: threading.Thread) -> None:
        """An image hangs in a thread: have another one try it in isolation, and go on from there."""
        self._workers.replace(thread)
        self._workers.submit(overdue.piece.assembly.turn, self._prepare, overdue.piece, overdue)

    def _forward(self, assembly: Assembly, ready: Ready) -> None:
        """Run the members on a chunk here, or have the device do it."""
        if not ready.pictures:
            return
        begun = time.perf_counter()
        if not self._decodes(assembly):
            ready.predictions = self._with_stored(ready, None)
            ready.seconds["classify"] += time.perf_counter() - begun
            return
        ensemble = self._ensemble if assembly.stored is None else self._new
        assert ensemble is not None
        crops = assembly.batch().packed(ready.slots)
        if self._device:
            ready.answer = self._device.submit(assembly.turn, crops, ensemble)
            ready.answer.add_done_callback(assembly.release)
            return
        ready.predictions = self._with_stored(ready, ensemble.predict(crops))
        assembly.release()
        ready.seconds["classify"] += time.perf_counter() - begun

    def _with_stored(self, ready: Ready, fresh: Predictions | None) -> Predictions:
        """What all members say of a chunk, of which some have said it before."""
        if not ready.stored:
            assert fresh is not None
            return fresh
        config = self._config
        words, new = [], iter(range(len(config.members)))
        for member in config.members:
            if member.alias in config.reused:
                words.append(words_of(ready.stored, config.reused[member.alias]))
            else:
                assert fresh is not None
                assert fresh.probs_MBK is not None
                place = next(new)
                own = fresh.members[place]
                words.append(Word(own.labels_Bk, own.scores_Bk, own.energy_B, fresh.probs_MBK[place]))
        factors = [member.factor for member in config.members]
        return pool(words, factors, config.rule, config.top_k, config.temperature, keep_probs=config.keep_probs)

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
        with about_out():
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
