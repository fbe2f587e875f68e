"""Classify: from a decoded picture to the crops its ensemble wants, and from crops to predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipeline.models.ensemble import Ensemble, Predictions
from pipeline.models.recipe import Geometry, crop


@dataclass(frozen=True, slots=True)
class Crops:
    """The crops of one picture.

    Attributes:
        by_geometry: For each of the ensemble's geometries, uint8, (3, S, S).
    """

    by_geometry: tuple[torch.Tensor, ...]


def cut_crops(pixels_CHW: torch.Tensor, geometries: Sequence[Geometry]) -> Crops:
    """Every crop that an ensemble wants of one picture; members with one geometry share it."""
    return Crops(tuple(crop(pixels_CHW, geometry) for geometry in geometries))


def classify(ensemble: Ensemble, batch: Sequence[Crops]) -> Predictions:
    """Run all members on a batch of pictures."""
    pinned = ensemble.device.type == "cuda"
    stacked = {}
    for position, geometry in enumerate(ensemble.geometries):
        crops = torch.stack([item.by_geometry[position] for item in batch])
        stacked[geometry] = crops.pin_memory() if pinned else crops
    return ensemble.predict(stacked)
