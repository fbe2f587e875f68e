"""What a CPU, or a build of torch, does not compute in hardware is found out, and done in another way."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.models import number_formats, packed_conv
from pipeline.models.forward import Forward, fold_batch_norms
from pipeline.models.number_formats import is_in_hardware
from pipeline.models.packed_conv import PackedConv2d

REFUSALS = {
    "a CPU without AVX-512": (
        {torch.bfloat16, torch.float16},
        RuntimeError("mkldnn_reorder_conv2d_weight: bf16 path needs the cpu support avx_ne_convert or avx512bw"),
    ),
    "a torch without oneDNN": (
        {torch.float32, torch.bfloat16, torch.float16},
        AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_reorder_convolution_weight'"),
    ),
}


@pytest.fixture(params=REFUSALS)
def refused(request, monkeypatch):
    """The number formats in which convolutions cannot be packed."""
    formats, error = REFUSALS[request.param]
    reorder = torch.ops.mkldnn._reorder_convolution_weight

    def refuse(weight, *arguments):
        if weight.dtype in formats:
            raise error
        return reorder(weight, *arguments)

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_convolution_weight", refuse)
    packed_conv._can_convolve.cache_clear()
    yield formats
    packed_conv._can_convolve.cache_clear()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_what_cannot_be_packed_is_cast_without_a_warning(refused, caplog, dtype, bound):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    network.eval().requires_grad_(False)
    inputs = torch.randn(2, 3, 8, 8)
    expected = network(inputs)
    forward = Forward(fold_batch_norms(network), torch.device("cpu"), dtype, batch_size=2, input_px=8, name="it")
    assert not caplog.records
    packed = any(isinstance(layer, PackedConv2d) for layer in forward._network.modules())
    assert packed is (dtype not in refused)
    assert (forward(inputs) - expected).abs().max() < bound * expected.abs().max()


def test_packing_is_not_tried_where_onednn_is_switched_off(monkeypatch):
    assert packed_conv.is_available(torch.float32) is torch.backends.mkldnn.is_available()
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert not packed_conv.is_available(torch.float32)


@pytest.mark.parametrize(
    ("packs", "has_bfloat16", "expected"),
    [
        ({"fp32", "mixed", "bf16"}, True, {"fp32", "mixed", "bf16"}),
        ({"fp32", "mixed", "bf16"}, False, {"fp32"}),  # AVX-512 without BF16: made up of many instructions
        ({"fp32"}, True, {"fp32"}),  # the CPU could, torch cannot
        (set(), False, {"fp32"}),
        ({"fp32", "fp16"}, False, {"fp32", "fp16"}),
    ],
)
def test_what_is_in_hardware(monkeypatch, packs, has_bfloat16, expected):
    formats = {number_formats.first_format(precision, "cpu") for precision in packs}
    monkeypatch.setattr(packed_conv, "is_available", formats.__contains__)
    monkeypatch.setattr(number_formats, "has_bfloat16", lambda: has_bfloat16)
    precisions = ("fp32", "mixed", "bf16", "fp16")
    assert {precision for precision in precisions if is_in_hardware(precision, "cpu")} == expected
    assert all(is_in_hardware(precision, "cuda") for precision in precisions)
