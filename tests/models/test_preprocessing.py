"""The project's crops and logits stay beside those of the published transform on Pillow's pixels."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import tarfile

import numpy as np
import pytest
import torch
from conftest import jpeg
from PIL import Image
from timm.data import create_transform
from torchvision import models as tv

from pipeline.config.members import MemberRequest
from pipeline.models.catalog import find
from pipeline.models.classifier import Classifier
from pipeline.models.preprocessing import Geometry, Recipe, crop, timm_recipe
from pipeline.models.weights import resolve
from pipeline.stages.decode import decode
from pipeline.storage import Storage

NUM_PHOTOGRAPHS = 40
MODELS = {
    "squeezenet1_0": tv.SqueezeNet1_0_Weights.IMAGENET1K_V1,
    "mobilenet_v2": tv.MobileNet_V2_Weights.IMAGENET1K_V1,
}


@pytest.fixture(scope="module")
def photographs(shared):
    """JPEGs, chosen by hash from all shards so that neither class nor file order matters."""
    found = []
    for path in sorted((shared / "data" / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            found += [tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg")]
    return sorted(found, key=lambda data: hashlib.sha256(data).digest())[:NUM_PHOTOGRAPHS]


@pytest.fixture(scope="module", params=MODELS)
def member(request, shared, photographs):
    """A real network: how it is resolved here, and the published way's probabilities on the photographs."""
    name, weights = request.param, MODELS[request.param]
    checkpoint = shared / "weights" / f"{name}-imagenet.pth"
    resolved = resolve(MemberRequest.parse(f"{name}@{weights.name}={checkpoint}"), weights_dir=None, storage=Storage())
    plain = tv.get_model(name, weights=None).eval()
    plain.load_state_dict(torch.load(checkpoint, weights_only=True))
    transform = weights.transforms()
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in photographs]
    with torch.inference_mode():
        expected = [plain(transform(picture)[None]).softmax(dim=1)[0] for picture in pictures]
    return resolved, torch.stack(expected)


def probabilities(resolved, photographs, geometry):
    classifier = Classifier(resolved.spec, resolved.blob, torch.device("cpu"), "fp32")
    with torch.inference_mode():
        crops = torch.stack([crop(decode(data).pixels_CHW, geometry) for data in photographs])
        return torch.cat([classifier.logits(batch) for batch in crops.split(10)]).softmax(dim=1)


def same(actual, expected):
    """SPEC section 3: top-1 equal, probabilities within 1e-2, and most of them much closer."""
    worst_B = (actual - expected).abs().amax(dim=1)
    equal = (actual.argmax(dim=1) == expected.argmax(dim=1)).all()
    return bool(equal and worst_B.max() < 1e-2 and worst_B.median() < 1e-3)


def test_probabilities_are_those_of_the_published_transform(member, photographs, record_property):
    resolved, expected = member
    actual = probabilities(resolved, photographs, resolved.spec.recipe.geometry)
    worst_B = (actual - expected).abs().amax(dim=1)
    record_property("largest", worst_B.max().item())
    record_property("median", worst_B.median().item())
    assert same(actual, expected), f"largest {worst_B.max():.5f}, median {worst_B.median():.5f}"


@pytest.mark.parametrize(
    "wrong", [{"resize_px": 232}, {"interpolation": "bicubic"}, {"fit": "squash"}], ids=["size", "filter", "aspect"]
)
@pytest.mark.parametrize("member", ["squeezenet1_0"], indirect=True)
def test_a_wrong_recipe_is_noticed(member, photographs, wrong):
    resolved, expected = member
    geometry = dataclasses.replace(resolved.spec.recipe.geometry, **wrong)
    assert not same(probabilities(resolved, photographs[:12], geometry), expected[:12])


@pytest.mark.parametrize("size", [(500, 375), (333, 500), (224, 224), (90, 61)], ids=str)
@pytest.mark.parametrize(
    ("crop_mode", "crop_pct", "interpolation"),
    [
        ("center", 0.875, "bicubic"),
        ("squash", 0.9, "bicubic"),
        ("center", 1.0, "bilinear"),
        ("center", 1.15, "bicubic"),
    ],
)
def test_crops_are_those_of_timms_own_transform(size, crop_mode, crop_pct, interpolation):
    config = {
        "input_size": (3, 128, 128),
        "interpolation": interpolation,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "crop_pct": crop_pct,
        "crop_mode": crop_mode,
    }
    picture = Image.open(io.BytesIO(jpeg(3, size)))
    expected = ((create_transform(**config)(picture) * 0.5 + 0.5) * 255).round().to(torch.int16)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    actual = crop(pixels, timm_recipe(config).geometry).to(torch.int16)
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= 2
    assert (actual - expected).abs().float().mean() < 0.2


def test_a_recipe_survives_json():
    recipe = find("timm/legacy_xception").published[0].recipe
    assert Recipe.from_dict(dataclasses.asdict(recipe)) == recipe
    assert isinstance(Recipe.from_dict(dataclasses.asdict(recipe)).mean, tuple)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (100, 100), (1, 3), (641, 480)])
def test_the_resized_shape_is_torchvisions(height, width):
    from torchvision.transforms.v2 import functional as F  # noqa: N812

    resized = F.resize(Image.new("RGB", (width, height)), [256])
    assert Geometry(256, 224).resized(height, width) == (resized.height, resized.width)
    assert Geometry(256, 224, fit="squash").resized(height, width) == (256, 256)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_crops_are_the_same_on_a_cpu_without_avx2(monkeypatch, layout):
    noise = torch.randint(0, 256, (1, 3, 90, 61), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (picture,) = noise.to(memory_format=layout)
    expected = crop(picture, Geometry(40, 32))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert torch.equal(crop(picture, Geometry(40, 32)), expected)
