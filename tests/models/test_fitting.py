"""Checkpoints whose head, input or channels are not the architecture's own: they compute what their network does."""

from __future__ import annotations

import dataclasses
import re
from collections import OrderedDict

import pytest
import torch
from models.on_meta import on_meta
from small_networks import any_network, head, linear, norm, same, seeded, timm, torchvision
from torch import nn

from pipeline.checkpoints.state import State
from pipeline.config.members import MemberRequest
from pipeline.errors import WeightsError
from pipeline.models.anatomy import study
from pipeline.models.catalog import find
from pipeline.models.fitting import WantedNetwork, _fit_input
from pipeline.models.networks import NetworkOptions
from pipeline.models.sizes import check_tables, find_input_size
from pipeline.models.weights import MemberSpec, build_network, resolve
from pipeline.storage import Storage

CLASSES = 5


def load(network: nn.Module, arch: str, path, options: str = ""):
    torch.save(seeded(network).state_dict(), path)
    member = resolve(MemberRequest.parse(f"{arch}={path}{options}"), None, Storage())
    spec = MemberSpec.from_dict(dataclasses.asdict(member.spec))  # as job.json and a worker have it
    assert spec == member.spec
    return build_network(spec, member.blob), member


HEADS = {
    "dropout, linear": ("shufflenet_v2_x0_5", "fc", lambda n: head(nn.Dropout(), linear(n, 5))),
    "mlp": ("shufflenet_v2_x0_5", "fc", lambda n: head(linear(n, 16), nn.ReLU(), nn.Dropout(), linear(16, 5))),
    "norm, relu": (
        "shufflenet_v2_x0_5",
        "fc",
        lambda n: head(linear(n, 9), norm(9), nn.ReLU(), nn.Dropout(), linear(9, 5)),
    ),
    "relu, norm": (
        "resnet18",
        "fc",
        lambda n: head(norm(n), nn.Dropout(), linear(n, 9), nn.ReLU(), norm(9), linear(9, 5)),
    ),
    "two in a row": ("shufflenet_v2_x0_5", "fc", lambda n: head(linear(n, 16), linear(16, 5, bias=False))),
    "no bias": ("shufflenet_v2_x0_5", "fc", lambda n: linear(n, 5, bias=False)),
    "layer norm": ("shufflenet_v2_x0_5", "fc", lambda n: head(nn.LayerNorm(n), linear(n, 5))),
    "one in a module": ("shufflenet_v2_x0_5", "fc", lambda n: nn.ModuleDict({"linear": linear(n, 5)})),
    "no sequential": ("mobilenet_v2", "classifier", lambda n: linear(n, 5)),
    "deeper": ("mobilenet_v2", "classifier.1", lambda n: head(nn.Dropout(), linear(n, 5))),
    "all of it": ("shufflenet_v2_x0_5", "fc", lambda n: head(linear(n, 8), nn.ReLU(), linear(8, 5))),
    "other sizes": (
        "mobilenet_v3_small",
        "classifier",
        lambda n: head(linear(n, 16), nn.ReLU(), nn.Dropout(), linear(16, 5)),
    ),
    "last of it longer": (
        "mobilenet_v2",
        "classifier",
        lambda n: head(nn.Dropout(), linear(n, 16), nn.ReLU(), nn.Dropout(), linear(16, 5)),
    ),
    "norm first": ("mobilenet_v2", "classifier", lambda n: head(norm(n), linear(n, 5))),
    "norm last": ("shufflenet_v2_x0_5", "fc", lambda n: head(linear(n, 5), norm(5))),
    "flattened": (
        "convnext_tiny",
        "classifier",
        lambda n: head(nn.Flatten(), nn.LayerNorm(n), linear(n, 9), nn.ReLU(), linear(9, 5)),
    ),
    "a bias more": ("maxvit_t", "classifier.5", lambda n: linear(n, 5)),
    "timm": ("timm/mobilenetv3_small_050", "classifier", lambda n: head(nn.Dropout(), linear(n, 5))),
}


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_is_built_again_from_names_and_sizes(kind, tmp_path):
    arch, place, make = HEADS[kind]
    network = any_network(arch)
    old = network.get_submodule(place)
    features = next(module.in_features for module in old.modules() if isinstance(module, nn.Linear))
    new = make(features)
    if isinstance(new, nn.ModuleDict):
        network.set_submodule(place, new)
        network.fc.forward = new["linear"].forward
    else:
        network.set_submodule(place, new)
    loaded, member = load(network, arch, tmp_path / "x.pth")
    assert member.spec.num_classes == CLASSES
    assert same(network, loaded, 224 if arch == "maxvit_t" else 64)
    (note,) = [note for note in member.origin.notes if note.startswith("its head is")]
    assert ("ReLU is assumed" in note) == any(isinstance(module, nn.ReLU) for module in new.modules())
    assert ("may be a group norm" in note) == any(isinstance(module, nn.LayerNorm) for module in new.modules())
    assert ("is taken for dropout" in note) == isinstance(next(iter(new.children()), None), nn.Dropout)


def test_where_an_activation_is_assumed_is_said_if_it_may_be_elsewhere(tmp_path):
    network = torchvision("shufflenet_v2_x0_5")
    says = "Its place is assumed"
    for number, (modules, is_assumed) in enumerate(
        [
            ((linear(1024, 8), nn.Dropout(), norm(8), nn.ReLU(), linear(8, 5)), True),
            ((linear(1024, 8), norm(8), nn.ReLU(), nn.Dropout(), linear(8, 5)), False),
            ((linear(1024, 8), nn.ReLU(), norm(8), linear(8, 5)), False),
        ]
    ):
        network.fc = head(*modules)
        _, member = load(network, "shufflenet_v2_x0_5", tmp_path / f"{number}.pth")
        assert (says in str(member.origin.notes)) == is_assumed


@pytest.mark.parametrize(("word", "layer"), [("gelu", nn.GELU), ("none", nn.Identity), ("tanh", nn.Tanh)])
def test_an_activation_can_be_named(word, layer, tmp_path):
    network = torchvision("shufflenet_v2_x0_5")
    network.fc = head(linear(1024, 8), layer(), linear(8, CLASSES))
    loaded, member = load(network, "shufflenet_v2_x0_5", tmp_path / "x.pth", f"?head={word}")
    assert same(network, loaded, 64)
    assert "assumed" not in str(member.origin.notes)
    with pytest.raises(WeightsError, match="head=gelu is no use"):
        load(torchvision("shufflenet_v2_x0_5"), "shufflenet_v2_x0_5", tmp_path / "y.pth", "?head=gelu")


class Gated(nn.Module):
    """A head whose code nobody can guess."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.value, self.gate = linear(features, CLASSES), linear(features, CLASSES)


@pytest.mark.parametrize("make", [Gated, lambda n: nn.Sequential(nn.Conv1d(n, 5, 1)), lambda n: linear(n + 1, 5)])
def test_a_head_that_is_not_clear_is_refused_in_one_line(make, tmp_path):
    network = torchvision("shufflenet_v2_x0_5")
    network.fc = make(1024)
    with pytest.raises(WeightsError, match=r"x\.pth: does not fit shufflenet_v2_x0_5: [^\n]+$"):
        load(network, "shufflenet_v2_x0_5", tmp_path / "x.pth")


def test_what_a_head_lacks_is_said(tmp_path):
    network = torchvision("shufflenet_v2_x0_5")
    network.fc = nn.Sequential(OrderedDict(first=linear(1024, 8), second=linear(8, 5)))
    with pytest.raises(
        WeightsError, match=r"\(fc.first.weight, .*the body is there, but how its head computes is not told"
    ):
        load(network, "shufflenet_v2_x0_5", tmp_path / "x.pth")
    network.fc = nn.Identity()
    with pytest.raises(WeightsError, match=r"the body is there, but no head: classes cannot be told"):
        load(network, "shufflenet_v2_x0_5", tmp_path / "x.pth")


@pytest.mark.parametrize("place", ["", "fc"])
def test_one_output_is_two_classes(place, tmp_path):
    network = torchvision("shufflenet_v2_x0_5")
    network.fc = head(nn.Dropout(), linear(1024, 1)) if place else linear(1024, 1)
    loaded, member = load(network, "shufflenet_v2_x0_5", tmp_path / "x.pth")
    inputs = torch.randn(4, 3, 64, 64)
    with torch.inference_mode():
        positive_B = network(inputs).sigmoid()[:, 0]
        assert torch.allclose(
            loaded(inputs).softmax(dim=1), torch.stack([1 - positive_B, positive_B], dim=1), atol=1e-6
        )
    assert member.spec.num_classes == 2
    assert "logit of the second of two classes" in str(member.origin.notes)


@pytest.mark.parametrize("arch", ["resnet18", "timm/resnet18"])
def test_one_channel_gets_the_mean_of_three(arch, tmp_path):
    if arch.startswith("timm/"):
        network = timm("resnet18", in_chans=1)
    else:
        network = torchvision(arch)
        network.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    loaded, member = load(network, arch, tmp_path / "x.pth")
    assert same(network, loaded, 64, channels=1)
    assert "mean of red, green and blue" in str(member.origin.notes)


SIZES = {
    "timm/vit_tiny_patch16_224": (96, {"img_size": 96}),
    "timm/deit_tiny_distilled_patch16_224": (64, {"img_size": 64}),
    "timm/swin_tiny_patch4_window7_224": (128, {"img_size": 128, "window_size": 4}),
}


@pytest.mark.parametrize("arch", SIZES)
def test_the_size_of_the_input_follows_from_the_file(arch, tmp_path):
    px, options = SIZES[arch]
    network = any_network(arch, **options)
    loaded, member = load(network, arch, tmp_path / "x.pth")
    geometry = member.spec.recipe.geometry
    assert geometry.crop_px == px
    assert geometry.resize_px == pytest.approx(px / 0.9, abs=px * 0.04)  # in the published proportion
    assert f"its input is {px} pixels" in str(member.origin.notes)
    assert same(network, loaded, px)
    with pytest.raises(WeightsError, match=rf"is made for inputs of {px} pixels, not 224"):
        resolve(MemberRequest.parse(f"{arch}={tmp_path / 'x.pth'}?resize=224&crop=224"), None, Storage())


VIT_ARCH = "timm/vit_tiny_patch16_224"


@pytest.mark.parametrize(
    ("model_args", "rows"),
    [
        ({"no_embed_class": True}, None),
        ({"class_token": False, "global_pool": "avg"}, None),
        ({"global_pool": "avg"}, None),
        ({}, 1 + 6 * 9),
    ],
)
def test_a_transformer_that_was_built_otherwise_is_no_usual_one(model_args, rows):
    """Without values: what is refused here would be resampled by timm's converter, or fail without a reason."""
    with on_meta():
        tensors = any_network(VIT_ARCH, **model_args).state_dict()
        if rows:
            tensors["pos_embed"] = torch.empty(1, rows, 192)
    named = re.escape(f"model_args={model_args}") if model_args else "pos_embed has 54 positions .* no square"
    with pytest.raises(WeightsError, match=named):
        check_tables(tensors, study(find(VIT_ARCH), 224), "x")
    if model_args:
        check_tables(tensors, study(find(VIT_ARCH), 224, NetworkOptions(**model_args)), "x")


def test_torchvision_s_table_of_positions_tells_the_size():
    with on_meta():
        state = torchvision("vit_b_32", image_size=96).state_dict()
    found = find_input_size(state, study(find("vit_b_32"), 224))
    assert (found.input_px, found.told_by) == (96, "encoder.pos_embedding")


def test_a_size_that_no_tensor_tells_can_be_said():
    wanted = WantedNetwork(find("timm/swin_tiny_patch4_window7_224"), 112)
    shape, notes = _fit_input(wanted, State(), "x")
    assert (shape.input_px, shape.options.img_size, notes) == (112, 112, [])
    built = dataclasses.replace(wanted, built=NetworkOptions(window_size=4))
    assert _fit_input(built, State(), "x")[0].options.window_size == 4


def test_googlenet_may_take_its_input_as_it_is(tmp_path):
    network = torchvision("googlenet", aux_logits=False, init_weights=False, transform_input=False)
    loaded, member = load(network, "googlenet", tmp_path / "x.pth", "?transform_input=false&resize=72&crop=64")
    assert same(network, loaded, 64)
    assert not any("normalises" in note for note in member.origin.notes)
    loaded, member = load(network, "googlenet", tmp_path / "x.pth", "?resize=72&crop=64")
    assert loaded.transform_input
    assert "FILE?transform_input=false" in str(member.origin.notes)
    with pytest.raises(WeightsError, match="shufflenet_v2_x0_5 has no transform_input"):
        load(torchvision("shufflenet_v2_x0_5"), "shufflenet_v2_x0_5", tmp_path / "x.pth", "?transform_input=false")
