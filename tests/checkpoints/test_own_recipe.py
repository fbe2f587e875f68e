"""The preprocessing that files give themselves, as the tools write it."""

from __future__ import annotations

import pytest

from pipeline.checkpoints.own_recipe import (
    RecipeFacts,
    facts_of_options,
    facts_of_processor,
    facts_of_timm,
    facts_of_timm_arguments,
    merge,
)
from pipeline.config.member_options import MemberOptions
from pipeline.errors import WeightsError
from pipeline.models.preprocessing import Geometry, Recipe
from pipeline.models.recipes import fill

HALF, ONE = (0.5, 0.5, 0.5), (1.0, 1.0, 1.0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
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
    "bit, not cropped": (
        {"size": {"shortest_edge": 448}, "do_center_crop": False, "crop_size": 224},
        Geometry(448, 448, "bilinear"),
    ),
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_processors_of_transformers(kind):
    config, geometry = PROCESSORS[kind]
    assert fill(facts_of_processor(config | SCALED, "x"), BASE) == Recipe(geometry, HALF, HALF)


@pytest.mark.parametrize(
    ("change", "expected"),
    [({"do_normalize": False}, ((0.0, 0.0, 0.0), ONE)), ({"image_mean": None, "image_std": None}, (MEAN, STD))],
)
def test_processors_that_say_less(change, expected):
    recipe = fill(facts_of_processor(PROCESSORS["vit"][0] | SCALED | change, "x"), BASE)
    assert (recipe.mean, recipe.std) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_resize": False}, "images are not resized"),
        ({"do_rescale": False}, "pixels are scaled by 1 and not by 1/255"),
        ({"rescale_factor": 1 / 127.5}, "pixels are scaled by 0.00784314"),
        ({"size": {"height": 224, "width": 320}}, "only square ones"),
        ({"resample": 5}, "interpolation 5 is not supported"),
    ],
)
def test_what_a_processor_asks_for_and_nobody_here_does_is_one_line(change, message):
    with pytest.raises(WeightsError, match=message):
        facts_of_processor(PROCESSORS["vit"][0] | SCALED | change, "x")


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
    assert fill(facts_of_timm(TIMM | change, "x"), BASE) == expected


@pytest.mark.parametrize(
    "change", [{"crop_mode": "border"}, {"input_size": [3, 128, 160]}, {"interpolation": "hamming"}]
)
def test_configurations_of_timm_that_are_not_supported(change):
    with pytest.raises(WeightsError, match="supported"):
        facts_of_timm(TIMM | change, "x")


def test_arguments_of_timm_s_trainer():
    left_out = {"img_size": None, "input_size": None, "crop_pct": None, "mean": None, "std": None, "interpolation": ""}
    assert facts_of_timm_arguments(left_out, "args") == RecipeFacts()
    said = left_out | {"img_size": 160, "mean": [0.5, 0.5, 0.5], "interpolation": "random"}
    assert facts_of_timm_arguments(said, "args") == RecipeFacts(crop_px=160, mean=HALF, source="args")


def test_what_is_requested_counts_before_what_the_file_says():
    requested = facts_of_options(MemberOptions(resize=150, mean=ONE))
    merged = merge(requested, facts_of_timm(TIMM, "x"))
    assert fill(merged, BASE) == Recipe(Geometry(150, 128, "bicubic"), ONE, HALF)
    assert merged.source == "x"


def test_a_crop_alone_keeps_the_proportion_and_squash_crops_nothing():
    assert fill(facts_of_options(MemberOptions(crop=448)), BASE).geometry == Geometry(512, 448)
    assert fill(facts_of_options(MemberOptions(crop=448, fit="squash")), BASE).geometry == Geometry(
        448, 448, fit="squash"
    )
    assert fill(RecipeFacts(), BASE) == BASE


def test_a_crop_larger_than_the_picture_is_refused():
    with pytest.raises(WeightsError, match=r"f.pth: a crop of 224 pixels does not fit into pictures resized to 192"):
        fill(facts_of_options(MemberOptions(resize=192)), BASE, "f.pth")
