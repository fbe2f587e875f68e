"""A bench for the stages of a labeler: each alone, and the labeler itself, on samples that are held in memory.

Each part runs as it does in the labeler: on as many threads, on chunks of the same size. The whole job is
a real :class:`pipeline.labeler.labeler.Labeler` over the same samples, from their storage to Parquet.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.errors import ImageError, InputError
from pipeline.labeler.chunks import CPU_CHUNK_IMAGES, GPU_CHUNK_IMAGES, PIECE_IMAGES
from pipeline.labeler.config import LabelerConfig
from pipeline.labeler.labeler import UNITS_AT_ONCE
from pipeline.labeler.threads import Workers, one_torch_thread
from pipeline.models.classifier import Classifier, Precision
from pipeline.models.ensemble import Ensemble, EnsembleOptions, Predictions
from pipeline.models.recipe import Geometry, crop
from pipeline.models.weights import MemberSpec
from pipeline.speed.rates import StageRate
from pipeline.speed.sampling import Drawn
from pipeline.speed.whole_job import WholeJob
from pipeline.speed.writing import WRITTEN_ROWS, Writing
from pipeline.stages.classify import Batch, BatchPool
from pipeline.stages.decode import decode
from pipeline.stages.nvjpeg import DeviceDecoder, make_checked_decoder
from pipeline.stages.write import Picture
from pipeline.storage import Storage

_CPU_FORWARD_IMAGES = 8  # in a step, so that large networks get through some steps
_PICTURES_HELD = 64
_PREDICT_S = 5.0
_LARGE_SHARE = 0.1  # of the pictures must be large enough, or --decode fast changes nothing

CHOICES: Mapping[str, tuple[Precision, ...]] = {
    "cpu": ("fp32", "mixed", "bf16"),
    "cuda": ("fp32", "mixed", "fp16", "bf16"),
}


@dataclass(slots=True)
class Stage:
    """Something to measure.

    Attributes:
        rate: What is known of it; its numbers are still to come.
        run: Goes through at least so many images and returns how many it were.
        step: Images that occupy every thread alike.
        cores: How many cores it occupies.
        most: Images in one run at most.
    """

    rate: StageRate
    run: Callable[[int], int]
    step: int
    cores: int
    most: int = 1 << 20
    per_run: int = 0


def _chunks(items: Sequence[Any], number: int, size: int) -> Iterator[list[Any]]:
    """So many items in chunks, from the start again when there are no more."""
    stream = itertools.islice(itertools.cycle(items), number)
    while chunk := list(itertools.islice(stream, size)):
        yield chunk


def _repeated(crops: torch.Tensor, number: int) -> torch.Tensor:
    return torch.cat([crops] * -(-number // len(crops)))[:number]


class StageBench:
    """The parts of a labeler, each to be run alone, and the labeler itself. A context manager."""

    def __init__(self, config: LabelerConfig, blobs: Mapping[str, bytes], drawn: Drawn) -> None:
        self._config = config
        self._blobs = blobs
        self._storage = Storage(config.storage)
        self._on_gpu = config.device == "cuda"
        self._chunk = config.batch_size or (GPU_CHUNK_IMAGES if self._on_gpu else CPU_CHUNK_IMAGES)
        self._piece = PIECE_IMAGES if self._on_gpu else self._chunk  # what one thread takes at a time
        self.images = drawn.images
        self.ensemble = self._build_ensemble(config.batch_size)
        largest = max(geometry.resize_px for geometry in self.ensemble.geometries)
        self._fast_px = largest if config.decode == "fast" else None
        self._other_px = None if config.decode == "fast" else largest
        # on a GPU it is worth knowing whether that decodes faster than the cores
        self._gpu_decoder = make_checked_decoder(self.ensemble.device) if self._on_gpu else None
        self._pixels: list[torch.Tensor] = []
        self._pictures: list[Picture] = []
        self._decode_some()
        held = Batch(self.ensemble.geometries, len(self._pixels), pinned=self._on_gpu)
        for slot, pixels in enumerate(self._pixels):
            held.put(slot, pixels)
        self._crops = held.packed(range(len(self._pixels)))
        self._batches = BatchPool(self.ensemble.geometries, self._piece, pinned=self._on_gpu)
        self._workers = Workers(config.num_threads, on_start=one_torch_thread)
        self._whole = WholeJob(config, blobs, drawn, self._storage, self._chunk)
        self.writing = Writing(config, self._storage, self._predict())

    def __enter__(self) -> StageBench:
        return self

    def __exit__(self, *exception: object) -> None:
        self._whole.stop()
        self._workers.close()
        self._whole.close()

    def _build_ensemble(self, batch_size: int | None) -> Ensemble:
        return Ensemble(
            self._config.members,
            self._blobs,
            EnsembleOptions(
                device=self._config.device,
                precision=self._config.precision,
                rule=self._config.rule,
                top_k=self._config.top_k,
                compiled=self._config.compiled,
                batch_size=batch_size,
                tuning=self._config.tuning,
            ),
        )

    def _decode_some(self) -> None:
        sound = []
        for number, image in enumerate(self.images):
            try:
                decoded = decode(image, fast_to_px=self._fast_px)
            except ImageError:
                continue
            sound.append(image)
            if len(self._pixels) < _PICTURES_HELD:
                digest = hashlib.sha256(image).hexdigest()
                self._pixels.append(decoded.pixels_CHW)
                self._pictures.append(
                    Picture(number, f"{number:05d}", digest, decoded.width, decoded.height, number % 1000, {})
                )
        if not sound:
            raise InputError(f"none of {len(self.images)} images from the inputs can be decoded")
        self._sound = sound

    def _predict(self) -> list[tuple[Predictions, list[Picture]]]:
        """What the ensemble says of the pictures, in chunks; of a slow ensemble, of fewer pictures."""
        size = min(self._chunk, -(-len(self._pictures) // 2))
        pieces = [slice(at, at + size) for at in range(0, len(self._pictures), size)]
        found: list[tuple[Predictions, list[Picture]]] = []
        deadline = time.monotonic() + _PREDICT_S
        for at in range(0, len(pieces), self._config.num_threads):
            wave = pieces[at : at + self._config.num_threads]
            # on the workers: in the calling thread torch would use, and wait for, several threads of its own
            futures = [self._workers.submit(0, self.ensemble.predict, self._some(piece)) for piece in wave]
            found += [(future.result(), self._pictures[piece]) for future, piece in zip(futures, wave, strict=True)]
            if time.monotonic() > deadline:
                break
        return found

    def _some(self, which: slice | list[int]) -> dict[Geometry, torch.Tensor]:
        return {geometry: crops[which] for geometry, crops in self._crops.items()}

    # -- the stages --------------------------------------------------------------------------------------

    def stages(self, *, choices: bool) -> list[Stage]:
        """What is to be measured, in the order of the flow."""
        step = self._chunk * self._config.num_threads
        found = [
            self._stage("read", self._whole.read, len(self.images), UNITS_AT_ONCE),
            self._on_threads("hash", "", lambda chunk: [hashlib.sha256(image).digest() for image in chunk]),
            *self._decodings(choices=choices),
            *(self._resize(place, geometry) for place, geometry in enumerate(self.ensemble.geometries)),
        ]
        if self._on_gpu:
            found += self._preparations(choices=choices)
        found += [stage for spec in self._config.members for stage in self._forwards(spec, choices=choices)]
        found.append(self._classify("", self.ensemble, configured=True))
        if choices and self._config.batch_size is None:
            twice = 2 * self._chunk
            found.append(self._classify(f"batch {twice}", self._build_ensemble(twice), twice, configured=False))
        found.append(self._stage("write", self.writing.run, WRITTEN_ROWS, 1))
        if not self._on_gpu:
            found.append(self._on_threads("limit", "", self._labelled, self.images))
        found.append(self._stage("job", self._whole.label, step, self._config.num_threads))
        return found

    def _stage(
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

    def _on_threads(
        self,
        stage: str,
        what: str,
        call: Callable[[list[Any]], object],
        items: Sequence[Any] | None = None,
        *,
        size: int | None = None,
        member: str = "",
        configured: bool = True,
    ) -> Stage:
        """A stage of which every thread does its share, chunk by chunk."""
        threads, size = self._config.num_threads, size or self._piece
        source = self._sound if items is None else items

        def run(number: int) -> int:
            self._finish(self._workers.submit(0, call, chunk) for chunk in _chunks(source, number, size))
            return number

        return self._stage(stage, run, size * threads, threads, what=what, member=member, configured=configured)

    @staticmethod
    def _finish(futures: Iterable[Future[Any]]) -> None:
        for future in list(futures):
            future.result()

    def _decodings(self, *, choices: bool) -> Iterator[Stage]:
        ways = [("fast" if self._config.decode == "fast" else "exact", self._fast_px, True)]
        if choices and self._other_px is not None and self._share_of_large(self._other_px) >= _LARGE_SHARE:
            ways.append(("fast", self._other_px, False))
        for what, px, configured in ways:

            def call(chunk: list[bytes], px: int | None = px) -> None:
                for image in chunk:
                    decode(image, fast_to_px=px)

            yield self._on_threads("decode", what, call, configured=configured)

    def _share_of_large(self, px: int) -> float:
        """The share of pictures that --decode fast would decode at a reduced scale."""
        large = [min(pixels.shape[1:]) >= 2 * px for pixels in self._pixels]
        return sum(large) / len(large)

    def _resize(self, place: int, geometry: Geometry) -> Stage:
        def call(chunk: list[torch.Tensor]) -> None:
            for pixels in chunk:
                crop(pixels, geometry)

        what = f"{geometry.resize_px} to {geometry.crop_px}, {geometry.interpolation}"
        return self._on_threads("resize", what, call, self._pixels)

    def _preparations(self, *, choices: bool) -> Iterator[Stage]:
        """Decoding and resizing on the cores, and with JPEGs decoded on the GPU."""
        on_gpu = self._gpu_decoder is not None and self._config.decode == "gpu"
        for decoder in (None, self._gpu_decoder) if self._gpu_decoder is not None else (None,):
            configured = (decoder is not None) == on_gpu
            if configured or choices:

                def call(chunk: list[bytes], decoder: DeviceDecoder | None = decoder) -> None:
                    self._batches.give(self._prepared(chunk, decoder)[0])

                what = "decode + resize" if decoder is None else "GPU decode + resize"
                yield self._on_threads("prepare", what, call, configured=configured)

    def _prepared(self, chunk: list[bytes], decoder: DeviceDecoder | None = None) -> tuple[Batch, list[int]]:
        """A batch from the pool, and which of its slots hold a picture."""
        batch, slots = self._batches.take(), []
        ahead = [None] * len(chunk) if decoder is None else decoder.decode(chunk)
        for slot, (image, decoded) in enumerate(zip(chunk, ahead, strict=True)):
            try:
                batch.put(slot, (decoded or decode(image, fast_to_px=self._fast_px)).pixels_CHW)
            except ImageError:
                continue
            slots.append(slot)
        return batch, slots

    def _labelled(self, chunk: list[bytes]) -> None:
        batch, slots = self._prepared(chunk)
        if slots:
            self.ensemble.predict(batch.packed(slots))
        self._batches.give(batch)

    def _forwards(self, spec: MemberSpec, *, choices: bool) -> Iterator[Stage]:
        config = self._config
        configured = (config.precision, config.compiled)
        tried = [configured]
        if choices:
            tried += [(precision, False) for precision in CHOICES[config.device] if (precision, False) != configured]
        crops = self._crops[spec.recipe.geometry]
        for precision, compiled in tried:
            yield self._forward(spec, crops, precision, compiled, configured=(precision, compiled) == configured)

    def _forward(
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

            return self._on_threads(
                "forward", what, call, list(crops), size=size, member=spec.alias, configured=configured
            )
        batch = _repeated(crops, size).to(device)
        recompute_B = member.first_pass(batch)[1]
        where_b = None if recompute_B is None else recompute_B.nonzero()[:, 0]

        def on_device() -> None:
            logits_BK, _ = member.first_pass(batch)
            if where_b is not None and len(where_b):
                member.second_pass(logits_BK, batch, where_b)

        return self._on_device("forward", on_device, size, what=what, member=spec.alias, configured=configured)

    def _on_device(
        self, stage: str, call: Callable[[], object], size: int, *, what: str, member: str = "", configured: bool
    ) -> Stage:
        """A stage on the GPU alone: its input lies there, and nobody waits for its output but at the end."""

        def run(number: int) -> int:
            for _ in range(number // size):
                call()
            torch.cuda.synchronize()
            return number

        return self._stage(stage, run, size, 1, what=what, member=member, configured=configured)

    def _classify(self, what: str, ensemble: Ensemble, size: int | None = None, *, configured: bool) -> Stage:
        size = size or self._chunk
        if not self._on_gpu:

            def call(chunk: list[int]) -> None:
                ensemble.predict(self._some(chunk))

            places = range(len(self._pictures))
            return self._on_threads("ensemble", what, call, places, size=size, configured=configured)
        batch = {geometry: _repeated(crops, size).to(ensemble.device) for geometry, crops in self._crops.items()}
        recompute_MB = ensemble.first_pass(batch).recompute_MB
        where = [] if recompute_MB is None else [recompute_B.nonzero()[:, 0] for recompute_B in recompute_MB]

        def on_device() -> None:
            ensemble.second_pass(ensemble.first_pass(batch), where)

        return self._on_device("ensemble", on_device, size, what=what, configured=configured)
