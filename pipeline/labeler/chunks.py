"""Chunks: a unit cut into stretches that go through a labeler as one, and what becomes of each on the way.

A chunk is what one batch of crops is made of. On a CPU one thread takes a whole chunk; for a GPU several
threads prepare pieces of it, so that all of them work on the older of two units.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

from pipeline.labeler.stored import StoredReader, StoredRow
from pipeline.models.device import BatchResult
from pipeline.models.ensemble import Predictions
from pipeline.records import Cursor, Receipt, Sample, ShardEvent
from pipeline.stages.classify import Batch, BatchPool
from pipeline.stages.decode import Decoded
from pipeline.stages.read import UnitReader
from pipeline.stages.write import Picture, QuarantineRow

STAGES = ("hash", "decode", "resize", "classify")
# On a GPU near ties are computed again chunk by chunk, so that many are worth more than one forward pass.
CPU_CHUNK_IMAGES, GPU_CHUNK_IMAGES = 16, 256
PIECE_IMAGES = 16  # of a chunk for a GPU: what a thread prepares at a time
_CHUNK_BYTES = 32 << 20

Chunk = list[Sample | ShardEvent]


@dataclass(slots=True)
class PartEnd:
    """Between two chunks: here a part ends."""

    following: Cursor
    last: bool


def cut_chunks(
    reader: UnitReader | StoredReader, cursor: Cursor, rows_per_part: int, max_images: int
) -> Iterator[Chunk | PartEnd]:
    """Cut what a reader yields into chunks, with the ends of parts between them.

    No chunk crosses the end of a part, and what is in one depends on the data alone.

    Args:
        reader: Of the unit, from the cursor on.
        cursor: Where the first part begins.
        rows_per_part: Samples in a part at most.
        max_images: Samples in a chunk at most; it also ends where it holds 32 MB.
    """
    chunk: Chunk = []
    chunk_bytes = num_samples = 0
    part_end = cursor.index + rows_per_part
    number = cursor.part
    for item in reader:
        if isinstance(item, Sample):
            full = num_samples >= max_images or chunk_bytes >= _CHUNK_BYTES
            if chunk and (full or item.index >= part_end):
                yield chunk
                chunk, chunk_bytes, num_samples = [], 0, 0
            if item.index >= part_end:
                number += 1
                yield PartEnd(Cursor(number, item.index, item.offset or 0, reader.compressed), last=False)
                part_end += rows_per_part
            chunk_bytes += len(item.image or b"")
            num_samples += 1
        chunk.append(item)
    if chunk:
        yield chunk
    yield PartEnd(Cursor(number + 1, -1, 0), last=True)


@dataclass(slots=True)
class Ready:
    """A chunk, or a piece of one, after the worker threads.

    Attributes:
        slots: Where the crops of its pictures lie in the batch; none where nobody needs them.
        stored: What an older output holds of its pictures, if one is used.
        answer: What the device says of the pictures; None until there is an answer, or if there are no pictures.
    """

    pictures: list[Picture] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    stored: list[StoredRow] = field(default_factory=list)
    predictions: Predictions | None = None
    answer: Future[BatchResult] | None = None
    rejected: list[QuarantineRow] = field(default_factory=list)
    num_samples: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def add(self, following: Ready) -> None:
        """Append the piece that follows."""
        self.pictures += following.pictures
        self.slots += following.slots
        self.stored += following.stored
        self.rejected += following.rejected
        self.num_samples += following.num_samples
        for stage, seconds in following.seconds.items():
            self.seconds[stage] += seconds

    def count_in(self, receipt: Receipt) -> None:
        """Add what it holds to a receipt."""
        receipt.num_samples += self.num_samples
        receipt.num_labelled += len(self.pictures)
        for row in self.rejected:
            counts = receipt.num_quarantined if row.key is not None else receipt.num_events
            counts[row.reason] = counts.get(row.reason, 0) + 1
        for stage, seconds in self.seconds.items():
            receipt.stage_s[stage] = receipt.stage_s.get(stage, 0.0) + seconds


class Assembly:
    """A chunk that is prepared piece by piece, by several threads, in one batch.

    Args:
        turn: Of its unit.
        chunk: What is in it.
        piece_images: Items in a piece; None for one piece.
        pool: Where its batch comes from.
        isolated: Whether its images are to be decoded in a process of their own.
        stored: What an older output holds of its samples; None where nothing is used.

    Attributes:
        pieces: Its items, each with the slot of the batch that is a sample's own.
        done: The whole, when the last piece is prepared.
    """

    def __init__(
        self,
        turn: int,
        chunk: Chunk,
        piece_images: int | None,
        pool: BatchPool,
        *,
        isolated: bool = False,
        stored: StoredReader | None = None,
    ) -> None:
        self.turn = turn
        self.isolated = isolated
        self.stored = stored
        slots = itertools.accumulate((isinstance(item, Sample) for item in chunk), initial=0)
        numbered = list(zip(slots, chunk, strict=False))
        size = piece_images or len(numbered)
        self.pieces = [
            Piece(self, number, iter(numbered[at : at + size]))
            for number, at in enumerate(range(0, len(numbered), size))
        ]
        self.done: Future[Ready] = Future()
        self._pool = pool
        self._batch: Batch | None = None
        self._prepared: dict[int, Ready] = {}
        self._lock = threading.Lock()

    def batch(self) -> Batch:
        """Its batch, taken from the pool when the first thread asks."""
        with self._lock:
            if self._batch is None:
                self._batch = self._pool.take()
            return self._batch

    def release(self, *_: object) -> None:
        """Hand the batch back."""
        with self._lock:
            if self._batch is not None:
                self._pool.give(self._batch)
                self._batch = None

    def join(self, piece: Piece) -> Ready | None:
        """Add a piece that is prepared; whoever adds the last one gets the whole chunk."""
        with self._lock:
            self._prepared[piece.number] = piece.ready
            if len(self._prepared) < len(self.pieces):
                return None
        whole = Ready()
        for place in range(len(self.pieces)):
            whole.add(self._prepared[place])
        return whole

    def give_up(self) -> None:
        """Nobody waits for it any more."""
        if not self.done.cancel() and self.done.exception() is None and (answer := self.done.result().answer):
            answer.cancel()


@dataclass(slots=True)
class Piece:
    """A stretch of a chunk in the hands of a worker thread, or of another one that goes on from where it was.

    Attributes:
        assembly: What it belongs to.
        number: Its place there.
        left: Items that nobody has begun, each with its slot.
        decoded: Of these, what a GPU has decoded ahead, by slot.
        ready: What became of the others.
    """

    assembly: Assembly
    number: int
    left: Iterator[tuple[int, Sample | ShardEvent]]
    decoded: dict[int, Decoded] = field(default_factory=dict)
    ready: Ready = field(default_factory=Ready)


@dataclass(slots=True)
class Encoded:
    """An image on its way to the decoder.

    Attributes:
        piece: What it belongs to.
        slot: Of the batch.
        sample: The sample, without the image.
        data: The image.
        sha256: Of the image, hex.
    """

    piece: Piece
    slot: int
    sample: Sample
    data: bytes
    sha256: str
