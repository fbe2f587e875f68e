"""Where the forward passes of a labeler run: in the threads that decode, or on a device with a thread of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol

import torch

from pipeline.labeler.chunks import CPU_CHUNK_IMAGES, gpu_chunk_images
from pipeline.labeler.config import LabelerConfig
from pipeline.labeler.predictors import DevicePredictor, InPlacePredictor
from pipeline.labeler.tasks import Predictor
from pipeline.models.device_queue import BatchResult, Crops, DeviceQueue
from pipeline.models.ensemble import Ensemble, EnsembleOptions
from pipeline.models.preprocessing import Geometry
from pipeline.stages.crop import Batch, BatchPool, new_crops

MakeBatch = Callable[[Mapping[Geometry, torch.Tensor]], Batch]

CHUNKS_ON_DEVICE = 4  # one that waits, three in the steps of a device queue


class ForwardBackend(Protocol):
    """Where the forward passes of a labeler run.

    Attributes:
        chunk_images: Samples in a chunk at most.
        device_chunks: Chunks of a unit that wait for the device or are on it; 0 if the threads that decode compute.
    """

    chunk_images: int
    device_chunks: int

    def predictor(self, new: Sequence[str] | None) -> Predictor:
        """The step from crops to predictions.

        Args:
            new: Aliases of the members to run, whose full probabilities are wanted; None for all, as configured.
        """

    def batches(self, geometries: Sequence[Geometry]) -> BatchPool:
        """Where crops of these geometries are put."""

    @property
    def depth(self) -> int:
        """Batches that wait for the device."""

    def close(self) -> None:
        """Finish what was submitted."""


class InProcessBackend:
    """The ensemble, resident in this process.

    Args:
        config: Of the labeler.
        blobs: The members' tensors by alias, as safetensors bytes.
        device_thread: Whether a thread of its own feeds the device, as a GPU needs it, or forward passes run in the
            threads that decode, as is fastest on a CPU; None for what suits the device.
        ensemble: The members, where they are made already.
        make_batch: Makes a batch of its crops.
    """

    def __init__(
        self,
        config: LabelerConfig,
        blobs: Mapping[str, bytes],
        *,
        device_thread: bool | None = None,
        ensemble: Ensemble | None = None,
        make_batch: MakeBatch = Batch,
    ) -> None:
        self._on_cpu = config.device == "cpu"
        self._ensemble = ensemble or Ensemble(config.members, blobs, ensemble_options(config))
        self._make_batch = make_batch
        self._subset = functools.cache(self._ensemble.subset)
        feeds_device = device_thread if device_thread is not None else not self._on_cpu
        self.chunk_images = chunk_images(config)
        self.device_chunks = CHUNKS_ON_DEVICE if feeds_device else 0
        self._queue = DeviceQueue(self._ensemble) if feeds_device else None

    def predictor(self, new: Sequence[str] | None) -> Predictor:
        """The step from crops to predictions."""
        if self._queue is None:
            return InPlacePredictor(self._members(new))
        return DevicePredictor(functools.partial(self.submit, new=None if new is None else tuple(new)))

    def submit(self, turn: int, crops: Crops, new: tuple[str, ...] | None) -> Future[BatchResult]:
        """Queue a batch for the device.

        Args:
            turn: Batches with a lower number go first.
            crops: See :meth:`pipeline.models.device_queue.DeviceQueue.submit`.
            new: See :meth:`predictor`.
        """
        assert self._queue is not None
        return self._queue.submit(turn, crops, self._members(new))

    def _members(self, new: Sequence[str] | None) -> Ensemble:
        return self._ensemble if new is None else self._subset(tuple(new))

    def batches(self, geometries: Sequence[Geometry]) -> BatchPool:
        """Where crops of these geometries are put: in pinned memory, for a GPU."""
        pinned = not self._on_cpu
        return BatchPool(lambda: self._make_batch(new_crops(geometries, self.chunk_images, pinned=pinned)))

    @property
    def depth(self) -> int:
        """Batches that wait for the device."""
        return self._queue.depth if self._queue else 0

    def close(self) -> None:
        """Finish what was submitted."""
        if self._queue:
            self._queue.close()
        self._ensemble.close()


def chunk_images(config: LabelerConfig) -> int:
    """Samples in a chunk at most."""
    if config.batch_size:
        return config.batch_size
    geometries = {member.recipe.geometry for member in config.members}
    return CPU_CHUNK_IMAGES if config.device == "cpu" else gpu_chunk_images(geometries)


def ensemble_options(config: LabelerConfig) -> EnsembleOptions:
    """How a labeler's ensemble runs."""
    return EnsembleOptions(
        device=config.device,
        precision=config.precision,
        rule=config.rule,
        top_k=config.top_k,
        temperature=config.temperature,
        compiled=config.compiled,
        batch_size=config.batch_size,
        tuning=config.tuning,
        keep_probs=config.keep_probs,
        taxonomy=config.taxonomy,
    )
