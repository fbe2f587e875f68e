"""Which form each step of a unit has: it follows from the device, from earlier deaths, and from what is reused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import torch

from pipeline import metrics
from pipeline.labeler.backends import ForwardBackend
from pipeline.labeler.config import LabelerConfig
from pipeline.labeler.decoders import ChildDecoder, GpuDecoder, WatchedDecoder
from pipeline.labeler.executor import Executor
from pipeline.labeler.image_path import forward, prepare
from pipeline.labeler.reused import ReusingPredictor, StoredLookup
from pipeline.labeler.stored_reader import StoredReader
from pipeline.labeler.tasks import Decoder, Steps
from pipeline.labeler.threads import one_torch_thread
from pipeline.labels import ClassResolver
from pipeline.metrics import Meter
from pipeline.models.weights import MemberSpec
from pipeline.stages.nvjpeg import make_checked_decoder
from pipeline.taxonomy.answers import answers_of


class UnitSteps(Protocol):
    """What a labeler needs of a :class:`StepFactory`."""

    executor: Executor

    def steps(self, *, isolated: bool, stored: StoredReader | None) -> Steps:
        """The steps of a unit."""

    def sample_gauges(self, meter: Meter) -> None:
        """Have a meter sample what waits."""

    def close(self) -> None:
        """Wait for the threads to end."""


MakeSteps = Callable[[LabelerConfig], UnitSteps]


class StepFactory:
    """Holds the threads of a labeler and the backend of its forward passes, and makes the steps of its units.

    Args:
        config: What the labeler does.
        backend: Where the forward passes run.

    Attributes:
        executor: Its worker threads.
    """

    def __init__(self, config: LabelerConfig, backend: ForwardBackend) -> None:
        self._config = config
        self._backend = backend
        self._on_gpu = make_checked_decoder(torch.device(config.device)) if config.decode == "gpu" else None
        self.executor = Executor(
            config.num_threads,
            backend.chunk_images,
            prepare,
            forward,
            on_start=self._begin_thread,
            device_chunks=backend.device_chunks,
        )
        largest_px = max(spec.recipe.geometry.resize_px for spec in config.members)
        self._fast_to_px = largest_px if config.decode == "fast" else None
        self._child = ChildDecoder(self._fast_to_px)
        self._watched = self._make_watched(self._child)
        tree = config.taxonomy
        self._classes = ClassResolver(config.class_names) if tree is None else answers_of(tree)
        self._plain = self._steps(config.members, None)
        # members that no older output has
        new = [member for member in config.members if member.alias not in config.reused]
        self._new = self._steps(new, [member.alias for member in new]) if new and config.reused else None

    def _make_watched(self, child: ChildDecoder) -> WatchedDecoder:
        return WatchedDecoder(self._fast_to_px, child, self._config.num_threads, self.executor)

    def _steps(self, members: Sequence[MemberSpec], new: Sequence[str] | None) -> Steps:
        decoder: Decoder = GpuDecoder(self._on_gpu, self._watched) if self._on_gpu else self._watched
        batches = self._backend.batches(tuple(dict.fromkeys(member.recipe.geometry for member in members)))
        aliases = tuple(member.alias for member in members)
        return Steps(decoder, self._backend.predictor(new), batches, self._classes, aliases)

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
        meter.sample(metrics.QUEUE_DEPTH, lambda: self._backend.depth, queue="device")

    def close(self) -> None:
        """Wait for the threads to end; no unit is being labelled any more."""
        self._child.close()
        self.executor.close()
        self._watched.close()
        self._backend.close()

    def _begin_thread(self) -> None:
        one_torch_thread()
        if self._on_gpu:
            self._on_gpu.use_own_stream()
