"""What the host side of one labeler can carry: reading, hashing, queues, gathering, Parquet, the interpreter's lock.

Decoding and resizing are replaced by sleeps, in which a thread holds neither a core nor the interpreter's lock, and
the device answers at once. All else is the labeler's own: tars, reader, chunks, watchdog, crops in their slots, the
device's queue, Parquet. So two cores show what a labeler would carry that has a core for each thread.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.labeler.chunks import CPU_CHUNK_IMAGES, GPU_CHUNK_IMAGES
from pipeline.labeler.config import LabelerConfig
from pipeline.labeler.decoders import ChildDecoder, WatchedDecoder
from pipeline.labeler.executor import Executor
from pipeline.labeler.image_path import forward, prepare
from pipeline.labeler.labeler import Labeler
from pipeline.labeler.predictors import DevicePredictor, InPlacePredictor
from pipeline.labeler.stored_reader import StoredReader
from pipeline.labeler.tasks import EncodedImage, Steps
from pipeline.labeler.threads import one_torch_thread
from pipeline.labeler.watchdog import Clock
from pipeline.labels import ClassResolver
from pipeline.metrics import Meter
from pipeline.models.device_queue import DeviceQueue
from pipeline.models.ensemble import Ensemble, FirstPass, MemberPredictions, Predictions
from pipeline.models.preprocessing import Geometry
from pipeline.models.weights import MemberSpec
from pipeline.speed.input_sample import InputSample
from pipeline.speed.whole_job import WholeJob
from pipeline.stages.crop import Batch, BatchPool
from pipeline.stages.decode import Decoded
from pipeline.storage import Storage

_PICTURE_PX = (375, 500)  # height and width of what a sleep decodes


@dataclass(frozen=True, slots=True)
class HostCeiling:
    """What was measured.

    Attributes:
        num_threads: Threads that decode.
        images: Images that were labelled.
        images_per_s: Their rate.
        possible_per_s: The rate of the sleeps alone, on all threads.
        share: The first by the second, 0-1.
        cpu_us_per_image: CPU time of the whole process, microseconds an image; sleeps take none.
    """

    num_threads: int
    images: int
    images_per_s: float
    possible_per_s: float
    share: float
    cpu_us_per_image: float


def measure_host_ceiling(
    config: LabelerConfig, sample: InputSample, *, decode_s: float, resize_s: float, seconds: float
) -> HostCeiling:
    """Measure it, after a run that is not counted.

    Args:
        config: Of the labeler; its ``out`` is a scratch directory.
        sample: Where the images are.
        decode_s: How long decoding an image takes, seconds.
        resize_s: The same for resizing and cropping it.
        seconds: Approximate duration.
    """
    labeler = make_host_labeler(config, decode_s=decode_s, resize_s=resize_s, feeds_device=True)
    job = WholeJob(config, labeler, sample, Storage(config.storage), GPU_CHUNK_IMAGES)
    possible = config.num_threads / (decode_s + resize_s)
    try:
        begun = time.perf_counter()
        tried = job.label(1)
        rate = tried / (time.perf_counter() - begun)
        begun, cpu = time.perf_counter(), time.process_time()
        images = job.label(max(tried, round(seconds * rate)))
        images_per_s = images / (time.perf_counter() - begun)
        cpu_s = time.process_time() - cpu
    finally:
        job.close()
    return HostCeiling(
        config.num_threads, images, images_per_s, possible, images_per_s / possible, 1e6 * cpu_s / images
    )


def make_host_labeler(
    config: LabelerConfig, *, decode_s: float = 0.0, resize_s: float = 0.0, feeds_device: bool
) -> Labeler:
    """A labeler whose decoding and resizing are sleeps, and whose members answer at once.

    Args:
        config: What it does; its ``out`` is a scratch directory.
        decode_s: How long decoding an image takes, seconds.
        resize_s: The same for resizing and cropping it.
        feeds_device: Whether a thread of its own asks the members, as for a GPU, or each thread that decodes.
    """
    make = functools.partial(_SleepingSteps, decode_s=decode_s, resize_s=resize_s, feeds_device=feeds_device)
    return Labeler(config, {}, make_steps=make)


def _sleep(seconds: float) -> None:
    if seconds:
        time.sleep(seconds)


class _SleepingDecoder(WatchedDecoder):
    """Sleeps under the watchdog, and returns the same picture each time."""

    def __init__(self, child: ChildDecoder, num_threads: int, executor: Executor, seconds: float) -> None:
        super().__init__(None, child, num_threads, executor)
        height, width = _PICTURE_PX
        self._decoded = Decoded(torch.zeros((3, height, width), dtype=torch.uint8), width, height)
        self._seconds = seconds

    def _decode(self, image: EncodedImage, clock: Clock[EncodedImage]) -> Decoded:
        _sleep(self._seconds)
        return self._decoded


class _SleepingBatch(Batch):
    """Sleeps in the place of resizing; the crop is copied into its slot as ever."""

    seconds = 0.0

    def _crop(self, pixels_CHW: torch.Tensor, geometry: Geometry) -> torch.Tensor:
        _sleep(self.seconds)
        return pixels_CHW[:, : geometry.crop_px, : geometry.crop_px]


class _SleepingBatches(BatchPool):
    """Batches that sleep, for all their geometries together, as long as one resize takes."""

    def __init__(self, geometries: Sequence[Geometry], num_slots: int, seconds: float) -> None:
        super().__init__(geometries, num_slots, pinned=False)
        self._seconds = seconds / len(geometries)

    def _make(self) -> Batch:
        batch = _SleepingBatch(self._geometries, self._num_slots, pinned=False)
        batch.seconds = self._seconds
        return batch


class _FreeEnsemble(Ensemble):
    """Answers at once, on any batch the same."""

    def __init__(self, specs: Sequence[MemberSpec], top_k: int, most: int) -> None:
        self.device = torch.device("cpu")
        self._all_specs = tuple(specs)
        k = min(top_k, specs[0].num_classes)
        self._packed_Bk = torch.zeros((most, k), dtype=torch.int32)
        labels_Bk = np.tile(np.arange(k, dtype=np.int32), (most, 1))
        scores_Bk = np.full((most, k), 1 / specs[0].num_classes, np.float32)
        ones_B = np.ones(most, np.float32)
        member = MemberPredictions(labels_Bk, scores_Bk, ones_B)
        self._answer = Predictions(labels_Bk, scores_Bk, ones_B, ones_B, ones_B, tuple(member for _ in specs))

    @property
    def specs(self) -> tuple[MemberSpec, ...]:
        """The members that it stands for."""
        return self._all_specs

    def predict(self, crops: Mapping[Geometry, torch.Tensor]) -> Predictions:
        """The same for each image."""
        return self._answer.take(np.arange(len(next(iter(crops.values())))))

    def first_pass(self, crops: Mapping[Geometry, torch.Tensor]) -> FirstPass:
        """Nothing is computed."""
        return FirstPass(crops, [], None)

    def second_pass(self, first: FirstPass, where: Sequence[torch.Tensor]) -> torch.Tensor:
        """As many rows as there are images."""
        return self._packed_Bk[: len(next(iter(first.crops.values())))]

    def unpack(self, packed: np.ndarray) -> Predictions:
        """The same for each."""
        return self._answer.take(np.arange(len(packed)))


class _SleepingSteps:
    """The steps of a labeler, as :class:`pipeline.labeler.step_factory.StepFactory` makes them."""

    def __init__(
        self,
        config: LabelerConfig,
        _blobs: Mapping[str, bytes],
        *,
        device_thread: bool | None,
        decode_s: float,
        resize_s: float,
        feeds_device: bool,
    ) -> None:
        chunk_images = config.batch_size or (GPU_CHUNK_IMAGES if feeds_device else CPU_CHUNK_IMAGES)
        ensemble = _FreeEnsemble(config.members, config.top_k, chunk_images)
        geometries = tuple(dict.fromkeys(spec.recipe.geometry for spec in config.members))
        self._queue = DeviceQueue(ensemble) if feeds_device else None
        self.executor = Executor(
            config.num_threads,
            chunk_images,
            prepare,
            forward,
            on_start=one_torch_thread,
            feeds_device=feeds_device,
        )
        self._child = ChildDecoder(None)
        self._decoder = _SleepingDecoder(self._child, config.num_threads, self.executor, decode_s)
        batches = _SleepingBatches(geometries, self.executor.chunk_images, resize_s)
        predictor = DevicePredictor(self._queue, ensemble) if self._queue else InPlacePredictor(ensemble)
        classes = ClassResolver(config.class_names)
        aliases = tuple(spec.alias for spec in config.members)
        self._steps = Steps(self._decoder, predictor, batches, classes, aliases)

    def steps(self, *, isolated: bool, stored: StoredReader | None) -> Steps:
        """They are the same for each unit."""
        if isolated or stored is not None:
            raise ValueError("a ceiling is measured on plain units")
        return self._steps

    def sample_gauges(self, meter: Meter) -> None:
        """Nothing is sampled."""

    def close(self) -> None:
        """Wait for the threads to end."""
        self.executor.close()
        self._decoder.close()
        self._child.close()
        if self._queue:
            self._queue.close()
