"""A network gives the same logits in every form that it runs in."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import fx, nn
from torchvision import models as tv
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.efficientnet import FusedMBConvConfig, MBConvConfig

from pipeline.models import forward as module
from pipeline.models import packed_conv
from pipeline.models.catalog import find
from pipeline.models.forward import Forward, fold_batch_norms
from pipeline.models.networks import NetworkShape, empty_network
from pipeline.models.packed_conv import PackedConv2d

CPU = torch.device("cpu")
ARCHS = """alexnet googlenet resnet18 squeezenet1_1 shufflenet_v2_x0_5 mnasnet0_5 mobilenet_v2 mobilenet_v3_small
efficientnet_b0 vgg11_bn""".split()
# The blocks of deep networks, each kind and its joints once or twice: packing looks at layers and their neighbours.
SHALLOW = {
    "resnext": lambda: tv.ResNet(tv.resnet.Bottleneck, [2, 1, 1, 1], groups=32, width_per_group=4, num_classes=10),
    "densenet": lambda: tv.DenseNet(block_config=(2, 2, 2, 2), num_classes=10),
    "efficientnet_v2": lambda: tv.EfficientNet(
        [
            FusedMBConvConfig(1, 3, 1, 24, 24, 2),
            FusedMBConvConfig(4, 3, 2, 24, 48, 2),
            MBConvConfig(4, 3, 2, 48, 64, 2),
            MBConvConfig(6, 3, 1, 64, 96, 2),
        ],
        dropout=0.2,
        num_classes=10,
    ),
    "convnext": lambda: tv.ConvNeXt(
        [CNBlockConfig(48, 96, 2), CNBlockConfig(96, None, 2)], layer_scale=1.0, num_classes=10
    ),
    "swin": lambda: tv.SwinTransformer([4, 4], 48, [2, 2], [3, 6], [7, 7], num_classes=10),
}


def alive(network: nn.Module, px: int = 96) -> nn.Module:
    """A network whose batch norms are not identities, and whose convolutions have biases that count."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
        elif isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.normal_(layer.bias, 0, 0.2)
    network.train()
    with torch.no_grad():
        network(torch.randn(4, 3, px, px))
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(0.7, 1.3)
                layer.bias.normal_(0, 0.2)
    return network.eval().requires_grad_(False)


def narrow(network: nn.Module) -> nn.Module:
    """VGG or AlexNet with a hundredth of its 100 million weights of linear layers, of which each test makes copies."""
    layers = [at for at, layer in enumerate(network.classifier) if isinstance(layer, nn.Linear)]
    sizes = [network.classifier[layers[0]].in_features, 64, 64, 10]
    for at, inputs, outputs in zip(layers, sizes, sizes[1:], strict=False):
        network.classifier[at] = nn.Linear(inputs, outputs)
    for layer in network.modules():
        if hasattr(layer, "reset_parameters"):
            layer.to_empty(device="cpu").reset_parameters()
    return network


def build(arch: str) -> nn.Module:
    torch.manual_seed(0)
    if arch in SHALLOW:
        return alive(SHALLOW[arch]())
    if arch in {"alexnet", "vgg11_bn"}:
        return alive(narrow(empty_network(NetworkShape(find(arch), 10, 224))))
    options = {"aux_logits": False, "init_weights": False} if arch == "googlenet" else {}
    network = tv.get_model(arch, weights=None, num_classes=10, **options)
    # with other statistics than those they begin with, random EfficientNets are chaotic: rounding grows a millionfold
    return network.eval().requires_grad_(False) if arch.startswith("efficientnet") else alive(network)


def form(network: nn.Module, dtype=torch.float32, **options) -> Forward:
    return Forward(network, CPU, dtype, batch_size=2, input_px=96, name="it", **options)


def images(batch: int = 3, px: int = 96) -> torch.Tensor:
    return torch.randn(batch, 3, px, px, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("arch", [*ARCHS, *SHALLOW])
def test_packed_networks_give_the_same_logits(arch, caplog):
    network = build(arch)
    with torch.inference_mode():
        expected = network(images())
    whole = fold_batch_norms(network)
    exact, quick = form(copy.deepcopy(whole)), form(copy.deepcopy(whole), torch.bfloat16)
    assert not caplog.records  # none is refused
    assert not any(type(layer) is nn.Conv2d for layer in exact._network.modules())
    scale = expected.abs().max()
    assert (exact(images()) - expected).abs().max() < 1e-4 * scale
    found = quick(images())
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() < 0.1 * scale
    with torch.inference_mode():
        assert torch.equal(
            whole.to(torch.float32)(images()), fold_batch_norms(network)(images())
        )  # what was given is unhurt


@pytest.mark.parametrize(
    ("arch", "activations", "additions"),
    [("resnet18", 17, 8), ("mobilenet_v2", 35, 10), ("mobilenet_v3_small", 41, 6), ("efficientnet_b0", 65, 9)],
)
def test_activations_and_additions_go_into_the_convolutions(arch, activations, additions):
    layers = [
        layer for layer in form(fold_batch_norms(build(arch)))._network.modules() if isinstance(layer, PackedConv2d)
    ]
    assert sum(layer._epilogue[0] != "none" for layer in layers) == activations
    assert sum(layer._adds for layer in layers) == additions


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v2", "googlenet", "shufflenet_v2_x0_5", "densenet121"])
def test_batch_norms_are_folded_away(arch):
    network = build(arch)
    plain = sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
    left = sum(isinstance(layer, nn.BatchNorm2d) for layer in fold_batch_norms(network).modules())
    assert left <= plain * (0.55 if arch == "densenet121" else 0)  # in DenseNets half stand before convolutions


class Odd(nn.Module):
    """What makes packing difficult: one layer used twice, an activation that others look at, padding by reflection."""

    def __init__(self):
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 3, padding=1)
        self.seen = nn.Conv2d(3, 3, 1)
        self.reflected = nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")
        self.same = nn.Conv2d(3, 3, 3, padding="same")
        self.relu = nn.ReLU()
        self.head = nn.Linear(3, 4)

    def forward(self, inputs):
        first = self.twice(self.twice(inputs))
        second = self.seen(first)
        third = self.relu(second) + second  # the sum of an activation and what went into it
        fourth = self.same(self.reflected(third)) + 1.0
        fifth = torch.sigmoid(self.seen(fourth)) * fourth
        return self.head(fifth.mean((2, 3)))


def test_what_cannot_be_packed_stays(caplog):
    torch.manual_seed(0)
    network = Odd().eval().requires_grad_(False)
    with torch.inference_mode():
        expected = network(images())
    result = form(fold_batch_norms(network))
    torch.testing.assert_close(result(images()), expected, atol=1e-5, rtol=1e-5)
    assert not caplog.records


def test_a_rewrite_that_changes_the_function_is_not_used(monkeypatch, caplog):
    network = fold_batch_norms(build("resnet18"))
    with torch.inference_mode():
        expected = network(images())
    monkeypatch.setattr(packed_conv, "_AFTER_ADDITION", {"none", "relu"})
    monkeypatch.setitem(packed_conv._MODULES, nn.ReLU, ("hardswish", (), ""))
    with caplog.at_level(logging.WARNING):
        result = form(network)
    torch.testing.assert_close(result(images()), expected, atol=1e-4, rtol=1e-4)
    assert "it runs without packed convolutions: its logits move by" in caplog.text


class Branching(nn.Module):
    """Cannot be traced."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, inputs):
        mean = self.norm(inputs).mean((2, 3))
        return self.head(mean if mean.sum() > 0 else -mean)


def test_tensors_of_five_dimensions_stay_as_they_are():
    """Traced networks of timm's Swin have masks of such a shape."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.register_buffer("mask", torch.randn(1, 4, 1, 1, 1))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return (self.conv(inputs)[:, :, None] * self.mask[0, :, 0]).flatten(2).mean(2)

    network = Masked().eval().requires_grad_(False)
    inputs = torch.randn(2, 3, 16, 16)
    expected = network(inputs)
    forward = Forward(fold_batch_norms(copy.deepcopy(network)), CPU, torch.float32, batch_size=2, input_px=16, name="x")
    assert torch.allclose(forward(inputs), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_network_that_cannot_be_traced_runs_as_it_is(dtype):
    network = Branching().eval().requires_grad_(False)
    assert fold_batch_norms(network) is network
    with torch.inference_mode():
        expected = network(images())
    found = form(network, dtype)(images())
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < (1e-6 if dtype == torch.float32 else 0.05)


def test_what_autocast_would_cast_in_each_pass_is_cast_once_with_the_same_logits():
    """On a GPU, where casting again is part of each replay."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 3, 3), nn.GroupNorm(1, 3), Branching()).eval().requires_grad_(False)
    again, once = (form(copy.deepcopy(network), torch.bfloat16, graphs=graphs) for graphs in (None, object()))
    assert [weights.dtype for weights in once._network[0].parameters()] == [torch.bfloat16] * 2
    assert once._network[1].weight.dtype == torch.float32
    assert torch.equal(once(images()), again(images()))


def test_batch_norms_keep_their_numbers():
    network = packed_conv.cast(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2)), torch.bfloat16)
    assert [layer.weight.dtype for layer in network] == [torch.bfloat16, torch.float32, torch.bfloat16]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("AVX2", {"freezing": True, "cpp.simdlen": 256}),
        ("AVX512", {"freezing": True, "cpp.simdlen": 512}),
        ("DEFAULT", {"freezing": True}),
    ],
)
def test_code_compiled_for_one_kind_of_cpu_is_not_used_by_another(monkeypatch, kind, options):
    """torch's own cache does not tell them apart; the options are part of its keys."""
    seen = []
    monkeypatch.setattr(torch, "compile", lambda network, **given: seen.append(given["options"]) or network)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: kind)
    form(nn.Sequential(nn.Conv2d(3, 4, 3)), compiled=True)
    assert seen == [options]


def test_short_batches_are_filled_up_for_compiled_code():
    few = images(3)
    filled = module.pad(few, 8)
    assert filled.shape[0] == 8
    assert torch.equal(filled[:3], few)
    assert module.pad(few, 2) is few
    assert isinstance(fold_batch_norms(build("resnet18")), fx.GraphModule)
