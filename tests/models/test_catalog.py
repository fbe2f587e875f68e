"""Every architecture is found and builds; unknown names get a helpful answer."""

from __future__ import annotations

import pytest
import timm
import torch
from models.on_meta import on_meta
from timm.data import resolve_model_data_config
from torchvision import models as tv

from pipeline.errors import ModelError
from pipeline.models.catalog import find, torchvision_names

FAMILIES = """
    alexnet vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn
    googlenet inception_v3 timm/legacy_xception timm/xception41
    resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d resnext101_64x4d
    squeezenet1_0 squeezenet1_1 densenet121 densenet161 densenet169 densenet201
    shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0
    mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_small mobilenet_v3_large
    efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5 efficientnet_b6
    efficientnet_b7 efficientnet_v2_s efficientnet_v2_m efficientnet_v2_l
""".split()
TORCHVISION_WEIGHTS = [
    (name, entry)
    for name in tv.list_models(module=tv)
    for entry in tv.get_model_weights(name)
    if not entry.name.endswith("_FEATURES")  # published without a head
]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_builds_with_the_requested_number_of_classes(name):
    architecture = find(name)
    with on_meta():
        network = architecture.build(7)
        px = architecture.published[0].recipe.geometry.crop_px
        logits = network(torch.zeros(2, 3, px, px))
    assert logits.shape == (2, 7)
    assert not network.training


@pytest.mark.parametrize(("name", "entry"), TORCHVISION_WEIGHTS, ids=str)
def test_torchvision_recipes_are_those_of_the_published_transforms(name, entry):
    preset = entry.transforms()
    recipe = find(name).choose(entry.name).recipe
    assert [recipe.geometry.resize_px] == preset.resize_size
    assert [recipe.geometry.crop_px] == preset.crop_size
    assert recipe.geometry.interpolation == preset.interpolation.value
    assert (list(recipe.mean), list(recipe.std)) == (list(preset.mean), list(preset.std))
    assert recipe.geometry.fit == "short"


@pytest.mark.parametrize(
    "name", ["legacy_xception", "xception41", "xception65p", "resnet50.a1_in1k", "eva02_tiny_patch14_336", "resnet18"]
)
def test_timm_recipes_are_those_of_timms_own_config(name):
    with on_meta():
        config = resolve_model_data_config(timm.create_model(name, pretrained=False))
    recipe = find(f"timm/{name}").published[0].recipe
    assert recipe.geometry.crop_px == config["input_size"][-1]
    assert recipe.geometry.resize_px == int(config["input_size"][-1] / config["crop_pct"])
    assert recipe.geometry.interpolation == config["interpolation"]
    assert recipe.geometry.fit == {"center": "short", "squash": "squash"}[config["crop_mode"]]
    assert (recipe.mean, recipe.std) == (config["mean"], config["std"])


def test_the_default_weights_come_first_and_names_ignore_case():
    resnet = find("resnet50")
    assert resnet.published[0].name == "IMAGENET1K_V2"
    assert resnet.choose(None) is resnet.published[0]
    assert resnet.choose("imagenet1k_v1").file_name == "resnet50-0676ba61.pth"
    assert resnet.matching("resnet50-0676ba61.pth") == resnet.choose("IMAGENET1K_V1")
    assert resnet.matching("resnet50.pth") is None


@pytest.mark.parametrize(
    ("name", "weights"), [("vit_b_16", "IMAGENET1K_SWAG_E2E_V1"), ("vit_h_14", None), ("vit_l_32", None)]
)
def test_a_vision_transformer_is_built_for_the_input_of_its_weights(name, weights):
    architecture = find(name)
    chosen = architecture.choose(weights)
    with on_meta():
        network = architecture.build(1000, chosen.recipe.geometry.crop_px)
    entry = tv.get_model_weights(name)[chosen.name]
    assert network.image_size == entry.meta["min_size"][0]


def test_unknown_weights_list_what_there_is():
    with pytest.raises(ModelError, match=r"resnet50 has no weights called 'V3'; it has IMAGENET1K_V2, IMAGENET1K_V1$"):
        find("resnet50").choose("V3")
    with pytest.raises(ModelError, match=r"it has tf_in1k; other weights are part of the name: timm/xception41\.TAG"):
        find("timm/xception41").choose("IMAGENET1K_V1")


@pytest.mark.parametrize(
    ("asked", "suggested"),
    [
        ("resnet5O", "resnet50"),
        ("ResNet50", "resnet50"),
        ("efficientnet-b0", "efficientnet_b0"),
        ("mobilenetv2", "mobilenet_v2"),
        ("xception", "timm/legacy_xception"),
        ("legacy_xception", "timm/legacy_xception"),
        ("timm/xception42", "timm/xception41"),
        ("resnext", "resnext50_32x4d"),
    ],
)
def test_unknown_names_suggest_the_closest(asked, suggested):
    with pytest.raises(ModelError, match=f"unknown model '{asked}'") as caught:
        find(asked)
    assert suggested in str(caught.value).partition("did you mean ")[2].rstrip("?").split(", ")[:4]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("asked", ["", "timm/", "qqqq", "timm/qqqq", "raft_large", "fcn_resnet50", "timm/resnet50.x"])
def test_names_without_similar_ones_are_a_model_error_too(asked):
    with pytest.raises(ModelError, match=r"unknown model|no such weights"):
        find(asked)


def test_renamed_timm_models_name_their_successor():
    with pytest.raises(ModelError, match="timm/xception is now called timm/legacy_xception"):
        find("timm/xception")


def test_timm_models_whose_input_has_no_equivalent_are_refused():
    with pytest.raises(ModelError, match="3 x 1024 x 768 are not supported"):
        find("timm/vit_base_patch16_sapiens2")
    with pytest.raises(ModelError, match="crop mode 'border' is not supported"):
        find("timm/deepseek_vit_412m")


def test_torchvision_names_are_classifiers_only():
    names = torchvision_names()
    assert {"resnet50", "vit_b_16", "swin_v2_t", "maxvit_t"} <= set(names)
    assert not [name for name in names if "rcnn" in name or name.startswith(("deeplab", "raft", "quantized", "r3d"))]


def test_weights_without_a_head_are_no_choice():
    with pytest.raises(ModelError, match="no weights called 'IMAGENET1K_FEATURES'; it has IMAGENET1K_V1"):
        find("vgg16").choose("IMAGENET1K_FEATURES")
