"""Classify: from decoded pictures to the crops that an ensemble wants, in one piece of memory for a whole batch.

Each thread that decodes puts its crops straight where the ensemble will take them from. For a GPU that memory
is pinned, so that the device fetches it by itself while everyone goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import torch

from pipeline.models.recipe import Geometry, crop


class Batch:
    """The crops of a batch of pictures: a slot for each, filled in any order and by any thread.

    Args:
        geometries: The crops that an ensemble wants of each picture; members with one geometry share it.
        num_slots: Pictures it has room for.
        pinned: Whether a GPU will fetch them.
    """

    def __init__(self, geometries: Sequence[Geometry], num_slots: int, *, pinned: bool) -> None:
        self._crops = {
            geometry: torch.empty(
                (num_slots, 3, geometry.crop_px, geometry.crop_px), dtype=torch.uint8, pin_memory=pinned
            )
            for geometry in geometries
        }

    def put(self, slot: int, pixels_CHW: torch.Tensor) -> None:
        """Cut every crop of one picture.

        Args:
            slot: Which picture of the batch it is.
            pixels_CHW: uint8, (3, H, W), 0-255, RGB.
        """
        for geometry, crops in self._crops.items():
            crops[slot].copy_(crop(pixels_CHW, geometry))

    def packed(self, slots: Sequence[int]) -> Mapping[Geometry, torch.Tensor]:
        """The crops of some slots, moved to the front where others lie between them.

        Args:
            slots: Which hold a picture, ascending.

        Returns:
            For each geometry uint8, (B, 3, S, S); views, good until the batch is filled again.
        """
        for target, source in enumerate(slots):
            if target != source:
                for crops in self._crops.values():
                    crops[target].copy_(crops[source])
        return {geometry: crops[: len(slots)] for geometry, crops in self._crops.items()}


class BatchPool:
    """Batches of one size that are used again: pinning memory takes longer than filling it."""

    def __init__(self, geometries: Sequence[Geometry], num_slots: int, *, pinned: bool) -> None:
        self._geometries = tuple(geometries)
        self._num_slots = num_slots
        self._pinned = pinned
        self._free: list[Batch] = []
        self._lock = threading.Lock()

    def take(self) -> Batch:
        """A batch that nobody uses."""
        with self._lock:
            if self._free:
                return self._free.pop()
        return Batch(self._geometries, self._num_slots, pinned=self._pinned)

    def give(self, batch: Batch) -> None:
        """Hand a batch back; what was in it is gone."""
        with self._lock:
            self._free.append(batch)
