"""Which preprocessing suits a network: tried on images whose class is known."""

from __future__ import annotations

import csv

import pytest
from conftest import jpeg, make_tar

from pipeline.commands.models import inspect, try_recipes
from pipeline.errors import InputError, ModelError, RequestError
from pipeline.models.preprocessing import Geometry, Recipe
from pipeline.models.recipes import describe
from pipeline.trials import known_images

SPEC = "shufflenet_v2_x0_5"


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(known_images, "MOST_IMAGES", 40)


@pytest.fixture(scope="module")
def places(sample_data) -> dict[str, str]:
    return {"weights_dir": str(sample_data / "weights"), "labels": str(sample_data / "classes.txt")}


@pytest.fixture(scope="module")
def shard(sample_data) -> str:
    return str(min(sample_data.glob("*.tar")))


def test_the_images_of_a_shard_tell_a_wrong_preprocessing_from_the_right_one(places, shard):
    seen = []
    wrong = try_recipes(f"{SPEC}?mean=none", [shard], **places, watch=lambda *step: seen.append(step))
    present, best = wrong.tried[0], wrong.tried[1]
    assert present.words == "resize=256&crop=224&interp=bilinear&mean=none"
    assert present.gain is None
    assert wrong.better == best
    assert best.top1 > present.top1
    assert "mean=imagenet" in best.words
    assert best.gain.difference == pytest.approx(best.top1 - present.top1)
    assert [one.top1 for one in wrong.tried[1:]] == sorted((one.top1 for one in wrong.tried[1:]), reverse=True)
    assert len(seen) == len(wrong.tried)
    assert wrong.to_dict()["num_images"] == wrong.num_images == 40


def test_a_truth_file_names_the_images_and_their_shards(places, shard, tmp_path):
    truth = tmp_path / "truth.csv"
    found = list(known_images.read_known_images((shard,), None, _classes(places), _storage()))
    with truth.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["shard", "key", "label"])
        rows.writerows([[shard, key, "0"] for key in _keys(shard)[:9]])
    trial = try_recipes(SPEC, truth=str(truth), **places)
    assert trial.num_images <= 9 < len(found)
    assert trial.better is None  # so few cannot tell


def _classes(places):
    from pipeline.job.class_names import given_names
    from pipeline.labels import ClassResolver

    return ClassResolver(given_names(places["labels"], _storage()))


def _storage():
    from pipeline.storage import Storage

    return Storage()


def _keys(shard: str) -> list[str]:
    import tarfile

    with tarfile.open(shard) as tar:
        return [name.removesuffix(".jpg") for name in tar.getnames() if name.endswith(".jpg")]


def test_what_cannot_be_tried_is_one_line(places, tmp_path):
    make_tar(tmp_path / "a.tar", [("0.jpg", jpeg(0))])
    with pytest.raises(RequestError, match="of no image of the INPUT the class is known"):
        try_recipes(SPEC, [str(tmp_path / "a.tar")], **places)
    with pytest.raises(RequestError, match="no images: name the INPUT"):
        try_recipes(SPEC, **places)
    with pytest.raises(InputError, match=r"no-such\.tar"):
        try_recipes(SPEC, [str(tmp_path / "no-such.tar")], **places)
    with pytest.raises(ModelError, match="one member is looked at, not 2"):
        inspect(f"{SPEC},squeezenet1_1", **places)


def test_recipes_are_described_as_they_are_requested():
    geometry = Geometry(224, 224, "bicubic", "squash")
    assert describe(Recipe(geometry, (0.5,) * 3, (0.5,) * 3)) == (
        "resize=224&crop=224&interp=bicubic&fit=squash&mean=inception"
    )
    assert describe(Recipe(geometry, (0.1, 0.2, 0.3), (1.0, 1.0, 1.0))).endswith("&mean=0.1/0.2/0.3&std=1/1/1")


def test_a_member_is_shown_as_a_job_would_use_it(places, sample_data):
    card = inspect(f"mine:{SPEC}={sample_data}/weights/{SPEC}.safetensors?crop=192", **places)
    assert (card.alias, card.arch, card.num_classes) == ("mine", SPEC, 14)
    assert (card.input_px, card.resize_px, card.recipe_from) == (192, 219, "crop as requested; IMAGENET1K_V1")
    assert len(card.class_names) == 3
    assert card.to_dict()["tensors"] == "the whole file"


def test_the_command_shows_and_tries(shardlabel, places, shard, sample_data):
    words = ["models", f"{SPEC}={sample_data}/weights/{SPEC}.safetensors", "--labels", places["labels"]]
    shown = shardlabel(*words)
    assert shown.returncode == 0
    assert "normalised by mean 0.485" in shown.stdout
    assert "a guess: IMAGENET1K_V1" in shown.stdout
    refused = shardlabel(*words, shard)
    assert refused.returncode == 2
    assert "INPUT and --truth belong to --try-recipes" in refused.stderr
    assert "squeezenet1_1" in shardlabel("models", "squeezenet1_?").stdout  # a pattern, and no member with options
    refused = shardlabel("models", SPEC, "--try-recipes")
    assert refused.returncode == 2
    assert "takes one member with a file" in refused.stderr
