"""Forward passes alone, on crops that lie on the device: each member in each form, and new sizes of batches."""

from __future__ import annotations

import functools
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from gpu_steps.material import Material
from gpu_steps.networks import normalised
from gpu_steps.recordings import make_forward
from gpu_steps.timing import rate, seconds_of
from pipeline.models.classifier import Classifier
from pipeline.models.full_fp32 import FULL_FP32
from pipeline.models.graphs import CapturedGraph, graph_memory_of

if TYPE_CHECKING:
    from gpu_steps.worker import Tell

_SECOND_PASSES = {"cuda": range(17, 33), "cpu": range(1, 4)}  # how many near ties a batch may have
_COMPILING_S = 45.0  # what one network may take on a GPU


def _low(material: Material) -> torch.dtype:
    return torch.float16 if material.on_gpu else torch.bfloat16


def measure_forms(material: Material, tell: Tell) -> None:
    """Each member in fp32 and in low precision, by single kernels and recorded, and in ``mixed``."""
    FULL_FP32.hold()
    for name in material.names:
        if tell.seconds_left < 0:
            tell.figure(name, "no time is left")
            continue
        found: dict[str, object] = {}
        for dtype in (torch.float32, _low(material)):
            found |= _measure_plain(material, name, dtype)
        found |= _measure_mixed(material, name)
        tell.figure(name, found)


def _inputs(material: Material, name: str) -> torch.Tensor:
    """A batch as a network takes it: float32, (B, 3, S, S)."""
    crops = material.crops(name, material.sizes.batch).to(material.device)
    return normalised(crops, material.member(name).spec.recipe)


@torch.inference_mode()
def _measure_plain(material: Material, name: str, dtype: torch.dtype) -> dict[str, float | str]:
    """Images per second of single kernels and of a recording."""
    title, size = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype], material.sizes.batch
    forward, inputs = make_forward(material, name, dtype), _inputs(material, name)
    found: dict[str, float | str] = {f"{title} eager": rate(lambda: forward(inputs), size, material.device)}
    memory = graph_memory_of(material.device)
    if memory is not None:
        try:
            graph = CapturedGraph(forward, memory, size, inputs.shape[-1])
            found[f"{title} recorded"] = rate(lambda: graph(inputs), size, material.device)
        except RuntimeError as error:
            found[f"{title} recorded"] = str(error).partition("\n")[0][:120]
    return found


def _measure_mixed(material: Material, name: str) -> dict[str, float | int]:
    """As a job runs it: the first pass, and the second for near ties, whose share counts on random networks."""
    member, size = material.member(name), 2 * material.sizes.batch
    batch_size = None if material.on_gpu else material.sizes.batch
    classifier = Classifier(member.spec, member.blob, material.device, "mixed", batch_size=batch_size)
    crops = material.crops(name, size).to(material.device)
    flags_B = classifier.first_pass(crops)[1]
    where_b = torch.empty(0, dtype=torch.int64) if flags_B is None else flags_B.nonzero()[:, 0]

    def once() -> None:
        logits_BK, _ = classifier.first_pass(crops)
        if len(where_b):
            classifier.second_pass(logits_BK, crops, where_b)

    return {
        "mixed": rate(once, size, material.device),
        "again in fp32": len(where_b) / size,
        "margin": classifier.near_tie_margin,
        "images in a pass": classifier.batch_size,
    }


def measure_sizes(material: Material, tell: Tell) -> None:
    """Batches of sizes that were not there before, and the same sizes once more."""
    FULL_FP32.hold()
    for name in material.names:
        if tell.seconds_left < 0:
            tell.figure(name, "no time is left")
            continue
        member, size = material.member(name), 2 * material.sizes.batch
        batch_size = None if material.on_gpu else material.sizes.batch
        classifier = Classifier(member.spec, member.blob, material.device, "mixed", batch_size=batch_size)
        crops = material.crops(name, size).to(material.device)
        with ThreadPoolExecutor(1) as device_thread:  # cuDNN keeps its plans by thread, and a labeler's has its own
            found = device_thread.submit(_measure_sizes, classifier, crops).result()
        tell.figure(name, found)


@torch.inference_mode()
def _measure_sizes(classifier: Classifier, crops: torch.Tensor) -> dict[str, object]:
    device, whole = classifier.device, len(crops)
    logits_BK, flags_B = classifier.first_pass(crops)

    def first_pass_ms(size: int) -> float:
        return 1e3 * seconds_of(functools.partial(classifier.first_pass, crops[:size]), device)

    def second_pass_ms(size: int) -> float:
        where_b = torch.arange(size, device=device)
        return 1e3 * seconds_of(functools.partial(classifier.second_pass, logits_BK, crops, where_b), device)

    found: dict[str, object] = {"whole batch, ms": first_pass_ms(whole)}
    # what damage, and the end of a part, leave of a batch
    for size in (whole - 3, whole - whole // 4 - 1, whole // 2 - 1):
        found[f"batch of {size}, ms, and again"] = [first_pass_ms(size), first_pass_ms(size)]
    if flags_B is not None:
        sizes = _SECOND_PASSES[device.type]
        rounds = [statistics.fmean(second_pass_ms(size) for size in sizes) for _ in range(2)]
        found["second pass, ms, and again"] = rounds
    return found


@torch.inference_mode()
def measure_compiled(material: Material, tell: Tell) -> None:
    """Each member through torch.compile, in low precision on a GPU, as long as there is time."""
    dtype = torch.float16 if material.on_gpu else torch.float32
    for name in material.names:
        if tell.seconds_left < (_COMPILING_S if material.on_gpu else 1):
            tell.figure(name, "no time is left")
            continue
        began = time.perf_counter()
        forward = make_forward(material, name, dtype, compiled=True)
        compiling_s = time.perf_counter() - began
        once = functools.partial(forward, _inputs(material, name))
        per_s = rate(once, material.sizes.batch, material.device)
        tell.figure(name, {"images/s": per_s, "compiling_s": round(compiling_s, 1)})
