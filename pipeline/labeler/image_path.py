"""The path of an image: read, hash, decode, crop, forward, gather, publish. This is the plain case, top to bottom.

Everything else replaces or wraps one step, and has a module of its own:

=======  ================================================  ======================================================
step     plain                                             otherwise
=======  ================================================  ======================================================
read     :class:`pipeline.stages.read.UnitReader`          ``stored_reader``: with the rows of an older output
hash     SHA-256                                           ``reused``: rows of an older output are looked up by it
decode   :func:`pipeline.stages.decode.decode`             ``decoders``: under a watchdog; in a child process; ahead
                                                           on a GPU
crop     :meth:`pipeline.stages.crop.Batch.put`
forward  :meth:`pipeline.models.ensemble.Ensemble.predict` ``predictors``: on a device with a thread of its own;
                                                           ``reused``: new members only
publish  :meth:`pipeline.stages.write.Writer.publish`      ``replay``: a whole unit from an older output
=======  ================================================  ======================================================

``steps`` chooses the form of each step. ``executor`` calls :func:`prepare` and :func:`forward` in worker threads.
``labeler`` is what surrounds a unit: earlier attempts at it, and failures.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.errors import ImageError
from pipeline.labeler.chunks import PartEnd, SampleReader, cut_chunks
from pipeline.labeler.executor import Executor
from pipeline.labeler.publisher import PartPublisher
from pipeline.labeler.tasks import ChunkResult, ChunkTask, Decoder, EncodedImage, Piece, Steps
from pipeline.records import Cursor, Omitted, Receipt, Sample, ShardEvent, Stage, Unit
from pipeline.stages.read import UnitReader
from pipeline.stages.write import Part, QuarantineRow

_TICK_S = 1.0
_GRACE_S = 10.0


@dataclass(frozen=True, slots=True)
class UnitRun:
    """One run of a unit, from a cursor on.

    Attributes:
        unit: The unit.
        cursor: Where its first part begins.
        receipt: What is done of it; the run adds to it.
        reader: Of its input, from the cursor on.
        samples: What is iterated: the reader, or one that wraps it.
        steps: What its samples go through.
        stopping: Asked after each chunk whether to stop soon.
    """

    unit: Unit
    cursor: Cursor
    receipt: Receipt
    reader: UnitReader
    samples: SampleReader
    steps: Steps
    stopping: Callable[[], bool]


def label_unit(run: UnitRun, rows_per_part: int, executor: Executor, publisher: PartPublisher) -> Iterator[Receipt]:
    """Label what remains of a unit.

    Yields:
        The receipt: after each part but the last, and about once a second.
    """
    receipt, part = run.receipt, Part(run.cursor.part, run.cursor.index)
    chunks = cut_chunks(run.samples, run.cursor, rows_per_part, executor.chunk_images)
    begun = ticked = time.monotonic()
    with executor.stream(chunks, run.steps) as results:  # each chunk went through prepare() and forward()
        for result in results:
            results.count_seconds(receipt)
            committed = False
            if isinstance(result, PartEnd):
                committed = publisher.publish(part, result)
                part = Part(result.following.part, result.following.index)
            else:
                result.gather(part, receipt, run.steps.aliases)
                receipt.num_bytes = run.reader.bytes_done
            if committed or time.monotonic() - ticked > _TICK_S:
                ticked = time.monotonic()
                yield receipt
            if run.stopping() and not _ends_soon(run, part, rows_per_part, time.monotonic() - begun):
                break
        else:
            receipt.finished = True
    publisher.wait()


def prepare(piece: Piece) -> None:
    """Hash, decode and crop what remains of a piece."""
    steps, result = piece.task.steps, piece.result
    while piece.remaining:
        slot, item = piece.remaining.popleft()
        if isinstance(item, ShardEvent):
            result.rejected.append(QuarantineRow.event(item))
            continue
        if isinstance(item, Omitted):
            result.omitted.add(item)
            continue
        image = hash_image(piece, slot, item)
        if image is not None and (steps.lookup is None or steps.lookup.needs_pixels(image)):
            decode_and_crop(image, steps.decoder)


def hash_image(piece: Piece, slot: int, sample: Sample) -> EncodedImage | None:
    """Take the image out of a sample and hash it; None if the sample has none."""
    result = piece.result
    result.num_samples += 1
    data, sample.image = sample.image, None  # the memory is free once it is decoded
    if data is None:
        result.rejected.append(QuarantineRow.sample(sample, Stage.READ, sample.reason or "no_image", sample.message))
        return None
    with result.timed("hash"):
        return EncodedImage(piece, slot, sample, data, hashlib.sha256(data).hexdigest())


def decode_and_crop(image: EncodedImage, decoder: Decoder) -> None:
    """Decode an image and put its crops into the batch, or reject it."""
    result = image.piece.result
    try:
        with result.timed("decode"):
            decoded = decoder.decode(image)
    except ImageError as error:
        image.reject(error.reason, error.message)
        return
    with result.timed("resize"):
        image.piece.task.batch().put(image.slot, decoded.pixels_CHW)
    result.slots.append(image.slot)
    result.pictures.append(image.picture(decoded.width, decoded.height))


def forward(task: ChunkTask, result: ChunkResult) -> None:
    """Run the members on the crops of a chunk, or have a device begin with it."""
    if result.pictures:
        task.steps.predictor.predict(task, result)


def _ends_soon(run: UnitRun, part: Part, rows_per_part: int, elapsed_s: float) -> bool:
    """Whether the part in flight will be done within the grace period; one not begun is not."""
    unit, receipt = run.unit, run.receipt
    if part.num_samples == 0:
        return False
    left = rows_per_part - part.num_samples
    if unit.num_samples is not None:
        left = min(left, unit.num_samples - part.first_index - part.num_samples)
    elif receipt.num_bytes and unit.size_bytes > 0:
        per_byte = receipt.num_samples / receipt.num_bytes
        left = min(left, int(per_byte * (unit.size_bytes - receipt.num_bytes)) + 1)
    return left * elapsed_s / max(1, receipt.num_samples) < _GRACE_S
