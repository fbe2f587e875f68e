"""What networks are made of: against what torchvision publishes, and against a real forward pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision import models as tv

from pipeline.errors import ModelError
from pipeline.models.catalog import Architecture, find
from pipeline.models.cost import _measure, measure_cost
from pipeline.models.networks import NetworkShape

PUBLISHED = (
    "alexnet squeezenet1_1 shufflenet_v2_x0_5 mnasnet0_5 mobilenet_v2 mobilenet_v3_small resnet18 resnext50_32x4d "
    "densenet121 efficientnet_b0 vgg11 regnet_y_400mf swin_t vit_b_16"
).split()


def cost(name: str, num_classes: int = 1000, input_px: int | None = None):
    architecture = find(name)
    input_px = input_px or architecture.published[0].recipe.geometry.crop_px
    return measure_cost(NetworkShape(architecture, num_classes, input_px))


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_macs_are_those_that_torchvision_publishes(name):
    published = tv.get_model_weights(name).DEFAULT.meta
    found = cost(name)
    assert found.num_params == published["num_params"]
    assert found.macs / 1e9 == pytest.approx(published["_ops"], abs=0.0006)  # three decimals are published


@pytest.mark.parametrize(("name", "auxiliary"), [("googlenet", 0), ("inception_v3", 3_326_696)])
def test_auxiliary_heads_are_left_out(name, auxiliary):
    # torchvision publishes googlenet without its auxiliary heads, inception_v3 with its one
    published = tv.get_model_weights(name).DEFAULT.meta
    found = cost(name)
    assert found.num_params == published["num_params"] - auxiliary
    assert found.macs / 1e9 == pytest.approx(published["_ops"], abs=0.0006)


@pytest.mark.parametrize(
    ("name", "params_m", "gmacs"), [("timm/legacy_xception", 22.9, 8.4), ("timm/xception41", 27.0, 9.3)]
)
def test_timm_agrees_with_the_cards_of_its_weights(name, params_m, gmacs):
    found = cost(name)
    assert found.num_params / 1e6 == pytest.approx(params_m, abs=0.06)
    assert found.macs / 1e9 == pytest.approx(gmacs, rel=0.015)  # of which 0.6 % is the card's one decimal


def test_weights_are_counted_with_their_buffers():
    network = find("resnet18").build(7)
    expected = sum(tensor.nbytes for tensor in network.state_dict().values())
    assert cost("resnet18", num_classes=7).weights_bytes == expected


def test_live_bytes_are_those_of_a_network_that_can_be_counted_by_hand():
    image = 4 * 3 * 10 * 10
    wide = 4 * 8 * 10 * 10
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),  # image and wide
        nn.ReLU(inplace=True),  # the same storage
        nn.Conv2d(8, 8, 3, padding=1),  # image, which the caller holds, and two of wide
        nn.Flatten(),  # a view
        nn.Linear(800, 2),
    )
    found = _measure(network, 10)
    assert found.peak_activation_bytes == image + 2 * wide
    assert found.macs == 100 * (27 * 8 + 72 * 8) + 1600


def test_tensors_that_are_held_are_counted_and_those_let_go_are_not():
    class Dense(nn.Module):
        def forward(self, x):
            return torch.cat([x, x + 1, x + 2], dim=1)

    image = 4 * 3 * 8 * 8
    assert _measure(Dense(), 8).peak_activation_bytes == 6 * image
    assert _measure(nn.Sequential(*[nn.Softmax(dim=1)] * 9), 8).peak_activation_bytes == 3 * image


def test_shapes_alone_give_what_real_tensors_give():
    for name in ("mobilenet_v3_small", "shufflenet_v2_x0_5", "timm/convnext_atto"):
        real = _measure(find(name).build(1000), 224)
        found = cost(name, input_px=224)
        assert (real.num_params, real.weights_bytes, real.macs) == (found.num_params, found.weights_bytes, found.macs)
        # kernels that run for real do not keep the means and variances that shapes alone seem to need
        assert real.peak_activation_bytes == pytest.approx(found.peak_activation_bytes, rel=1e-3)


def test_activations_grow_with_the_picture_and_weights_do_not():
    small, large = cost("resnet18", input_px=112), cost("resnet18", input_px=224)
    assert small.weights_bytes == large.weights_bytes
    assert large.peak_activation_bytes == pytest.approx(4 * small.peak_activation_bytes, rel=1e-3)


def test_code_that_looks_at_values_runs_for_real(monkeypatch):
    class Curious(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            assert float(x.sum()) == 0.0
            return self.layer(x.mean(dim=(2, 3)))

    monkeypatch.setattr(Architecture, "build", lambda *_: Curious())
    found = measure_cost(NetworkShape(Architecture("curious", ()), 2, 6))
    assert (found.num_params, found.macs, found.weights_bytes) == (8, 6, 32)


def test_a_network_that_cannot_run_is_an_error_with_the_reason():
    with pytest.raises(ModelError, match=r"vit_b_16 cannot be measured at 100 pixels: .+"):
        measure_cost(NetworkShape(find("vit_b_16"), 1000, 100))
    with pytest.raises(ModelError, match=r"inception_v3 cannot be measured at 32 pixels: .*[Kk]ernel size"):
        measure_cost(NetworkShape(find("inception_v3"), 1000, 32))
