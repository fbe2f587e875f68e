"""The decoded images of a sample and their crops, held in memory for a measurement."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from pipeline.errors import ImageError, InputError
from pipeline.models.preprocessing import Geometry
from pipeline.stages.crop import Batch, new_crops
from pipeline.stages.decode import decode
from pipeline.stages.write import Picture
from pipeline.text import fmt

_MAX_PICTURES = 64


class DecodedSample:
    """The images of a sample that can be decoded; the first 64 of them as pixels and crops.

    Args:
        images: Encoded images.
        geometries: Of the crops.
        fast_px: As for :func:`pipeline.stages.decode.decode`; None for exact decoding.
        pinned: Whether crops lie in pinned memory, for a GPU.

    Attributes:
        decodable: Encoded images that can be decoded.
        pixels: uint8, (3, H, W), 0-255, RGB, decoded images.
        pictures: Their rows, without predictions.
        crops: uint8, (N, 3, S, S), by geometry.

    Raises:
        InputError: No image can be decoded.
    """

    def __init__(
        self, images: Sequence[bytes], geometries: Sequence[Geometry], fast_px: int | None, *, pinned: bool
    ) -> None:
        self.decodable: list[bytes] = []
        self.pixels: list[torch.Tensor] = []
        self.pictures: list[Picture] = []
        for number, image in enumerate(images):
            try:
                decoded = decode(image, fast_to_px=fast_px)
            except ImageError:
                continue
            self.decodable.append(image)
            if len(self.pixels) < _MAX_PICTURES:
                digest = hashlib.sha256(image).hexdigest()
                self.pixels.append(decoded.pixels_CHW)
                self.pictures.append(
                    Picture(number, f"{number:05d}", digest, decoded.width, decoded.height, number % 1000, {})
                )
        if not self.decodable:
            raise InputError(f"of {fmt.plural(len(images), 'image')} from the inputs none can be decoded")
        batch = Batch(new_crops(geometries, len(self.pixels), pinned=pinned))
        for slot, pixels in enumerate(self.pixels):
            batch.put(slot, pixels)
        self.crops = batch.packed(range(len(self.pixels)))

    def select_crops(self, which: slice | list[int]) -> dict[Geometry, torch.Tensor]:
        """The crops of some images, by geometry."""
        return {geometry: crops[which] for geometry, crops in self.crops.items()}

    def share_of_large(self, px: int) -> float:
        """The share of images that --decode fast would decode at a reduced scale, 0-1.

        Args:
            px: Shorter side that is needed.
        """
        large = [min(pixels.shape[1:]) >= 2 * px for pixels in self.pixels]
        return sum(large) / len(large)
