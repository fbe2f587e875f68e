"""Crops in memory that a labeler's process shares with one of its host processes.

It is an anonymous file in memory (``memfd_create(2)``), which needs no name and no room in ``/dev/shm``, and is gone
with the last process that has it. Batches that were never used take no memory.
"""

from __future__ import annotations

import itertools
import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from pipeline.models.preprocessing import Geometry


@dataclass(frozen=True, slots=True)
class CropLayout:
    """How batches of crops lie in memory.

    Attributes:
        geometries: Of the crops.
        num_slots: Pictures in a batch at most.
        num_batches: How many batches there are.
    """

    geometries: tuple[Geometry, ...]
    num_slots: int
    num_batches: int

    @property
    def batch_bytes(self) -> int:
        """Of a batch, a multiple of a page."""
        return sum(self._geometry_bytes(geometry) for geometry in self.geometries)

    @property
    def num_bytes(self) -> int:
        """Of all batches."""
        return self.num_batches * self.batch_bytes

    def _geometry_bytes(self, geometry: Geometry) -> int:
        num_bytes = self.num_slots * 3 * geometry.crop_px**2
        return -(-num_bytes // mmap.PAGESIZE) * mmap.PAGESIZE


class CropMemory:
    """The batches of one host process, mapped into this process.

    Args:
        layout: How they lie.
        descriptor: Of the file in memory.
    """

    def __init__(self, layout: CropLayout, descriptor: int) -> None:
        self.layout = layout
        self.descriptor = descriptor
        self._bytes = torch.frombuffer(mmap.mmap(descriptor, layout.num_bytes), dtype=torch.uint8)

    @classmethod
    def make(cls, layout: CropLayout) -> CropMemory:
        """Make the file, empty."""
        descriptor = os.memfd_create("shardlabel-crops")
        os.truncate(descriptor, layout.num_bytes)
        return cls(layout, descriptor)

    def batch(self, number: int, geometries: Sequence[Geometry] | None = None) -> Mapping[Geometry, torch.Tensor]:
        """The crops of a batch: for each geometry uint8, (slots, 3, S, S).

        Args:
            number: Of the batch.
            geometries: Some of the layout's; None for all.
        """
        layout = self.layout
        if not 0 <= number < layout.num_batches:
            raise IndexError(f"batch {number} of {layout.num_batches}")
        sizes = [layout._geometry_bytes(geometry) for geometry in layout.geometries]
        starts = itertools.accumulate(sizes, initial=number * layout.batch_bytes)
        found = {}
        for geometry, start in zip(layout.geometries, starts, strict=False):
            if geometries is None or geometry in geometries:
                px = geometry.crop_px
                length = layout.num_slots * 3 * px * px
                found[geometry] = self._bytes[start : start + length].view(layout.num_slots, 3, px, px)
        return found

    def number_of(self, crops: Mapping[Geometry, torch.Tensor]) -> int:
        """Which batch some of its crops belong to."""
        address = next(iter(crops.values())).data_ptr() - self._bytes.data_ptr()
        return address // self.layout.batch_bytes

    def pin(self, number: int) -> None:
        """Pin the memory of a batch, so that a GPU copies from it while other work goes on.

        Raises:
            RuntimeError: CUDA refuses.
        """
        cuda = torch.cuda.cudart()  # type: ignore[no-untyped-call]  # torch's own
        torch.cuda.check_error(int(cuda.cudaHostRegister(self._address(number), self.layout.batch_bytes, 0)))

    def unpin(self, number: int) -> None:
        """Undo :meth:`pin`; the device must not be reading."""
        cuda = torch.cuda.cudart()  # type: ignore[no-untyped-call]  # torch's own
        cuda.cudaHostUnregister(self._address(number))

    def _address(self, number: int) -> int:
        return self._bytes.data_ptr() + number * self.layout.batch_bytes

    def close(self) -> None:
        """Close the file; memory that tensors still use stays until they are gone."""
        os.close(self.descriptor)
