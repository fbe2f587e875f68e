"""A chunk on its way through the worker threads: its pieces, its batch of crops, and what comes out.

On a CPU one thread takes a whole chunk. For a GPU several threads prepare pieces of it, so that all of them work on
the older of two units.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.labeler.chunks import Chunk
from pipeline.labeler.finite import insert_in_order, split_not_finite
from pipeline.labeler.stored_reader import StoredRow
from pipeline.labels import ClassResolver
from pipeline.models.device_queue import BatchResult
from pipeline.models.ensemble import Predictions
from pipeline.records import Counted, Item, Omitted, Receipt, Sample, Stage
from pipeline.stages.crop import Batch, BatchPool
from pipeline.stages.decode import Decoded
from pipeline.stages.write import Part, Picture, QuarantineRow

STAGES = ("hash", "decode", "resize", "classify")


class _Stopwatch:
    """Adds the seconds of a ``with`` block to a stage. Several run for each image."""

    __slots__ = ("_begun", "_seconds", "_stage")

    def __init__(self, seconds: dict[str, float], stage: str) -> None:
        self._seconds = seconds
        self._stage = stage

    def __enter__(self) -> None:
        self._begun = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._seconds[self._stage] += time.perf_counter() - self._begun


@dataclass(slots=True)
class ChunkResult:
    """What came of a chunk, or of a piece of one.

    Attributes:
        pictures: The labelled samples, in order.
        predictions: Of these; None until they are computed, or if there are none.
        rejected: Quarantine rows, in order.
        truths_not_understood: Those of labelled samples whose ``.cls`` names no class.
        num_samples: Samples, labelled and not.
        omitted: What lies among them in the input and has no row.
        seconds: Of each of :data:`STAGES`, summed over threads.
        slots: Where the crops of the pictures lie in the batch; empty where no crops are needed.
        stored: The rows of an older output for the pictures, where one is used.
        answer: The device's predictions, where a device computes them.
        num_on_gpu: Pictures that a GPU has decoded.
    """

    pictures: list[Picture] = field(default_factory=list)
    predictions: Predictions | None = None
    rejected: list[QuarantineRow] = field(default_factory=list)
    truths_not_understood: Counted = field(default_factory=Counted)
    num_samples: int = 0
    omitted: Omitted = field(default_factory=Omitted)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    slots: list[int] = field(default_factory=list)
    stored: list[StoredRow] = field(default_factory=list)
    answer: Future[BatchResult] | None = None
    num_on_gpu: int = 0

    def timed(self, stage: str) -> _Stopwatch:
        """Add the seconds that pass in here to a stage, unless it raises: another thread may have the result then."""
        return _Stopwatch(self.seconds, stage)

    def append(self, following: ChunkResult) -> None:
        """Append the piece that follows."""
        self.pictures += following.pictures
        self.rejected += following.rejected
        self.truths_not_understood.merge(following.truths_not_understood)
        self.num_samples += following.num_samples
        self.omitted.add(following.omitted)
        self.slots += following.slots
        self.stored += following.stored
        self.num_on_gpu += following.num_on_gpu
        for stage, seconds in following.seconds.items():
            self.seconds[stage] += seconds

    def gather(self, part: Part, receipt: Receipt, aliases: Sequence[str]) -> None:
        """Append it to the part that it belongs to, without what is not finite of these members, and count it."""
        if self.predictions is not None:
            split = split_not_finite(self.pictures, self.predictions, aliases)
            self.pictures, self.predictions, rows = split
            insert_in_order(self.rejected, rows)
        part.pictures += self.pictures
        part.rejected += self.rejected
        part.truths_not_understood.merge(self.truths_not_understood)
        part.omitted.add(self.omitted)
        if self.predictions is not None:
            part.predictions.append(self.predictions)
        self.count_in(receipt)

    def count_in(self, receipt: Receipt) -> None:
        """Count what it holds."""
        receipt.num_samples += self.num_samples
        receipt.num_labelled += len(self.pictures)
        receipt.num_decoded_on_gpu += self.num_on_gpu
        receipt.truths_not_understood.merge(self.truths_not_understood)
        receipt.omitted.add(self.omitted)
        for row in self.rejected:
            counts = receipt.num_quarantined if row.key is not None else receipt.num_events
            counts[row.reason] = counts.get(row.reason, 0) + 1
        for stage, seconds in self.seconds.items():
            receipt.stage_s[stage] = receipt.stage_s.get(stage, 0.0) + seconds


@dataclass(slots=True)
class EncodedImage:
    """An image that is to be decoded.

    Attributes:
        piece: What it belongs to.
        slot: Of the batch.
        sample: The sample, without the image.
        data: The encoded image.
        sha256: Of the data, hex.
    """

    piece: Piece
    slot: int
    sample: Sample
    data: bytes
    sha256: str

    def reject(self, reason: str, message: str, stage: Stage = Stage.DECODE) -> None:
        """It cannot be decoded, or could not be labelled before: add its row to the quarantine."""
        row = QuarantineRow.sample(self.sample, stage, reason, message, self.sha256)
        self.piece.result.rejected.append(row)

    def picture(self, width: int, height: int) -> Picture:
        """Its row of the predictions, for an image of this size in pixels; called once."""
        sample = self.sample
        truth = self.piece.task.steps.classes.resolve_cls(sample.cls)
        if truth.text:
            self.piece.result.truths_not_understood.add(truth.text)
        return Picture(
            sample.index,
            sample.key,
            self.sha256,
            width,
            height,
            truth.label,
            sample.kept,
            sample.image_field,
            sample.offset,
            sample.num_bytes,
        )


class Decoder(Protocol):
    """The step from an encoded image to pixels."""

    def decode(self, image: EncodedImage) -> Decoded:
        """Decode one image.

        Raises:
            ImageError: It cannot be decoded.
            Overtaken: Another thread has taken the piece over; this one must not touch it any more.
        """


class Predictor(Protocol):
    """The step from a chunk's crops to predictions."""

    def predict(self, task: ChunkTask, result: ChunkResult) -> None:
        """Begin to predict the pictures of a chunk, of which there is at least one. Called by a worker thread."""

    def finish(self, result: ChunkResult) -> None:
        """Wait until ``result.predictions`` is there. Called by the thread that gathers."""


class Lookup(Protocol):
    """The step that may find an image's predictions in an older output."""

    def needs_pixels(self, image: EncodedImage) -> bool:
        """Whether the image is to be decoded. If not, its row is already in the result."""


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of a unit that have more than one form.

    Attributes:
        decoder: Decodes.
        predictor: Predicts.
        batches: Where the crops are put.
        classes: What the ``.cls`` of the samples may name.
        aliases: Of all members.
        lookup: Looks into an older output first, where one is used.
    """

    decoder: Decoder
    predictor: Predictor
    batches: BatchPool
    classes: ClassResolver
    aliases: tuple[str, ...]
    lookup: Lookup | None = None


class ChunkTask:
    """A chunk that is prepared piece by piece, by one or several threads, in one batch of crops.

    Args:
        chunk: Its samples and events.
        steps: What they go through.
        priority: Of its unit; lower goes first.
        piece_images: Items in a piece; None for one piece.

    Attributes:
        pieces: Its items, each with the slot of the batch that a sample has.
        done: The result of the whole, without the predictions that a device still computes.
    """

    def __init__(self, chunk: Chunk, steps: Steps, priority: int, piece_images: int | None) -> None:
        self.steps = steps
        self.priority = priority
        slots = itertools.accumulate((isinstance(item, Sample) for item in chunk), initial=0)
        numbered = list(zip(slots, chunk, strict=False))
        size = piece_images or len(numbered)
        self.pieces = [
            Piece(self, number, deque(numbered[at : at + size]))
            for number, at in enumerate(range(0, len(numbered), size))
        ]
        self.done: Future[ChunkResult] = Future()
        self._batch: Batch | None = None
        self._prepared: dict[int, ChunkResult] = {}
        self._lock = threading.Lock()

    def batch(self) -> Batch:
        """Its batch, taken from the pool when the first thread needs it."""
        if (batch := self._batch) is not None:
            return batch
        with self._lock:
            if self._batch is None:
                self._batch = self.steps.batches.take()
            return self._batch

    def release(self, *_: object) -> None:
        """Give the batch back."""
        with self._lock:
            if self._batch is not None:
                self.steps.batches.give(self._batch)
                self._batch = None

    def join(self, piece: Piece) -> ChunkResult | None:
        """Add a piece that is prepared; the caller that adds the last one gets the whole chunk."""
        with self._lock:
            self._prepared[piece.number] = piece.result
            if len(self._prepared) < len(self.pieces):
                return None
        whole = ChunkResult()
        for number in range(len(self.pieces)):
            whole.append(self._prepared[number])
        return whole

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        if not self.done.cancel() and self.done.exception() is None and (answer := self.done.result().answer):
            answer.cancel()


@dataclass(slots=True)
class Piece:
    """A stretch of a chunk in the hands of one thread. Another thread can go on with it from where it is.

    Attributes:
        task: The chunk that it belongs to.
        number: Its place there.
        remaining: Items that no thread has begun, each with its slot.
        result: What came of the others.
        decoded_ahead: Pixels of remaining images by slot, where a GPU has decoded them; None for those that are left
            to the CPU.
    """

    task: ChunkTask
    number: int
    remaining: deque[tuple[int, Item]]
    result: ChunkResult = field(default_factory=ChunkResult)
    decoded_ahead: dict[int, Decoded | None] = field(default_factory=dict)
