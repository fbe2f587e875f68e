"""Checks of the device alone: exact fp32, and a lack of memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812 - the name the field uses

from gpu_steps.material import Material
from pipeline.models.classifier import Classifier
from pipeline.models.full_fp32 import FULL_FP32

if TYPE_CHECKING:
    from gpu_steps.worker import Tell

# 1 + 2**-12 is a float32, which TF32 and float16 round to 1. Sums of up to 2**11 of it are exact in float32.
_JUST_ABOVE_1 = 1 + 2**-12
_WIDTH, _CHANNELS = 512, 64
_ROUNDING = 2.0**-15  # of a float32 sum, in whatever order; TF32 would be off by 2**-12
_TOLERANCE = 1e-2  # of the spread of the logits


# -- exact fp32 -------------------------------------------------------------------------------------------


def check_fp32(material: Material, tell: Tell) -> None:
    """Products whose exact result is known, after an ensemble has set its switches, and with TF32 for comparison."""
    ensemble = material.ensemble(material.names[:1])  # it sets torch's switches, as long as it is there
    for name, found, terms in (
        ("matrix product", _product(material.device), _WIDTH),
        ("convolution", _convolution(material.device), 9 * _CHANNELS),
    ):
        exact = terms * _JUST_ABOVE_1
        tell.check(name, abs(found / exact - 1) < _ROUNDING, found=found, exact=exact)
    del ensemble
    if not material.on_gpu:
        return
    with contextlib.suppress(RuntimeError):  # torch refuses its older switches once newer ones were used
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        rounded = {"matrix product": _product(material.device), "convolution": _convolution(material.device)}
        tell.figure("with TF32 they would be", rounded)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def _product(device: torch.device) -> float:
    """A number of a matrix product, all of which are ``_WIDTH * _JUST_ABOVE_1``: the smallest that comes out."""
    a = torch.full((_WIDTH, _WIDTH), _JUST_ABOVE_1, device=device)
    return float(F.linear(a, torch.ones_like(a)).min())


def _convolution(device: torch.device) -> float:
    """The same of a 3 x 3 convolution of 64 channels."""
    pictures = torch.full((16, _CHANNELS, 30, 30), _JUST_ABOVE_1, device=device)
    weight = torch.ones(_CHANNELS, _CHANNELS, 3, 3, device=device)
    pictures, weight = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (pictures, weight))
    return float(F.conv2d(pictures, weight).min())


# -- memory -----------------------------------------------------------------------------------------------


def check_memory(material: Material, tell: Tell) -> None:
    """Logits on a card that is filled before a network is loaded, or after, against those on a free one."""
    FULL_FP32.hold()
    name, size = material.names[0], 4 * material.sizes.batch
    member = material.member(name)
    crops = material.crops(name, size).to(material.device)

    def make() -> Classifier:
        return Classifier(member.spec, member.blob, material.device, "fp32", batch_size=size)

    before = _allocated(material)
    free = make()
    weights = _allocated(material) - before
    expected_BK = free.logits(crops)
    peak = torch.cuda.max_memory_allocated(material.device) - before if material.on_gpu else 0
    tell.figure("memory", {"weights_MB": weights >> 20, "peak_MB": peak >> 20, "images in a pass": free.batch_size})
    del free
    for when in ("before the network is loaded", "after it"):
        classifier = make() if when == "after it" else None
        with _filled(material, weights + peak // 3 if classifier is None else peak // 3):
            classifier = classifier or make()
            logits_BK = classifier.logits(crops)
        moved = float((logits_BK - expected_BK).abs().max())
        right = moved <= _TOLERANCE * float(expected_BK.std())
        if when != "after it" and material.on_gpu:  # a network that is recorded by then needs no more memory
            right &= classifier.batch_size < size
        details = {"images in a pass": classifier.batch_size, "moved": moved}
        tell.check(f"logits on a card that is filled {when}", right, **details)
        again_BK = classifier.logits(crops)
        tell.check(f"{when}: with free memory again", bool((again_BK.argmax(1) == expected_BK.argmax(1)).all()))
        del classifier


def _allocated(material: Material) -> int:
    return torch.cuda.memory_allocated(material.device) if material.on_gpu else 0


@contextlib.contextmanager
def _filled(material: Material, leave_bytes: int) -> Iterator[None]:
    """A card on which so much memory is left."""
    if not material.on_gpu:
        yield
        return
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(material.device)
    filling = torch.empty(max(0, free - leave_bytes), dtype=torch.uint8, device=material.device)
    try:
        yield
    finally:
        del filling
        torch.cuda.empty_cache()
