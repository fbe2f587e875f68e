"""Checks of recorded forward passes (CUDA graphs), and of the queue that feeds a device."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from gpu_steps.material import Material
from gpu_steps.networks import normalised
from gpu_steps.timing import wait
from pipeline.labeler.threads import one_torch_thread
from pipeline.models.classifier import Classifier
from pipeline.models.device_queue import BatchResult, Crops, DeviceQueue
from pipeline.models.ensemble import Predictions
from pipeline.models.forward import Forward, fold_batch_norms
from pipeline.models.full_fp32 import FULL_FP32
from pipeline.models.number_formats import Precision
from pipeline.models.preprocessing import Geometry, crop
from pipeline.models.weights import build_network
from pipeline.stages.crop import Batch, BatchPool, new_crops
from pipeline.stages.decode import decode

if TYPE_CHECKING:
    from concurrent.futures import Future

    from gpu_steps.worker import Tell

_LOAD_THREADS = {"cuda": 4, "cpu": 1}
_UNDER_WAY = 4  # batches in the queue
_QUEUED = {"cuda": 80, "cpu": 6}
_TOLERANCE = 1e-2  # of the largest logit: what another kernel in fp16 may move one by
_MOST_REPLAYS = 400
_WAITS = "timm/convit_tiny"  # copies from host memory in each pass
_FEW = 8


def make_forward(material: Material, name: str, dtype: torch.dtype, *, compiled: bool = False) -> Forward:
    """The forward pass of a network, as a classifier makes it."""
    member = material.member(name)
    return Forward(
        fold_batch_norms(build_network(member.spec, member.blob)),
        material.device,
        dtype,
        batch_size=material.sizes.batch,
        input_px=member.spec.recipe.geometry.crop_px,
        name=name,
        compiled=compiled,
    )


# -- under load -------------------------------------------------------------------------------------------


def check_under_load(material: Material, tell: Tell) -> None:
    """Recorded logits against those of single kernels, and a queue whose batches are spoilt once they are read."""
    FULL_FP32.hold()
    _check_recorded(material, tell)
    _check_queue(material, tell)


@contextlib.contextmanager
def _load(material: Material) -> Iterator[None]:
    """Threads that decode, and on a GPU allocate and compute on streams of their own, as nvJPEG does."""
    stopping = threading.Event()
    geometry = material.member(material.names[0]).spec.recipe.geometry

    def work(number: int) -> None:
        one_torch_thread()
        stream = torch.cuda.Stream(material.device) if material.on_gpu else None  # type: ignore[no-untyped-call]
        while not stopping.is_set():
            pixels_CHW = decode(material.photographs[number % len(material.photographs)]).pixels_CHW
            number += 1
            with torch.cuda.stream(stream):
                crop(pixels_CHW.to(material.device), geometry).float().square().sum()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(_LOAD_THREADS[material.device.type])]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


@torch.inference_mode()
def _check_recorded(material: Material, tell: Tell) -> None:
    """Have a classifier record itself, and replay while other threads use the device."""
    name, size = material.names[0], material.sizes.batch
    member, crops = material.member(name), material.crops(name, 2 * size).to(material.device)
    batches = [crops.roll(7 * number, 0)[:size] for number in range(8)]
    forward = make_forward(material, name, torch.float16 if material.on_gpu else torch.float32)
    single = [forward(normalised(batch, member.spec.recipe)) for batch in batches]
    precision: Precision = "fp16" if material.on_gpu else "fp32"
    classifier = Classifier(member.spec, member.blob, material.device, precision, batch_size=size)
    classifier.warm_up()  # before other threads use the device, as a labeler does
    with _load(material):
        _compare_replays(tell, classifier, batches, single)


def _compare_replays(
    tell: Tell, classifier: Classifier, batches: Sequence[torch.Tensor], single: Sequence[torch.Tensor]
) -> None:
    """Recorded passes of batches, against the logits of single kernels, and against each other."""
    first = [classifier.first_pass(batch)[0] for batch in batches]
    worst = max(float((found - expected).abs().max()) for found, expected in zip(first, single, strict=True))
    largest, until = max(float(logits.abs().max()) for logits in single), tell.seconds_left / 2
    tell.check("logits beside single kernels", worst <= _TOLERANCE * largest, worst=worst, largest_logit=largest)
    number = unequal = 0
    while number < len(batches) or (number < _MOST_REPLAYS and tell.seconds_left > until):
        which, number = number % len(batches), number + 1
        unequal += not torch.equal(classifier.first_pass(batches[which])[0], first[which])
    tell.check("the same logits each time", unequal == 0, batches=number, other=unequal)


def _check_queue(material: Material, tell: Tell) -> None:
    """Batches in pinned memory that is written over in the moment in which their predictions are there."""
    ensemble = material.ensemble(material.names[:2])
    size = 2 * material.sizes.batch
    base = {member.recipe.geometry: material.crops(member.arch, size) for member in ensemble.specs}
    rolled = [{key: crops.roll(5 * number, 0) for key, crops in base.items()} for number in range(8)]
    device_queue = DeviceQueue(ensemble)
    expected = [ensemble.predict(crops) for crops in rolled[: _QUEUED[material.device.type]]]
    pool = BatchPool(lambda: Batch(new_crops(ensemble.geometries, size, pinned=material.on_gpu)))
    with _load(material):
        found = _queued(material, device_queue, pool, rolled, expected)
    device_queue.close()
    labels = sum(int((one.labels_Bk[:, 0] != other.labels_Bk[:, 0]).sum()) for one, other in found)
    worst = max(float(abs(one.scores_Bk - other.scores_Bk).max()) for one, other in found)
    tell.check("queue of batches", labels == 0 and worst < 1e-3, other_labels=labels, worst_score=worst)


def _queued(
    material: Material,
    device_queue: DeviceQueue,
    pool: BatchPool,
    rolled: Sequence[Mapping[Geometry, torch.Tensor]],
    expected: Sequence[Predictions],
) -> list[tuple[Predictions, Predictions]]:
    """Predictions of batches that are spoilt once they are read, each beside the expected ones."""
    size = len(next(iter(rolled[0].values())))
    waiting: list[tuple[int, Future[BatchResult]]] = []
    for number in range(_QUEUED[material.device.type]):
        if number >= _UNDER_WAY:
            waiting[-_UNDER_WAY][1].result()  # so that the memory of batches is used again at once
        batch = pool.take()
        crops = batch.packed(range(size))
        for geometry, crops_BCHW in rolled[number % 8].items():
            crops[geometry].copy_(crops_BCHW)

        future = device_queue.submit(number, crops)
        future.add_done_callback(functools.partial(_spoil, pool, batch, crops))
        waiting.append((number % 8, future))
    return [(future.result().predictions, expected[which]) for which, future in waiting]


def _spoil(pool: BatchPool, batch: Batch, crops: Crops, _future: object) -> None:
    """Write over a batch, and let the next one have its memory."""
    for crops_BCHW in crops.values():
        crops_BCHW.fill_(255)
    pool.give(batch)


# -- a network that cannot be recorded -------------------------------------------------------------------


def check_capture(material: Material, tell: Tell) -> None:
    """A network that waits for the device in each pass, so that it cannot be recorded; then one that can."""
    for title, name in (("cannot", _WAITS), ("can", material.names[0])):
        member, crops = material.member(name), material.crops(name, _FEW)
        expected_BK = Classifier(member.spec, member.blob, torch.device("cpu"), "fp32").logits(crops)
        precision: Precision = "mixed" if material.on_gpu else "fp32"
        classifier = Classifier(member.spec, member.blob, material.device, precision)
        found_BK = classifier.logits(crops.to(material.device)).cpu()
        other = int((found_BK.argmax(1) != expected_BK.argmax(1)).sum())
        tell.check(f"one that {title} be recorded", other == 0, member=name, other_top1=other)
        try:
            torch.cuda.empty_cache()
        except RuntimeError as error:
            tell.check(f"the cache is emptied after one that {title}", False, error=str(error)[:200])
        else:
            tell.check(f"the cache is emptied after one that {title}", True)
        if material.on_gpu:
            _check_freed(material.device, tell, title)


def _check_freed(device: torch.device, tell: Tell, title: str) -> None:
    """Blocks that another stream uses, as each upload is: their memory has to come back."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    block_bytes, blocks = 16 << 20, 50
    before = torch.cuda.memory_reserved(device)
    for _ in range(blocks):
        with torch.cuda.stream(stream):
            block = torch.empty(block_bytes, dtype=torch.uint8, device=device)
        block.record_stream(torch.cuda.current_stream(device))
        del block
        wait(device)
    grown = torch.cuda.memory_reserved(device) - before
    name = f"uploads give their memory back after one that {title}"
    tell.check(name, grown < blocks / 2 * block_bytes, grown_MB=grown >> 20)
