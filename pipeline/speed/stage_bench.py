"""The stages of a labeler, ready to be measured: each alone, and the whole labeler, on samples in memory.

Each stage runs as in the labeler: on as many threads, on chunks of the same size. The whole job is a real
:class:`pipeline.labeler.labeler.Labeler` over the same samples, from their storage to Parquet.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.errors import ImageError
from pipeline.hosts.worker import make_labeler_worker
from pipeline.labeler.backends import chunk_images, ensemble_options
from pipeline.labeler.chunks import PIECE_IMAGES
from pipeline.labeler.config import LabelerConfig
from pipeline.labeler.labeler import UNITS_AT_ONCE
from pipeline.labeler.threads import Workers, one_torch_thread
from pipeline.metrics import NoMeter
from pipeline.models.classifier import Classifier
from pipeline.models.ensemble import Ensemble, Predictions
from pipeline.models.number_formats import Precision, is_in_hardware
from pipeline.models.preprocessing import Geometry, crop
from pipeline.models.weights import MemberSpec
from pipeline.speed.decoded_sample import DecodedSample
from pipeline.speed.host_ceiling import Sleeps, make_host_labeler
from pipeline.speed.input_sample import InputSample
from pipeline.speed.rates import StageRate
from pipeline.speed.whole_job import WholeJob
from pipeline.speed.write_bench import WRITTEN_ROWS, WriteBench
from pipeline.stages.crop import Batch, BatchPool, new_crops
from pipeline.stages.decode import Decoded, decode
from pipeline.stages.nvjpeg import DeviceDecoder, make_checked_decoder
from pipeline.stages.write import Picture
from pipeline.storage import Storage

_CPU_FORWARD_IMAGES = 8  # in a step, so that large networks get through some steps
_PREDICT_S = 5.0
_MIN_LARGE_SHARE = 0.1  # of the pictures must be large enough, or --decode fast changes nothing

PRECISIONS: Mapping[str, tuple[Precision, ...]] = {
    "cpu": ("fp32", "mixed", "bf16"),
    "cuda": ("fp32", "mixed", "fp16", "bf16"),
}


@dataclass(slots=True)
class Stage:
    """A stage to measure.

    Attributes:
        rate: Its name; the numbers are filled in when it is measured.
        run: Processes at least so many images; returns how many.
        step: Images that occupy all threads equally; runs are multiples of it.
        cores: Cores that it occupies.
        most: Images in one run at most.
        per_run: Images in one run.
    """

    rate: StageRate
    run: Callable[[int], int]
    step: int
    cores: int
    most: int = 1 << 20
    per_run: int = 0


def _cycle_chunks(items: Sequence[Any], number: int, size: int) -> Iterator[list[Any]]:
    """So many items in chunks, starting over when there are no more."""
    stream = itertools.islice(itertools.cycle(items), number)
    while chunk := list(itertools.islice(stream, size)):
        yield chunk


def _repeat(crops: torch.Tensor, number: int) -> torch.Tensor:
    return torch.cat([crops] * -(-number // len(crops)))[:number]


class StageBench:
    """The stages of a labeler, each to be run alone, and the whole labeler. A context manager.

    Args:
        config: The labeler; its ``out`` is a scratch directory.
        blobs: The members' tensors.
        sample: The samples.

    Raises:
        InputError: None of the samples can be decoded.
    """

    def __init__(self, config: LabelerConfig, blobs: Mapping[str, bytes], sample: InputSample) -> None:
        self._config = config
        self._blobs = blobs
        self._storage = Storage(config.storage)
        self._on_gpu = config.device == "cuda"
        self._chunk = chunk_images(config)
        self._piece = PIECE_IMAGES if self._on_gpu else self._chunk  # what one thread takes at a time
        self.images = sample.images
        self.ensemble = self._build_ensemble(config.batch_size)
        largest = max(geometry.resize_px for geometry in self.ensemble.geometries)
        self._fast_px = largest if config.decode == "fast" else None
        self._other_px = None if config.decode == "fast" else largest
        # on a GPU, its decoder is measured beside the cores
        self._gpu_decoder = make_checked_decoder(self.ensemble.device) if self._on_gpu else None
        self._decoded = DecodedSample(self.images, self.ensemble.geometries, self._fast_px, pinned=self._on_gpu)
        self._batches = BatchPool(self._new_batch)
        self._workers = Workers(config.num_threads, on_start=one_torch_thread)
        self._gpu_workers: Workers | None = None
        if self._gpu_decoder is not None:
            self._gpu_workers = Workers(config.num_threads, on_start=self._gpu_decoder.use_own_stream)
        labeler = make_labeler_worker(config, blobs, NoMeter())
        self._whole = WholeJob(labeler, config.out, sample, self._storage, self._chunk)
        self._sample = sample
        self._host: WholeJob | None = None
        self.write_bench = WriteBench(config, self._storage, self._predict())

    def _new_batch(self) -> Batch:
        return Batch(new_crops(self.ensemble.geometries, self._piece, pinned=self._on_gpu))

    def __enter__(self) -> StageBench:
        return self

    def __exit__(self, *exception: object) -> None:
        self._whole.stop()
        if self._host is not None:
            self._host.stop()
        self._workers.close()
        if self._gpu_workers is not None:
            self._gpu_workers.close()
        self._whole.close()
        if self._host is not None:
            self._host.close()
        self.ensemble.close()

    def _build_ensemble(self, batch_size: int | None) -> Ensemble:
        ensemble = Ensemble(
            self._config.members,
            self._blobs,
            dataclasses.replace(ensemble_options(self._config), batch_size=batch_size),
        )
        ensemble.warm_up()
        return ensemble

    def _predict(self) -> list[tuple[Predictions, list[Picture]]]:
        """Predictions of the ensemble for the pictures, in chunks; for fewer pictures if the ensemble is slow."""
        size = min(self._chunk, -(-len(self._decoded.pictures) // 2))
        pieces = [slice(at, at + size) for at in range(0, len(self._decoded.pictures), size)]
        found: list[tuple[Predictions, list[Picture]]] = []
        deadline = time.monotonic() + _PREDICT_S
        # one after the other on a GPU
        at_once = 1 if self._on_gpu else self._config.num_threads
        for at in range(0, len(pieces), at_once):
            wave = pieces[at : at + at_once]
            # on the workers: in this thread torch would start and wait for several threads of its own
            futures = [
                self._workers.submit(0, self.ensemble.predict, self._decoded.select_crops(piece)) for piece in wave
            ]
            found += [
                (future.result(), self._decoded.pictures[piece]) for future, piece in zip(futures, wave, strict=True)
            ]
            if time.monotonic() > deadline:
                break
        return found

    # -- the stages --------------------------------------------------------------------------------------

    def stages(self, *, alternatives: bool) -> list[Stage]:
        """The stages to measure, in the order of the pipeline.

        Args:
            alternatives: Whether to add other precisions, batch sizes and decoders.
        """
        step = self._chunk * self._config.num_threads
        found = [
            self._make_stage("read", self._whole.read, len(self.images), UNITS_AT_ONCE),
            self._threaded_stage("hash", "", lambda chunk: [hashlib.sha256(image).digest() for image in chunk]),
            *self._decode_stages(alternatives=alternatives),
            *(self._resize_stage(geometry) for geometry in self.ensemble.geometries),
        ]
        if self._on_gpu:
            found += self._prepare_stages(alternatives=alternatives)
        found += [
            stage for spec in self._config.members for stage in self._forward_stages(spec, alternatives=alternatives)
        ]
        found.append(self._ensemble_stage("", self.ensemble, configured=True))
        if alternatives and self._config.batch_size is None:
            twice = 2 * self._chunk
            found.append(self._ensemble_stage(f"batch {twice}", self._build_ensemble(twice), twice, configured=False))
        found.append(self._make_stage("write", self.write_bench.run, WRITTEN_ROWS, 1))
        if alternatives:
            self._host = self._make_host_job()
            found.append(self._make_stage("host", self._host.label, step, self._config.num_threads))
        if not self._on_gpu:
            found.append(self._threaded_stage("limit", "", self._label_chunk, self.images))
        found.append(self._make_stage("job", self._whole.label, step, self._config.num_threads))
        return found

    def _make_host_job(self) -> WholeJob:
        """The whole job without decoding and members."""
        config = dataclasses.replace(self._config, out=os.path.join(self._config.out, "host"))
        labeler = make_host_labeler(config, Sleeps(), feeds_device=self._on_gpu)
        return WholeJob(labeler, config.out, self._sample, self._storage, self._chunk)

    def _make_stage(
        self,
        stage: str,
        run: Callable[[int], int],
        step: int,
        cores: int,
        *,
        what: str = "",
        member: str = "",
        configured: bool = True,
    ) -> Stage:
        return Stage(StageRate(stage, what, member, 0.0, 0.0, 0.0, (), configured), run, step, cores)

    def _threaded_stage(
        self,
        stage: str,
        what: str,
        call: Callable[[list[Any]], object],
        items: Sequence[Any] | None = None,
        *,
        size: int | None = None,
        member: str = "",
        configured: bool = True,
        workers: Workers | None = None,
    ) -> Stage:
        """A stage that runs on all threads, chunk by chunk."""
        threads, size, workers = self._config.num_threads, size or self._piece, workers or self._workers
        source = self._decoded.decodable if items is None else items

        def run(number: int) -> int:
            self._wait(workers.submit(0, call, chunk) for chunk in _cycle_chunks(source, number, size))
            return number

        return self._make_stage(stage, run, size * threads, threads, what=what, member=member, configured=configured)

    @staticmethod
    def _wait(futures: Iterable[Future[Any]]) -> None:
        for future in list(futures):
            future.result()

    def _decode_stages(self, *, alternatives: bool) -> Iterator[Stage]:
        ways = [("fast" if self._config.decode == "fast" else "exact", self._fast_px, True)]
        if (
            alternatives
            and self._other_px is not None
            and self._decoded.share_of_large(self._other_px) >= _MIN_LARGE_SHARE
        ):
            ways.append(("fast", self._other_px, False))
        for what, px, configured in ways:

            def call(chunk: list[bytes], px: int | None = px) -> None:
                for image in chunk:
                    decode(image, fast_to_px=px)

            yield self._threaded_stage("decode", what, call, configured=configured)

    def _resize_stage(self, geometry: Geometry) -> Stage:
        def call(chunk: list[torch.Tensor]) -> None:
            for pixels in chunk:
                crop(pixels, geometry)

        what = f"{geometry.resize_px} to {geometry.crop_px}, {geometry.interpolation}"
        return self._threaded_stage("resize", what, call, self._decoded.pixels)

    def _prepare_stages(self, *, alternatives: bool) -> Iterator[Stage]:
        """Decoding and resizing on the cores, and with JPEGs decoded on the GPU."""
        on_gpu = self._gpu_decoder is not None and self._config.decode == "gpu"
        for decoder in (None, self._gpu_decoder) if self._gpu_decoder is not None else (None,):
            configured = (decoder is not None) == on_gpu
            if configured or alternatives:

                def call(chunk: list[bytes], decoder: DeviceDecoder | None = decoder) -> None:
                    self._batches.give(self._prepare(chunk, decoder)[0])

                what = "decode + resize" if decoder is None else "GPU decode + resize"
                # as in a labeler, each thread that decodes on the GPU has a stream of its own
                workers = None if decoder is None else self._gpu_workers
                yield self._threaded_stage("prepare", what, call, configured=configured, workers=workers)

    def _prepare(self, chunk: list[bytes], decoder: DeviceDecoder | None = None) -> tuple[Batch, list[int]]:
        """A batch from the pool, and which of its slots hold a picture."""
        batch, slots = self._batches.take(), []
        ahead: deque[Decoded | None] = deque()
        for slot, image in enumerate(chunk):
            if not ahead:
                ahead.extend([None] if decoder is None else decoder.decode(chunk[slot:]))
            decoded = ahead.popleft()
            try:
                batch.put(slot, (decoded or decode(image, fast_to_px=self._fast_px)).pixels_CHW)
            except ImageError:
                continue
            slots.append(slot)
        return batch, slots

    def _label_chunk(self, chunk: list[bytes]) -> None:
        batch, slots = self._prepare(chunk)
        if slots:
            self.ensemble.predict(batch.packed(slots))
        self._batches.give(batch)

    def _forward_stages(self, spec: MemberSpec, *, alternatives: bool) -> Iterator[Stage]:
        config = self._config
        configured = (config.precision, config.compiled)
        tried = [configured]
        if alternatives:
            others = [(other, False) for other in PRECISIONS[config.device] if is_in_hardware(other, config.device)]
            tried += [other for other in others if other != configured]
        crops = self._decoded.crops[spec.recipe.geometry]
        for precision, compiled in tried:
            yield self._forward_stage(spec, crops, precision, compiled, configured=(precision, compiled) == configured)

    def _forward_stage(
        self, spec: MemberSpec, crops: torch.Tensor, precision: Precision, compiled: bool, *, configured: bool
    ) -> Stage:
        device = torch.device(self._config.device)
        batch_size, tuning = self._config.batch_size, self._config.tuning
        blob = self._blobs[spec.alias]
        member = Classifier(spec, blob, device, precision, compiled=compiled, batch_size=batch_size, tuning=tuning)
        size = self._chunk if self._on_gpu else min(self._chunk, max(_CPU_FORWARD_IMAGES, member.batch_size))
        what = precision + (" compiled" if compiled else "")
        if not self._on_gpu:

            def call(chunk: list[torch.Tensor]) -> None:
                with torch.inference_mode():
                    member.logits(torch.stack(chunk))

            return self._threaded_stage(
                "forward", what, call, list(crops), size=size, member=spec.alias, configured=configured
            )
        batch = _repeat(crops, size).to(device)
        recompute_B = member.first_pass(batch)[1]
        where_b = None if recompute_B is None else recompute_B.nonzero()[:, 0]

        def on_device() -> None:
            logits_BK, _ = member.first_pass(batch)
            if where_b is not None and len(where_b):
                member.second_pass(logits_BK, batch, where_b)

        return self._device_stage("forward", on_device, size, what=what, member=spec.alias, configured=configured)

    def _device_stage(
        self, stage: str, call: Callable[[], object], size: int, *, what: str, member: str = "", configured: bool
    ) -> Stage:
        """A stage on the GPU alone: its input is there already, and the run waits once, at its end."""

        def run(number: int) -> int:
            for _ in range(number // size):
                call()
            torch.cuda.synchronize()
            return number

        return self._make_stage(stage, run, size, 1, what=what, member=member, configured=configured)

    def _ensemble_stage(self, what: str, ensemble: Ensemble, size: int | None = None, *, configured: bool) -> Stage:
        size = size or self._chunk
        if not self._on_gpu:

            def call(chunk: list[int]) -> None:
                ensemble.predict(self._decoded.select_crops(chunk))

            places = range(len(self._decoded.pictures))
            return self._threaded_stage("ensemble", what, call, places, size=size, configured=configured)
        batch = {geometry: _repeat(crops, size).to(ensemble.device) for geometry, crops in self._decoded.crops.items()}
        recompute_MB = ensemble.first_pass(batch).recompute_MB
        where = [] if recompute_MB is None else [recompute_B.nonzero()[:, 0] for recompute_B in recompute_MB]

        def on_device() -> None:
            ensemble.second_pass(ensemble.first_pass(batch), where)

        return self._device_stage("ensemble", on_device, size, what=what, configured=configured)
