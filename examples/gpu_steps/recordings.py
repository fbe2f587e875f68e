"""Checks of recorded forward passes (CUDA graphs), and of the queue that feeds a device."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from gpu_steps.material import Material
from gpu_steps.timing import wait
from pipeline.labeler.threads import one_torch_thread
from pipeline.models.device_queue import BatchResult, Crops, DeviceQueue
from pipeline.models.forward import Forward, fold_batch_norms
from pipeline.models.preprocessing import crop
from pipeline.models.weights import build_network
from pipeline.stages.crop import Batch, BatchPool
from pipeline.stages.decode import decode

if TYPE_CHECKING:
    from concurrent.futures import Future

    from gpu_steps.worker import Tell

_LOAD_THREADS = {"cuda": 4, "cpu": 1}
_UNDER_WAY = 4  # batches in the queue
_QUEUED = {"cuda": 80, "cpu": 6}
_TOLERANCE = 1e-2  # of the spread of the logits: what another kernel in fp16 may move them by


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


def record(forward: Forward, inputs_BCHW: torch.Tensor) -> bool:
    """Record it as a CUDA graph, which is replayed from then on; whether that works."""
    return forward.capture(inputs_BCHW)


# -- under load -------------------------------------------------------------------------------------------


def check_under_load(material: Material, tell: Tell) -> None:
    """Recorded logits against those of single kernels, and a queue whose batches are spoilt once they are read."""
    with _load(material):
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
    """Record while other threads use the device, then replay."""
    member, size = material.member(material.names[0]), material.sizes.batch
    dtype = torch.float16 if material.on_gpu else torch.float32
    forward = make_forward(material, material.names[0], dtype)
    crops = material.crops(material.names[0], 2 * size).to(material.device)
    batches = [crops.roll(7 * number, 0)[:size].float() / 64 - 2 for number in range(8)]
    batches = [batch.contiguous(memory_format=torch.channels_last) for batch in batches]
    single = [forward(batch) for batch in batches]
    if material.on_gpu:
        tell.check("recorded under load", record(forward, batches[0]), member=member.spec.alias)
    spread, until = float(single[0].std()), tell.seconds_left / 2
    number = unequal = other_top1 = 0
    worst = 0.0
    while number < len(batches) or (number < 400 and tell.seconds_left > until):
        expected_BK = single[number % len(batches)]
        found_BK = forward(batches[number % len(batches)])
        number += 1
        if not torch.equal(found_BK, expected_BK):
            unequal += 1
            worst = max(worst, float((found_BK - expected_BK).abs().max()))
            other_top1 += int((found_BK.argmax(1) != expected_BK.argmax(1)).sum())
    details = {"batches": number, "not bit for bit": unequal, "worst": worst, "spread": spread}
    tell.check("recorded logits", worst <= _TOLERANCE * spread, **details, other_top1=other_top1)


def _check_queue(material: Material, tell: Tell) -> None:
    """Batches in pinned memory that is written over in the moment in which their predictions are there."""
    ensemble = material.ensemble(material.names[:2])
    size = 2 * material.sizes.batch
    base = {member.recipe.geometry: material.crops(member.arch, size) for member in ensemble.specs}
    rolled = [{key: crops.roll(5 * number, 0) for key, crops in base.items()} for number in range(8)]
    expected = [ensemble.predict(crops) for crops in rolled[: _QUEUED[material.device.type]]]
    device_queue, pool = DeviceQueue(ensemble), BatchPool(ensemble.geometries, size, pinned=material.on_gpu)
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
    found = [(future.result().predictions, expected[which]) for which, future in waiting]
    device_queue.close()
    labels = sum(int((one.labels_Bk[:, 0] != other.labels_Bk[:, 0]).sum()) for one, other in found)
    worst = max(float(abs(one.scores_Bk - other.scores_Bk).max()) for one, other in found)
    tell.check("queue of batches", labels == 0 and worst < 1e-3, other_labels=labels, worst_score=worst)


def _spoil(pool: BatchPool, batch: Batch, crops: Crops, _future: object) -> None:
    """Write over a batch, and let the next one have its memory."""
    for crops_BCHW in crops.values():
        crops_BCHW.fill_(255)
    pool.give(batch)


# -- a network that cannot be recorded -------------------------------------------------------------------


class _Waits(nn.Module):
    """A network that waits for the device, so that it cannot be recorded."""

    def forward(self, inputs_BCHW: torch.Tensor) -> torch.Tensor:
        return inputs_BCHW.mean(dim=(2, 3)) * (1.0 if float(inputs_BCHW.sum()) > -1e30 else 2.0)


def check_capture(material: Material, tell: Tell) -> None:
    """A network that cannot be recorded, and then all that needs a sound allocator."""
    device = material.device
    inputs = torch.randn(8, 3, 64, 64, device=device)

    def forward(network: nn.Module) -> Forward:
        return Forward(network, device, torch.float32, batch_size=8, input_px=64, name="trial")

    waits, plain = forward(_Waits()), forward(nn.Conv2d(3, 8, 3).requires_grad_(False))
    expected_waits, expected_plain = waits(inputs), plain(inputs)
    if material.on_gpu:
        tell.check("a network that waits is refused", not record(waits, inputs))
    tell.check("it still computes", torch.equal(waits(inputs), expected_waits))
    _try(tell, "the cache can be emptied", torch.cuda.empty_cache)
    if material.on_gpu:
        _check_freed(device, tell)
        _try(tell, "the next network is recorded", lambda: _must(record(plain, inputs)))
    tell.check("it computes the same", torch.allclose(plain(inputs), expected_plain))


def _check_freed(device: torch.device, tell: Tell) -> None:
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
    tell.check("uploads give their memory back", grown < blocks / 2 * block_bytes, grown_MB=grown >> 20)


def _must(done: bool) -> None:
    if not done:
        raise RuntimeError("it is refused")


def _try(tell: Tell, name: str, call: Callable[[], object]) -> None:
    try:
        call()
    except RuntimeError as error:
        tell.check(name, False, error=str(error).strip().partition("\n")[0][:200])
    else:
        tell.check(name, True)
