"""What lies beside a network in its file: a layer behind it, its own head, the numbers that normalise its input."""

from __future__ import annotations

import pytest
import torch
from small_networks import head, linear, norm, same, seeded, torchvision
from torch import nn
from torchvision import models as tv

from pipeline.config.members import MemberRequest
from pipeline.errors import WeightsError
from pipeline.models.weights import build_network, resolve
from pipeline.storage import Storage


class Normalise(nn.Module):
    """A layer in front of a network: numbers on 0-1, or on 0-255."""

    def __init__(self, mean: float, std: float, *shape: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full(shape, mean))
        self.register_buffer("std", torch.full(shape, std))


def opened(content, path, options: str = "", arch: str = "shufflenet_v2_x0_5"):
    torch.save(content, path)
    return resolve(MemberRequest.parse(f"{arch}={path}{options}"), None, Storage())


def mean_of(member) -> tuple[float, float]:
    return member.spec.recipe.mean[0], member.spec.recipe.std[0]


@pytest.fixture(scope="module")
def small() -> nn.Module:
    """With 12 outputs."""
    return seeded(tv.get_model("shufflenet_v2_x0_5", weights=None, num_classes=12))


@pytest.mark.parametrize(
    "make",
    [
        lambda net: nn.ModuleDict({"backbone": net, "classifier": linear(12, 5)}),
        lambda net: head(net, nn.ReLU(), linear(12, 5)),
        lambda net: head(net, norm(12)),
        lambda net: nn.ModuleDict({"net": net, "fc": linear(1024, 5)}),
    ],
)
def test_a_network_that_is_only_a_part_of_a_model_is_refused_unless_it_is_named(make, small, tmp_path):
    with pytest.raises(WeightsError, match=r"x\.pth: \w+ beside the network under (\w+) takes .*, say FILE\?key=\1, "):
        opened(make(small).state_dict(), tmp_path / "x.pth")
    key = next(name for name, _ in make(small).named_children())
    assert opened(make(small).state_dict(), tmp_path / "x.pth", f"?key={key}").spec.num_classes == 12


def test_a_layer_in_a_dict_of_its_own_is_found_as_well(small, tmp_path):
    content = {"net": small.state_dict(), "last": linear(12, 5).state_dict(), "epoch": 1}
    with pytest.raises(WeightsError, match="last beside the network under net takes as many numbers"):
        opened(content, tmp_path / "x.pth")


def test_a_layer_of_the_same_name_outside_is_no_part_of_the_network(small, tmp_path):
    content = {f"net.{name}": value for name, value in small.state_dict().items()}
    with pytest.raises(WeightsError, match="fc beside the network under net takes as many numbers"):
        opened(content | {"fc.weight": torch.ones(5, 12), "fc.bias": torch.ones(5)}, tmp_path / "x.pth")


def test_a_layer_and_a_trainer_that_normalise_otherwise_are_no_guess(small, tmp_path):
    content = {"state_dict": head(Normalise(0.5, 0.25, 3), small).state_dict()}
    content["args"] = {"val_crop_size": 64, "val_resize_size": 72, "interpolation": "bilinear"}
    with pytest.raises(
        WeightsError, match=r"0.mean and 0.std in it normalise the input, and .* otherwise: FILE\?mean="
    ):
        opened(content, tmp_path / "x.pth")
    assert mean_of(opened(content, tmp_path / "x.pth", "?mean=0.5&std=0.25")) == (0.5, 0.25)


@pytest.mark.parametrize(
    ("layer", "numbers"),
    [
        (Normalise(0.5, 0.25, 1, 3, 1, 1), (0.5, 0.25)),
        (Normalise(127.5, 51.0, 3), (0.5, 0.2)),
        (Normalise(0.4, 0.25, 1), (0.4, 0.25)),
    ],
)
def test_a_layer_that_normalises_the_input_gives_mean_and_deviation(layer, numbers, small, tmp_path):
    content = head(layer, small).state_dict()
    member = opened(content, tmp_path / "x.pth")
    assert mean_of(member) == pytest.approx(numbers, abs=1e-6)
    assert member.origin.recipe == "0.mean and 0.std in it; a guess: IMAGENET1K_V1"
    requested = opened(content, tmp_path / "x.pth", "?mean=0.1&std=0.2")
    assert mean_of(requested) == (0.1, 0.2)
    assert requested.origin.notes[-1].endswith("it is left out, because a mean is requested")


def test_a_layer_of_the_network_itself_may_normalise_and_odd_numbers_are_not_guessed(small, tmp_path):
    content = small.state_dict() | Normalise(0.5, 0.25, 3).state_dict()
    assert mean_of(opened(content, tmp_path / "x.pth")) == (0.5, 0.25)
    content["std"] = -content["std"]
    with pytest.raises(WeightsError, match=r"mean and std beside the network are no mean and deviation of pixels"):
        opened(content, tmp_path / "x.pth")
    assert mean_of(opened(content, tmp_path / "x.pth", "?mean=0.1&std=0.2")) == (0.1, 0.2)


def without_head(arch: str) -> nn.Module:
    network = torchvision(arch)
    network.set_submodule("classifier" if arch == "mobilenet_v2" else "fc", nn.Identity())
    return seeded(network)


APART = {
    "linear": ("shufflenet_v2_x0_5", "head", lambda: linear(1024, 5)),
    "mlp": ("shufflenet_v2_x0_5", "fc", lambda: head(nn.Dropout(), linear(1024, 8), nn.ReLU(), linear(8, 5))),
    "in a module": ("mobilenet_v2", "head", lambda: nn.ModuleDict({"last": linear(1280, 5)})),
}


@pytest.mark.parametrize("kind", APART)
@pytest.mark.parametrize("layout", ["modules", "dicts", "another name"])
def test_a_head_apart_from_its_body_is_put_there(kind, layout, tmp_path):
    arch, name, make = APART[kind]
    body, own = without_head(arch), seeded(make())
    if layout == "modules":
        content = nn.ModuleDict({"backbone": body, name: own}).state_dict()
    elif layout == "dicts":
        content = {"model": {"backbone": body.state_dict(), name: own.state_dict()}}
    else:  # pretrainedmodels 0.7.4
        content = {**body.state_dict(), **{f"last_linear.{key}": value for key, value in own.state_dict().items()}}
    member = opened(content, tmp_path / "x.pth", arch=arch)
    inner = own["last"] if isinstance(own, nn.ModuleDict) else own
    assert same(head(body, inner).eval(), build_network(member.spec, member.blob), 64)
    assert "apart from its body" in str(member.origin.notes)


def test_of_two_heads_apart_none_is_taken(tmp_path):
    network = nn.ModuleDict(
        {"backbone": without_head("shufflenet_v2_x0_5"), "a": linear(1024, 5), "b": linear(1024, 3)}
    )
    with pytest.raises(WeightsError, match="does not fit shufflenet_v2_x0_5"):
        opened(network.state_dict(), tmp_path / "x.pth")
