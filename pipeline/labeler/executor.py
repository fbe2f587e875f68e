"""The executor: chunks of samples become what all members say of them.

Threads, one per core, hash, decode and crop. On a CPU the one that has a chunk runs the members on it, too; for a GPU
all of them prepare it piece by piece, and a thread of its own keeps the device busy. What an older output holds of an
image is not computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Mapping
from concurrent.futures import InvalidStateError

from pipeline import metrics
from pipeline.errors import ImageError
from pipeline.labeler.chunks import (
    CPU_CHUNK_IMAGES,
    GPU_CHUNK_IMAGES,
    PIECE_IMAGES,
    Assembly,
    Chunk,
    Encoded,
    Piece,
    Ready,
)
from pipeline.labeler.config import LabelerConfig
from pipeline.labeler.stored import StoredReader, member_probs_of
from pipeline.labeler.threads import Workers, one_torch_thread
from pipeline.labeler.watchdog import Overtaken, Watchdog
from pipeline.metrics import Meter
from pipeline.models.device import DeviceQueue
from pipeline.models.ensemble import Ensemble, EnsembleOptions, Predictions
from pipeline.models.stored_probs import combine_stored
from pipeline.output.probabilities import MemberProbs
from pipeline.records import Sample, ShardEvent, Stage
from pipeline.stages.classify import BatchPool
from pipeline.stages.decode import Decoded, decode
from pipeline.stages.isolation import IsolatedDecoder
from pipeline.stages.large_images import DECODE_TIMEOUT_S
from pipeline.stages.nvjpeg import DeviceDecoder, make_checked_decoder
from pipeline.stages.write import Picture, QuarantineRow

_CHUNKS_ON_DEVICE = 4  # one that waits, three in the steps of a device queue


class Executor:
    """Runs chunks on the threads and the device of one process. Safe to call from several threads.

    Args:
        config: What to do.
        blobs: The members' tensors by alias, as safetensors bytes.
        device_thread: Whether forward passes run in a thread of their own, as a GPU needs it, or in the threads
            that decode, as is fastest on a CPU; None for what suits the device.

    Attributes:
        chunk_images: Samples in a chunk at most.
        chunks_ahead: Chunks of a unit that should be under way at once, so that nothing waits.
    """

    def __init__(self, config: LabelerConfig, blobs: Mapping[str, bytes], *, device_thread: bool | None) -> None:
        self._config = config
        self._ensemble = Ensemble(
            config.members,
            blobs,
            EnsembleOptions(
                device=config.device,
                precision=config.precision,
                rule=config.rule,
                top_k=config.top_k,
                temperature=config.temperature,
                compiled=config.compiled,
                batch_size=config.batch_size,
                tuning=config.tuning,
                keep_probs=config.keep_probs,
            ),
        )
        on_cpu = config.device == "cpu"
        self.chunk_images = config.batch_size or (CPU_CHUNK_IMAGES if on_cpu else GPU_CHUNK_IMAGES)
        self._batches = BatchPool(self._ensemble.geometries, self.chunk_images, pinned=not on_cpu)
        # members that no older output has said anything of; None where there are none
        new = [member.alias for member in config.members if member.alias not in config.reused]
        self._new = self._ensemble.subset(new) if new and config.reused else None
        wanted = self._new.geometries if self._new else ()
        self._new_batches = BatchPool(wanted, self.chunk_images, pinned=not on_cpu)
        self._device = DeviceQueue(self._ensemble) if device_thread or (device_thread is None and not on_cpu) else None
        # pieces small enough that all threads work on the older unit, chunks enough that the device never waits
        self._piece_images = PIECE_IMAGES if self._device else None
        self.chunks_ahead = config.num_threads + 1
        if self._device:
            self.chunks_ahead = _CHUNKS_ON_DEVICE + -(-config.num_threads * PIECE_IMAGES // self.chunk_images)
        self._gpu_decoder = make_checked_decoder(self._ensemble.device) if config.decode == "gpu" else None
        self._workers = Workers(config.num_threads, on_start=self._begin_thread)
        self._watchdog = Watchdog(DECODE_TIMEOUT_S, self._rescue)
        self._isolated = IsolatedDecoder(DECODE_TIMEOUT_S)
        self._most_hanging = max(1, config.num_threads // 4)  # each may keep a core busy
        largest = max(geometry.resize_px for geometry in self._ensemble.geometries)
        self._fast_to_px = largest if config.decode == "fast" else None

    def submit(self, turn: int, chunk: Chunk, stored: StoredReader | None, *, isolated: bool) -> Assembly:
        """Begin with a chunk; :meth:`result` waits for it.

        Args:
            turn: Of its unit: chunks of a lower one go first.
            chunk: What is in it.
            stored: What an older output holds of the unit, if there is anything.
            isolated: Whether its images are to be decoded in a process of their own.
        """
        batches = self._batches if stored is None else self._new_batches
        assembly = Assembly(turn, chunk, self._piece_images, batches, isolated=isolated, stored=stored)
        for piece in assembly.pieces:
            self._workers.submit(turn, self._prepare, piece)
        return assembly

    def result(self, assembly: Assembly) -> Ready:
        """Wait for a chunk."""
        ready = assembly.done.result()
        if ready.answer is not None:
            answer = ready.answer.result()
            ready.predictions = self._with_stored(ready, answer.predictions)
            ready.seconds["classify"] += answer.seconds
        return ready

    def sample_gauges(self, meter: Meter) -> None:
        """Have a meter sample how much is waiting, and what hangs."""
        meter.sample(metrics.QUEUE_DEPTH, lambda: self._workers.depth, queue="work")
        meter.sample(metrics.QUEUE_DEPTH, lambda: self._device.depth if self._device else 0, queue="device")
        meter.sample(metrics.HANGING_THREADS, lambda: self._workers.num_lost)

    def close(self) -> None:
        """Wait for the threads to end; no chunk is under way any more."""
        self._isolated.close()
        self._workers.close()
        self._watchdog.close()
        if self._device:
            self._device.close()

    # -- in the threads --------------------------------------------------------------------------------

    def _begin_thread(self) -> None:
        one_torch_thread()
        if self._gpu_decoder:
            self._gpu_decoder.use_own_stream()

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
                    piece.ready.rejected.append(QuarantineRow.event(item))
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
            piece.ready.rejected.append(QuarantineRow.sample(sample, Stage.READ, reason, sample.message))
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
            ready.rejected.append(QuarantineRow.sample(sample, Stage.DECODE, row.reason, row.message, digest))
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
            ready.rejected.append(QuarantineRow.sample(sample, Stage.DECODE, error.reason, error.message, image.sha256))
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
        with self._watchdog.over(image) as clock:
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
                words.append(member_probs_of(ready.stored, config.reused[member.alias]))
            else:
                assert fresh is not None
                assert fresh.probs_MBK is not None
                place = next(new)
                own = fresh.members[place]
                words.append(MemberProbs(own.labels_Bk, own.scores_Bk, own.energy_B, fresh.probs_MBK[place]))
        factors = [member.factor for member in config.members]
        return combine_stored(
            words, factors, config.rule, config.top_k, config.temperature, keep_probs=config.keep_probs
        )
