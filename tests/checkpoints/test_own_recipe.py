"""The preprocessing that files give themselves, as the tools write it."""

from __future__ import annotations

import pytest

from pipeline.checkpoints.own_recipe import (
    RecipeFacts,
    facts_of_arguments,
    facts_of_options,
    facts_of_processor,
    facts_of_timm,
    merge,
)
from pipeline.config.member_options import MemberOptions
from pipeline.errors import WeightsError
from pipeline.models.catalog import PublishedWeights
from pipeline.models.preprocessing import Geometry, Recipe
from pipeline.models.recipes import choose_recipe

HALF, ONE = (0.5, 0.5, 0.5), (1.0, 1.0, 1.0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NOTHING_SAID = MemberOptions()
BASE = Recipe(Geometry(256, 224, "bilinear"), MEAN, STD)
SCALED = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": HALF, "image_std": HALF}

# As transformers 5.24 writes them, but for what has no effect on the pixels.
PROCESSORS = {
    "vit": (
        {"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224}, "resample": 2},
        Geometry(224, 224, "bilinear", "squash"),
    ),
    "vit of old": (
        {"feature_extractor_type": "ViTFeatureExtractor", "size": 224},
        Geometry(224, 224, "bilinear", "squash"),
    ),
    "convnext, small": (
        {
            "image_processor_type": "ConvNextImageProcessor",
            "size": {"shortest_edge": 224},
            "crop_pct": 0.875,
            "resample": 3,
        },
        Geometry(256, 224, "bicubic"),
    ),
    "convnext, large": (
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}, "resample": 3},
        Geometry(384, 384, "bicubic", "squash"),
    ),
    "clip": (
        {
            "size": {"shortest_edge": 224},
            "do_center_crop": True,
            "crop_size": {"height": 224, "width": 224},
            "resample": 3,
        },
        Geometry(224, 224, "bicubic"),
    ),
    "deit": (
        {"size": {"height": 256, "width": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}},
        Geometry(256, 224, "bilinear", "squash"),
    ),
    "old clip": (
        {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224, "resample": 3},
        Geometry(224, 224, "bicubic"),
    ),
    "mobilenet": (
        {"image_processor_type": "MobileNetV2ImageProcessor", "size": 256, "crop_size": {"height": 224, "width": 224}},
        Geometry(256, 224, "bilinear"),
    ),
    "pair of numbers": (
        {"image_processor_type": "ViTImageProcessor", "size": [96, 96]},
        Geometry(96, 96, fit="squash"),
    ),
}


def recipe_of(facts, options=NOTHING_SAID, *, crop_pct=None):
    """What facts and a request make of a published recipe."""
    published = PublishedWeights("V1", "f.pth", None, None, BASE, crop_pct=crop_pct)
    input_px = options.crop or facts.crop_px or BASE.geometry.crop_px
    return choose_recipe(options, facts, published, input_px=input_px, is_guess=False, where="f.pth").recipe


@pytest.mark.parametrize("kind", PROCESSORS)
def test_processors_of_transformers(kind):
    config, geometry = PROCESSORS[kind]
    assert recipe_of(facts_of_processor(config | SCALED, "x")) == Recipe(geometry, HALF, HALF)


def test_a_processor_that_does_not_normalise():
    recipe = recipe_of(facts_of_processor(PROCESSORS["vit"][0] | SCALED | {"do_normalize": False}, "x"))
    assert (recipe.mean, recipe.std) == ((0.0, 0.0, 0.0), ONE)


@pytest.mark.parametrize(
    ("change", "message", "settled_by"),
    [
        ({"do_resize": False}, "images are not resized", "resize crop"),
        ({"do_rescale": False}, "pixels are scaled by 1 and not by 1/255", "mean std"),
        ({"rescale_factor": 1 / 127.5}, "pixels are scaled by 0.00784314 and not by 1/255", "mean std"),
        ({"image_mean": None}, "the mean and deviation of its pixels are not said", "mean std"),
        ({"size": {"height": 224, "width": 320}}, "a size of {'height': 224, 'width': 320} is not", "resize crop"),
        ({"size": {"longest_edge": 224}}, "a size of {'longest_edge': 224} is not understood", "resize crop"),
        ({"size": {"shortest_edge": "x"}}, "a size of {'shortest_edge': 'x'} is not understood", "resize crop"),
        ({"size": {"shortest_edge": 448}}, "resized by their shorter side and not cropped", "resize crop"),
        ({"size": "224"}, "a size of '224' is not understood", "resize crop"),
        ({"size": 224, "image_processor_type": "NewImageProcessor"}, "a size of 224 is not understood", "resize crop"),
        ({"crop_size": [1, 2]}, "a crop of [1, 2] is not understood", "resize crop"),
        ({"resample": 5}, "interpolation 5 is not supported", "interp"),
        ({"resample": [3]}, "interpolation [3] is not supported", "interp"),
        ({"do_flip_channel_order": True}, "its channels are in the order blue, green, red", ""),
    ],
)
def test_what_a_processor_asks_for_and_nobody_here_does(change, message, settled_by):
    (problem,) = facts_of_processor(PROCESSORS["vit"][0] | SCALED | change, "x").problems
    assert message in problem.text
    assert problem.settled_by == tuple(settled_by.split())


TIMM = {"input_size": [3, 128, 128], "crop_pct": 0.9, "interpolation": "bicubic", "mean": HALF, "std": list(HALF)}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, Recipe(Geometry(142, 128, "bicubic"), HALF, HALF)),  # as timm: floor(128 / 0.9)
        ({"crop_mode": "squash", "crop_pct": 1.0}, Recipe(Geometry(128, 128, "bicubic", "squash"), HALF, HALF)),
        ({"crop_pct": None, "mean": None}, Recipe(Geometry(146, 128, "bicubic"), MEAN, HALF)),
        ({"mean": [0.5]}, Recipe(Geometry(142, 128, "bicubic"), HALF, HALF)),
    ],
)
def test_configurations_of_timm(change, expected):
    assert recipe_of(facts_of_timm(TIMM | change, "x")) == expected


@pytest.mark.parametrize("change", [{"crop_mode": "border"}, {"input_size": [3, 9, 8]}, {"interpolation": "hamming"}])
def test_configurations_of_timm_that_are_not_supported(change):
    (problem,) = facts_of_timm(TIMM | change, "x").problems
    assert "supported" in problem.text


def test_arguments_of_trainers():
    left_out = {"img_size": None, "input_size": None, "crop_pct": None, "mean": None, "std": None, "interpolation": ""}
    timm, torchvision = "the arguments of timm's train.py in it", "the arguments of torchvision's train.py in it"
    assert facts_of_arguments({"lr": 0.1}) == RecipeFacts()
    assert facts_of_arguments(left_out) == RecipeFacts(source=timm)
    (problem,) = facts_of_arguments(left_out | {"input_size": [3, 160, 224]}).problems
    assert problem.text == "inputs of 3 x 160 x 224 are not supported, only square ones"
    said = left_out | {"img_size": 160, "mean": [0.5, 0.5, 0.5], "interpolation": "random"}
    assert facts_of_arguments(said) == RecipeFacts(crop_px=160, mean=HALF, source=timm)
    script = {"val_resize_size": 320, "val_crop_size": 300, "train_crop_size": 224, "interpolation": "bicubic"}
    found = facts_of_arguments(script)
    assert recipe_of(found) == Recipe(Geometry(320, 300, "bicubic"), MEAN, STD)
    assert found.source == torchvision


def test_what_is_requested_counts_before_what_the_file_says():
    requested = MemberOptions(resize=150, mean=ONE)
    assert recipe_of(facts_of_timm(TIMM, "x"), requested) == Recipe(Geometry(150, 128, "bicubic"), ONE, HALF)
    assert merge(facts_of_options(requested), facts_of_timm(TIMM, "x")).source == "x"


def test_another_input_keeps_the_proportion_and_squash_crops_nothing():
    nothing, script = RecipeFacts(), RecipeFacts(resize_px=320, crop_px=300)
    assert recipe_of(nothing) == BASE
    assert recipe_of(nothing, MemberOptions(crop=448)).geometry == Geometry(512, 448)
    assert recipe_of(nothing, MemberOptions(crop=448, fit="squash")).geometry == Geometry(448, 448, fit="squash")
    assert recipe_of(script, MemberOptions(crop=150)).geometry == Geometry(160, 150)
    assert recipe_of(script, MemberOptions(resize=330)).geometry == Geometry(330, 300)
    # as timm: floor(160 / 0.95), and not by 235 pixels for 224
    assert recipe_of(nothing, MemberOptions(crop=160), crop_pct=0.95).geometry == Geometry(168, 160)


def test_a_requested_resize_is_that_of_the_network_whatever_its_input():
    published = PublishedWeights("V1", "f.pth", None, None, BASE)
    options = {"input_px": 384, "is_guess": True, "where": "f.pth"}
    found = choose_recipe(MemberOptions(resize=400), RecipeFacts(), published, **options)
    assert found.recipe.geometry == Geometry(400, 384)
    guess = choose_recipe(MemberOptions(), RecipeFacts(), published, **options)
    assert guess.recipe.geometry == Geometry(438, 384)
    assert "as FILE?resize=438&crop=384&interp=bilinear&mean=imagenet says it" in guess.note


def test_a_crop_larger_than_the_picture_is_refused():
    with pytest.raises(WeightsError, match=r"f.pth: a crop of 224 pixels does not fit into pictures resized to 192"):
        recipe_of(RecipeFacts(), MemberOptions(resize=192))
