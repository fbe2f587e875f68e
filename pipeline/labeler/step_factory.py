"""Which form each step of a unit has: it follows from the device, from earlier deaths, and from what is reused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from pipeline import metrics
from pipeline.labeler.chunks import CPU_CHUNK_IMAGES, gpu_chunk_images
from pipeline.labeler.config import LabelerConfig
from pipeline.labeler.decoders import ChildDecoder, GpuDecoder, WatchedDecoder
from pipeline.labeler.executor import Executor
from pipeline.labeler.image_path import forward, prepare
from pipeline.labeler.predictors import DevicePredictor, InPlacePredictor
from pipeline.labeler.reused import ReusingPredictor, StoredLookup
from pipeline.labeler.stored_reader import StoredReader
from pipeline.labeler.tasks import Decoder, Predictor, Steps
from pipeline.labeler.threads import one_torch_thread
from pipeline.labels import ClassResolver
from pipeline.metrics import Meter
from pipeline.models.device_queue import DeviceQueue
from pipeline.models.ensemble import Ensemble, EnsembleOptions
from pipeline.stages.crop import BatchPool
from pipeline.stages.nvjpeg import make_checked_decoder


class UnitSteps(Protocol):
    """What a labeler needs of a :class:`StepFactory`."""

    executor: Executor

    def steps(self, *, isolated: bool, stored: StoredReader | None) -> Steps:
        """The steps of a unit."""

    def sample_gauges(self, meter: Meter) -> None:
        """Have a meter sample what waits."""

    def close(self) -> None:
        """Wait for the threads to end."""


class MakeSteps(Protocol):
    """The constructor of a :class:`UnitSteps`."""

    def __call__(
        self, config: LabelerConfig, blobs: Mapping[str, bytes], /, *, device_thread: bool | None
    ) -> UnitSteps:
        """Make the steps of a labeler."""


class StepFactory:
    """Holds the ensemble, the threads and the device of a labeler, and makes the steps of its units.

    Args:
        config: What the labeler does.
        blobs: The members' tensors by alias, as safetensors bytes.
        device_thread: Whether a thread of its own feeds the device, as a GPU needs it, or forward passes run in the
            threads that decode, as is fastest on a CPU; None for what suits the device.

    Attributes:
        executor: Its worker threads.
    """

    def __init__(self, config: LabelerConfig, blobs: Mapping[str, bytes], *, device_thread: bool | None) -> None:
        self._config = config
        self._on_cpu = config.device == "cpu"
        self._ensemble = Ensemble(
            config.members,
            blobs,
            EnsembleOptions(
                device=config.device,
                precision=config.precision,
                rule=config.rule,
                top_k=config.top_k,
                temperature=config.temperature,
                compiled=config.compiled,
                batch_size=config.batch_size,
                tuning=config.tuning,
                keep_probs=config.keep_probs,
            ),
        )
        feeds_device = device_thread if device_thread is not None else not self._on_cpu
        self._queue = DeviceQueue(self._ensemble) if feeds_device else None
        self._on_gpu = make_checked_decoder(self._ensemble.device) if config.decode == "gpu" else None
        self.executor = Executor(
            config.num_threads,
            config.batch_size or (CPU_CHUNK_IMAGES if self._on_cpu else gpu_chunk_images(self._ensemble.geometries)),
            prepare,
            forward,
            on_start=self._begin_thread,
            feeds_device=feeds_device,
        )
        largest_px = max(geometry.resize_px for geometry in self._ensemble.geometries)
        fast_to_px = largest_px if config.decode == "fast" else None
        self._child = ChildDecoder(fast_to_px)
        self._watched = WatchedDecoder(fast_to_px, self._child, config.num_threads, self.executor)
        self._classes = ClassResolver(config.class_names)
        self._plain = self._steps(self._ensemble)
        # members that no older output has
        new = [member.alias for member in config.members if member.alias not in config.reused]
        self._new = self._steps(self._ensemble.subset(new)) if new and config.reused else None

    def _steps(self, ensemble: Ensemble) -> Steps:
        decoder: Decoder = GpuDecoder(self._on_gpu, self._watched) if self._on_gpu else self._watched
        predictor: Predictor = DevicePredictor(self._queue, ensemble) if self._queue else InPlacePredictor(ensemble)
        batches = BatchPool(ensemble.geometries, self.executor.chunk_images, pinned=not self._on_cpu)
        return Steps(decoder, predictor, batches, self._classes, tuple(member.alias for member in ensemble.specs))

    def steps(self, *, isolated: bool, stored: StoredReader | None) -> Steps:
        """The steps of a unit.

        Args:
            isolated: Whether its images are decoded in a child process.
            stored: What an older output holds of it, if that is used.
        """
        chosen = self._plain
        if stored is not None:
            chosen = replace(
                self._new or self._plain,  # without new members no image is decoded
                predictor=ReusingPredictor(self._config, self._new.predictor if self._new else None),
                aliases=self._plain.aliases,
                lookup=StoredLookup(stored, runs_new=self._new is not None),
            )
        return replace(chosen, decoder=self._child) if isolated else chosen

    def sample_gauges(self, meter: Meter) -> None:
        """Have a meter sample how much waits in the queues, and what hangs."""
        self.executor.sample_gauges(meter)
        meter.sample(metrics.QUEUE_DEPTH, lambda: self._queue.depth if self._queue else 0, queue="device")

    def close(self) -> None:
        """Wait for the threads to end; no unit is being labelled any more."""
        self._child.close()
        self.executor.close()
        self._watched.close()
        if self._queue:
            self._queue.close()
        self._ensemble.close()

    def _begin_thread(self) -> None:
        one_torch_thread()
        if self._on_gpu:
            self._on_gpu.use_own_stream()
