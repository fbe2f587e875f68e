"""Chunks: a unit cut into stretches of samples that are computed as one, with the ends of parts between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from pipeline.models.preprocessing import Geometry
from pipeline.records import Cursor, Item, Sample

# On a GPU near ties are computed again chunk by chunk, so that many are worth more than one forward pass.
CPU_CHUNK_IMAGES, GPU_CHUNK_IMAGES = 16, 256
PIECE_IMAGES = 16  # of a chunk for a GPU: what a thread prepares at a time
_CHUNK_BYTES = 32 << 20
# Crops of a chunk lie in pinned memory, of which a labeler holds a dozen chunks; torch rounds it up to powers of two.
_PINNED_BYTES = 128 << 20

Chunk = list[Item]


class SampleReader(Protocol):
    """Reads a unit: :class:`pipeline.stages.read.UnitReader`, or one that wraps it."""

    @property
    def unsorted(self) -> bool | None:
        """Whether it is read with an index of its headers."""

    def cursor_at(self, part: int, sample: Sample) -> Cursor:
        """Where a part begins whose first sample is this one, which the reader has yielded."""

    def __iter__(self) -> Iterator[Item]: ...


def gpu_chunk_images(geometries: Iterable[Geometry]) -> int:
    """Samples in a chunk for a GPU at most: fewer where crops are large, because host memory is pinned for them.

    Args:
        geometries: The crops of each image.
    """
    crop_bytes = [3 * geometry.crop_px**2 for geometry in geometries]
    images = GPU_CHUNK_IMAGES
    while images > PIECE_IMAGES and sum(1 << (images * size - 1).bit_length() for size in crop_bytes) > _PINNED_BYTES:
        images //= 2
    return images


@dataclass(slots=True)
class PartEnd:
    """Between two chunks: a part ends here.

    Attributes:
        following: Where the next part begins.
        last: Whether it was the unit's last part.
    """

    following: Cursor
    last: bool


def cut_chunks(reader: SampleReader, cursor: Cursor, rows_per_part: int, max_images: int) -> Iterator[Chunk | PartEnd]:
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
                yield PartEnd(reader.cursor_at(number, item), last=False)
                part_end += rows_per_part
            chunk_bytes += len(item.image or b"")
            num_samples += 1
        chunk.append(item)
    if chunk:
        yield chunk
    yield PartEnd(Cursor(number + 1, -1, 0, unsorted=reader.unsorted), last=True)
