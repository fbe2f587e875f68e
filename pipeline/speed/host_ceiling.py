"""What the host side of one labeler can carry: reading, hashing, queues, gathering, Parquet, the interpreter's lock.

Decoding and resizing are replaced by sleeps, in which a thread holds neither a core nor the interpreter's lock, and
the device answers at once. All else is the labeler's own: tars, reader, chunks, watchdog, crops in their slots, the
device's queue, Parquet. So two cores show what a labeler would carry that has a core for each thread.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from pipeline.hosts.host import RemoteBackend, RemoteDevice
from pipeline.hosts.worker import HostedWorker, LabelingWorker, hosts_for
from pipeline.labeler.backends import ForwardBackend, InProcessBackend, chunk_images
from pipeline.labeler.chunks import GPU_CHUNK_IMAGES
from pipeline.labeler.config import LabelerConfig
from pipeline.labeler.decoders import ChildDecoder, WatchedDecoder
from pipeline.labeler.executor import Executor
from pipeline.labeler.step_factory import StepFactory
from pipeline.labeler.tasks import EncodedImage
from pipeline.labeler.watchdog import Clock
from pipeline.labeler.worker import LabelerWorker
from pipeline.metrics import Meter, NoMeter
from pipeline.models.ensemble import Ensemble, FirstPass, MemberPredictions, Predictions
from pipeline.models.preprocessing import Geometry
from pipeline.models.weights import MemberSpec
from pipeline.speed.input_sample import InputSample
from pipeline.speed.whole_job import WholeJob
from pipeline.stages.crop import Batch
from pipeline.stages.decode import Decoded
from pipeline.storage import Storage

_PR_SET_TIMERSLACK = 29  # <linux/prctl.h>
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
    labeler = make_host_labeler(config, Sleeps(decode_s, resize_s), feeds_device=True)
    job = WholeJob(labeler, config.out, sample, Storage(config.storage), GPU_CHUNK_IMAGES)
    possible = config.num_threads / (decode_s + resize_s)
    try:
        job.label(labeler.units_at_once * len(sample.images) // 4)  # every process has begun
        begun = time.perf_counter()
        tried = job.label(len(sample.images))
        rate = tried / (time.perf_counter() - begun)
        begun, cpu = time.perf_counter(), labeler.cpu_s()
        images = job.label(max(tried, round(seconds * rate)))
        images_per_s = images / (time.perf_counter() - begun)
        cpu_s = labeler.cpu_s() - cpu
    finally:
        job.close()
    return HostCeiling(
        config.num_threads, images, images_per_s, possible, images_per_s / possible, 1e6 * cpu_s / images
    )


@dataclass(frozen=True, slots=True)
class Sleeps:
    """What takes the place of work.

    Attributes:
        decode_s: Of decoding an image, seconds.
        resize_s: Of resizing and cropping it, for all geometries together.
    """

    decode_s: float = 0.0
    resize_s: float = 0.0


def make_host_labeler(config: LabelerConfig, sleeps: Sleeps, *, feeds_device: bool) -> LabelingWorker:
    """A labeler whose decoding and resizing are sleeps, and whose members answer at once.

    Args:
        config: What it does; its ``out`` is a scratch directory.
        sleeps: Instead of decoding and resizing.
        feeds_device: Whether a device asks the members, as a GPU would, or each thread that decodes.
    """
    if not feeds_device:
        return _labeler(config, sleeps, _make_backend(config, sleeps, feeds_device=False), NoMeter())
    config = replace(config, device="cpu", batch_size=chunk_images(replace(config, device="cuda")))
    make_backend = functools.partial(_make_backend, config, sleeps, feeds_device=True)
    hosts = hosts_for(config.num_threads)
    if hosts == 1:
        return _labeler(config, sleeps, make_backend(), NoMeter())
    return HostedWorker(config, hosts, functools.partial(_labeler_in_host, config, sleeps), make_backend, NoMeter())


def _make_backend(config: LabelerConfig, sleeps: Sleeps, *, feeds_device: bool) -> InProcessBackend:
    ensemble = _FreeEnsemble(config.members, config.top_k, chunk_images(config))
    make_batch = functools.partial(_SleepingBatch, seconds=sleeps.resize_s)
    return InProcessBackend(config, {}, device_thread=feeds_device, ensemble=ensemble, make_batch=make_batch)


def _labeler_in_host(
    config: LabelerConfig,
    sleeps: Sleeps,
    device: RemoteDevice,
    *,
    num_threads: int,
    device_chunks: int,
    meter: Meter,
) -> LabelerWorker:
    make_batch = functools.partial(_SleepingBatch, seconds=sleeps.resize_s)
    backend = RemoteBackend(device, device_chunks, make_batch)
    return _labeler(replace(config, num_threads=num_threads), sleeps, backend, meter)


def _labeler(config: LabelerConfig, sleeps: Sleeps, backend: ForwardBackend, meter: Meter) -> LabelerWorker:
    return LabelerWorker(config, {}, meter, make_steps=lambda own: _SleepingSteps(own, backend, sleeps.decode_s))


def _sleep(seconds: float) -> None:
    if seconds:
        time.sleep(seconds)


def _sleep_precisely() -> None:
    """Have the kernel wake this thread, and those that it starts, on time and not up to 50 us later: see prctl(2)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)


class _SleepingSteps(StepFactory):
    """Steps whose decoding is a sleep."""

    def __init__(self, config: LabelerConfig, backend: ForwardBackend, decode_s: float) -> None:
        _sleep_precisely()
        self._decode_s = decode_s
        super().__init__(config, backend)

    def _make_watched(self, child: ChildDecoder) -> WatchedDecoder:
        return _SleepingDecoder(child, self._config.num_threads, self.executor, self._decode_s)


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

    def __init__(self, crops: Mapping[Geometry, torch.Tensor], *, seconds: float) -> None:
        super().__init__(crops)
        self._seconds = seconds / len(crops)
        self._cropped = {geometry: torch.zeros_like(slots[0]) for geometry, slots in crops.items()}

    def _crop(self, pixels_CHW: torch.Tensor, geometry: Geometry) -> torch.Tensor:
        _sleep(self._seconds)
        return self._cropped[geometry]


class _FreeEnsemble(Ensemble):
    """Answers at once, on any batch the same."""

    def __init__(self, specs: Sequence[MemberSpec], top_k: int, most: int) -> None:
        self.device = torch.device("cpu")
        self._all_specs = tuple(specs)
        k = min(top_k, specs[0].num_job_classes)
        self._packed_Bk = torch.zeros((most, k), dtype=torch.int32)
        labels_Bk = np.tile(np.arange(k, dtype=np.int32), (most, 1))
        scores_Bk = np.full((most, k), 1 / specs[0].num_job_classes, np.float32)
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
