"""Classify: from decoded pictures to batches of crops for the ensemble.

The crops of a batch lie in one piece of memory, and each thread that decodes writes its crops there. For a GPU the
memory is pinned, so that it is copied while other work goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

import torch

from pipeline.models.preprocessing import Geometry, crop


class Batch:
    """The crops of a batch of pictures: a slot for each, filled in any order and by any thread.

    Args:
        crops: For each geometry that the ensemble needs uint8, (slots, 3, S, S): where its crops are put. Members of
            one geometry share a crop.
    """

    def __init__(self, crops: Mapping[Geometry, torch.Tensor]) -> None:
        self._crops = crops
        self._slots = {geometry: slots.unbind() for geometry, slots in crops.items()}

    def put(self, slot: int, pixels_CHW: torch.Tensor) -> None:
        """Resize and crop one picture, for each geometry.

        Args:
            slot: Number of the picture in the batch.
            pixels_CHW: uint8, (3, H, W), 0-255, RGB, in host memory or on a GPU.
        """
        for geometry, slots in self._slots.items():
            # waits for a GPU whose pixels these are: until then neither they nor the slot are anybody else's
            slots[slot].copy_(self._crop(pixels_CHW, geometry))

    def _crop(self, pixels_CHW: torch.Tensor, geometry: Geometry) -> torch.Tensor:
        try:
            return crop(pixels_CHW, geometry)
        except torch.OutOfMemoryError:  # of a GPU that has decoded it
            pass
        return crop(pixels_CHW.cpu(), geometry)

    def packed(self, slots: Sequence[int]) -> Mapping[Geometry, torch.Tensor]:
        """Return the crops of some slots, moved together at the front.

        Args:
            slots: Slots that hold a picture, ascending.

        Returns:
            For each geometry uint8, (B, 3, S, S), 0-255, RGB; views, valid until the batch is filled again.
        """
        for target, source in enumerate(slots):
            if target != source:
                for crops in self._crops.values():
                    crops[target].copy_(crops[source])
        return {geometry: crops[: len(slots)] for geometry, crops in self._crops.items()}


def new_crops(geometries: Sequence[Geometry], num_slots: int, *, pinned: bool) -> Mapping[Geometry, torch.Tensor]:
    """New memory for the crops of a batch: for each geometry uint8, (num_slots, 3, S, S).

    Args:
        geometries: Of the crops.
        num_slots: Number of pictures it can hold.
        pinned: Whether to use pinned memory, for a GPU.
    """
    return {
        geometry: torch.empty((num_slots, 3, geometry.crop_px, geometry.crop_px), dtype=torch.uint8, pin_memory=pinned)
        for geometry in geometries
    }


class BatchPool:
    """Reuses batches of one size, because pinning memory takes longer than filling it.

    Args:
        make: Makes one more.
    """

    def __init__(self, make: Callable[[], Batch]) -> None:
        self._make = make
        self._free: list[Batch] = []
        self._lock = threading.Lock()

    def take(self) -> Batch:
        """Take a free batch, or make one."""
        with self._lock:
            if self._free:
                return self._free.pop()
        return self._make()

    def give(self, batch: Batch) -> None:
        """Return a batch; it will be overwritten."""
        with self._lock:
            self._free.append(batch)
