"""The device queue on the CPU: what is computed, in which order, and what happens when it fails.

The device is a CPU here, so that only the copies are not those of a GPU. An ensemble that waits where it is told
to, fails where it is told to and notes its steps stands for a slow one; its answers are its own.
"""

from __future__ import annotations

import threading
import weakref

import numpy as np
import pytest
import torch
from torchvision import models as tv

from pipeline.config.members import MemberRequest
from pipeline.models.device_errors import is_device_failure, is_out_of_memory
from pipeline.models.device_queue import DeviceQueue
from pipeline.models.ensemble import Ensemble, EnsembleOptions
from pipeline.models.full_fp32 import FULL_FP32, tf32_in_force
from pipeline.models.weights import resolve
from pipeline.storage import Storage

pytestmark = pytest.mark.usefixtures("with_bfloat16")

NUM_BATCHES = 5


class Noted(Ensemble):
    """Notes its steps by the number of images in the batch, fails on demand, and can be held up."""

    def __init__(self, specs, blobs, options):
        super().__init__(specs, blobs, options)
        self.steps: list[tuple[str, int]] = []
        self.again: list[list[int]] = []
        self.failures: list[BaseException] = []
        self.go = threading.Event()
        self.go.set()
        self.started = threading.Event()

    def first_pass(self, crops):
        size = len(next(iter(crops.values())))
        self.started.set()
        self.go.wait()
        if self.failures:
            raise self.failures.pop()
        self.steps.append(("start", size))
        return super().first_pass(crops)

    def second_pass(self, first, where):
        self.steps.append(("recompute", len(first.logits_MBK[0])))
        self.again.append([len(places) for places in where])
        return super().second_pass(first, where)

    def unpack(self, packed):
        self.steps.append(("finish", len(packed)))
        return super().unpack(packed)


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    folder, resolved = tmp_path_factory.mktemp("members"), []
    for seed, arch in enumerate(("shufflenet_v2_x0_5", "mobilenet_v3_small")):
        torch.manual_seed(seed)
        torch.save(tv.get_model(arch, weights=None, num_classes=6).state_dict(), folder / f"{arch}.pth")
        resolved.append(resolve(MemberRequest.parse(arch), str(folder), Storage()))
    return resolved


def make(members, precision) -> Noted:
    blobs = {item.spec.alias: item.blob for item in members}
    specs = [item.spec for item in members]
    return Noted(specs, blobs, EnsembleOptions(device="cpu", precision=precision, rule="mean", top_k=3))


def batches(ensemble):
    """Batches of 1, 2, 3 ... images, so that their size tells which is which."""
    generator = torch.Generator().manual_seed(0)
    return [
        {
            geometry: torch.randint(0, 256, (size, 3, 224, 224), generator=generator).to(torch.uint8)
            for geometry in ensemble.geometries
        }
        for size in range(1, NUM_BATCHES + 1)
    ]


@pytest.fixture
def feed(request):
    """A queue that is closed in the end."""

    def start(ensemble):
        ensemble.go.clear()
        device = DeviceQueue(ensemble)
        request.addfinalizer(device.close)
        request.addfinalizer(ensemble.go.set)
        return device

    return start


def same(one, other) -> bool:
    parts = [(one, other), *zip(one.members, other.members, strict=True)]
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for a, b in parts
        for name in a.__slots__
        if name != "members"
    )


@pytest.mark.parametrize("precision", ["fp32", "mixed"])
def test_answers_are_those_of_a_call_without_a_queue(members, feed, precision):
    ensemble = make(members, precision)
    alone = [ensemble.predict(batch) for batch in batches(ensemble)]
    device = feed(ensemble)
    futures = [device.submit(0, batch) for batch in batches(ensemble)]
    ensemble.go.set()
    for future, expected in zip(futures, alone, strict=True):
        answer = future.result()
        assert same(answer.predictions, expected)
        assert answer.seconds > 0
    if precision == "mixed":
        assert sum(map(sum, ensemble.again)) > 0, "none of these was a near tie: they prove nothing"


def test_the_device_has_the_next_batch_before_the_host_waits_for_one(members, feed):
    ensemble = make(members, "mixed")
    device = feed(ensemble)
    futures = [device.submit(0, batch) for batch in batches(ensemble)]
    ensemble.go.set()
    futures[-1].result()
    order = {step: place for place, step in enumerate(ensemble.steps)}
    for number in range(1, NUM_BATCHES):
        assert order["start", number + 1] < order["recompute", number]
        assert order["recompute", number + 1] < order["finish", number]
    finished = [number for step, number in ensemble.steps if step == "finish"]
    assert finished == sorted(finished)
    in_flight = 0
    for step, _ in ensemble.steps:
        in_flight += {"start": 1, "recompute": 0, "finish": -1}[step]
        assert in_flight <= 3


def test_without_near_ties_to_settle_an_answer_is_only_one_batch_behind(members, feed):
    ensemble = make(members, "fp32")
    device = feed(ensemble)
    futures = [device.submit(0, batch) for batch in batches(ensemble)]
    ensemble.go.set()
    futures[-1].result()
    order = {step: place for place, step in enumerate(ensemble.steps)}
    for number in range(1, NUM_BATCHES - 1):
        assert order["start", number + 1] < order["finish", number] < order["start", number + 2]


def test_a_single_batch_is_answered_though_none_follows(members, feed):
    ensemble = make(members, "mixed")
    device = feed(ensemble)
    future = device.submit(0, batches(ensemble)[0])
    ensemble.go.set()
    assert len(future.result(timeout=60).predictions.labels_Bk) == 1


def test_batches_of_the_older_unit_go_first(members, feed):
    ensemble = make(members, "fp32")
    device = feed(ensemble)
    one, two, three, four, _ = batches(ensemble)
    running = device.submit(7, one)
    ensemble.started.wait()  # it is under way: those that follow wait
    futures = [running, *(device.submit(turn, batch) for turn, batch in ((7, two), (3, three), (7, four)))]
    ensemble.go.set()
    for future in futures:
        future.result()
    assert [number for step, number in ensemble.steps if step == "start"] == [1, 3, 2, 4]


def test_a_cancelled_batch_is_left_out(members, feed):
    ensemble = make(members, "fp32")
    device = feed(ensemble)
    one, two, three, *_ = batches(ensemble)
    running = device.submit(0, one)
    ensemble.started.wait()
    given_up, last = device.submit(0, two), device.submit(0, three)
    assert given_up.cancel()
    ensemble.go.set()
    running.result()
    last.result()
    assert ("start", 2) not in ensemble.steps


def test_a_failure_is_that_batchs_alone(members, feed):
    ensemble = make(members, "mixed")
    ensemble.failures.append(RuntimeError("the device says no"))
    device = feed(ensemble)
    futures = [device.submit(0, batch) for batch in batches(ensemble)]
    ensemble.go.set()
    with pytest.raises(RuntimeError, match="says no"):
        futures[0].result()
    assert [len(future.result().predictions.labels_Bk) for future in futures[1:]] == [2, 3, 4, 5]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_batch_that_does_not_fit_beside_others_is_tried_alone(members, feed, error):
    ensemble = make(members, "mixed")
    device = feed(ensemble)
    first = device.submit(0, batches(ensemble)[0])
    ensemble.started.wait()
    second = device.submit(0, batches(ensemble)[1])
    begin, held = ensemble.first_pass, []

    def freed(crops):
        if len(next(iter(crops.values()))) == 2:
            held.append(held[0]() is None)  # what the failed try had computed is gone when there is another one
        return begin(crops)

    def full(crops):
        if len(next(iter(crops.values()))) == 2:
            ensemble.first_pass = freed
            computed = torch.zeros(1)
            held.append(weakref.ref(computed))
            raise type(error)(*error.args)
        return begin(crops)

    ensemble.first_pass = full
    ensemble.go.set()
    assert len(first.result().predictions.labels_Bk) == 1
    assert len(second.result().predictions.labels_Bk) == 2
    assert held[1]
    assert ensemble.steps[:4] == [("start", 1), ("recompute", 1), ("finish", 1), ("start", 2)]


def test_the_members_are_warmed_up_in_the_thread_that_computes(members, monkeypatch):
    ensemble, threads = make(members, "fp32"), []
    monkeypatch.setattr(ensemble, "warm_up", lambda: threads.append(threading.current_thread().name))
    DeviceQueue(ensemble).close()
    assert threads == ["device"]
    monkeypatch.setattr(ensemble, "warm_up", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        DeviceQueue(ensemble)


def test_too_little_memory_for_one_batch_is_an_error(members, feed):
    ensemble = make(members, "fp32")
    ensemble.failures.append(torch.OutOfMemoryError("out of memory"))
    device = feed(ensemble)
    future = device.submit(0, batches(ensemble)[0])
    ensemble.go.set()
    with pytest.raises(torch.OutOfMemoryError):
        future.result()


@pytest.mark.parametrize(
    ("error", "is_memory", "is_lost"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True, False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True, False),
        (torch.AcceleratorError("CUDA error: out of memory"), True, False),
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), False, True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False, True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasGemmEx`"), False, True),
        (RuntimeError("Expected all tensors to be on the same device, but found cuda:0 and cpu"), False, False),
        (ValueError("CUDA error"), False, False),
    ],
)
def test_what_an_error_of_a_device_means(error, is_memory, is_lost):
    assert (is_out_of_memory(error), is_device_failure(error)) == (is_memory, is_lost)


def test_tf32_is_off_while_anyone_wants_it_so_and_as_it_was_afterwards():
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, True  # as NVIDIA's containers have it
    try:
        assert tf32_in_force() == (True, True)
        FULL_FP32.hold()
        FULL_FP32.hold()
        assert tf32_in_force() == (False, False)
        FULL_FP32.release()
        assert tf32_in_force() == (False, False)
        FULL_FP32.release()
        assert tf32_in_force() == (True, True)
    finally:
        matmul.allow_tf32 = before
