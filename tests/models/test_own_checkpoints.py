"""A checkpoint of one's own: its preprocessing and the names of its classes, and where they come from."""

from __future__ import annotations

import argparse
import json
import re
import shutil

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models as tv

from pipeline.config.members import MemberRequest
from pipeline.errors import InputError, ModelError, WeightsError
from pipeline.job.claim import differences
from pipeline.job.class_names import choose_names, given_names
from pipeline.job.description import describe_member
from pipeline.labels import imagenet_names
from pipeline.models.catalog import find
from pipeline.models.preprocessing import Geometry
from pipeline.models.weights import ResolvedMember, resolve
from pipeline.storage import Storage

ARCH = "squeezenet1_1"
SMALL = {"input_size": [3, 128, 128], "crop_pct": 1.0, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}


PIXELS = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """A network of an own 1,000 classes."""
    return {key: value.contiguous() for key, value in tv.squeezenet1_1(num_classes=1000).state_dict().items()}


@pytest.fixture
def checkpoint(tmp_path, state):
    """Writes the network into a folder of its own, with settings beside it; returns its path."""

    def write(name: str = "mine.safetensors", metadata=None, **beside):
        folder = tmp_path / "network"
        folder.mkdir(exist_ok=True)
        for companion, content in beside.items():
            (folder / f"{companion}.json").write_text(content if isinstance(content, str) else json.dumps(content))
        save_file(state, folder / name, metadata)
        return folder / name

    return write


def member_of(found: ResolvedMember) -> dict[str, object]:
    """It, as the fingerprint of a job has it."""
    return describe_member(found.spec)


def get(spec: str, weights_dir=None) -> ResolvedMember:
    return resolve(MemberRequest.parse(spec), str(weights_dir) if weights_dir else None, Storage())


def names(*members: ResolvedMember, given=None) -> tuple[tuple[str, ...], str]:
    return choose_names(members[0].spec.num_classes, given, members)


# -- preprocessing --------------------------------------------------------------------------------------


def test_without_a_word_the_published_recipe_is_a_guess_that_is_said(checkpoint):
    found = get(f"{ARCH}={checkpoint()}")
    assert found.spec.recipe.geometry == Geometry(256, 224)
    assert found.origin.recipe == "a guess: IMAGENET1K_V1"
    (note,) = found.origin.notes
    assert "IMAGENET1K_V1 is taken, as FILE?resize=256&crop=224&interp=bilinear&mean=imagenet says it; if" in note


@pytest.mark.parametrize("spec", [f"{ARCH}@IMAGENET1K_V1={{}}", f"{ARCH}={{}}?resize=256"])
def test_what_was_said_is_no_guess(checkpoint, spec):
    found = get(spec.format(checkpoint()))
    assert found.spec.recipe.geometry == Geometry(256, 224)
    assert found.origin.notes == ()


@pytest.mark.parametrize(
    ("beside", "metadata", "source"),
    [
        (
            {"config": {"architecture": ARCH, "num_classes": 1000, "pretrained_cfg": SMALL}},
            None,
            "config.json beside it",
        ),
        ({"config": {"architecture": ARCH, **SMALL}}, None, "config.json beside it"),
        ({}, {"pretrained_cfg": json.dumps(SMALL)}, "its metadata"),
        (
            {"preprocessor_config": {"size": {"height": 128, "width": 128}, "resample": 3, **PIXELS}},
            None,
            "preprocessor_config.json beside it",
        ),
    ],
)
def test_what_a_file_says_of_itself_counts(checkpoint, beside, metadata, source):
    path = checkpoint(metadata=metadata, **beside)
    found = get(f"{ARCH}={path}")
    geometry = found.spec.recipe.geometry
    assert (geometry.resize_px, geometry.crop_px, geometry.interpolation) == (128, 128, "bicubic")
    assert found.spec.recipe.mean == (0.5, 0.5, 0.5)
    assert (found.origin.recipe, found.origin.notes) == (source, ())
    assert get(f"{ARCH}={path}?crop=64").origin.recipe == f"crop as requested; {source}"


def trained(path, state, **beside):
    torch.save({"state_dict": state, **beside}, path)
    return path


def test_the_arguments_of_torchvision_s_script_count(state, tmp_path):
    arguments = argparse.Namespace(model=ARCH, val_resize_size=160, val_crop_size=144, interpolation="bicubic")
    found = get(f"{ARCH}={trained(tmp_path / 'model_9.pth', state, args=arguments)}")
    assert found.spec.recipe.geometry == Geometry(160, 144, "bicubic")
    assert (found.origin.recipe, found.origin.notes) == ("the arguments of torchvision's train.py in it", ())


def test_the_arguments_of_timm_s_script_are_filled_as_it_does(state, tmp_path):
    """From the weights that it began with, which are not the architecture's default ones."""
    resnet = tv.resnet18(num_classes=3).state_dict()
    nothing = {"crop_pct": None, "interpolation": "", "mean": None, "std": None, "input_size": None}

    def recipe(**arguments):
        beside = argparse.Namespace(**nothing | {"img_size": None} | arguments)
        return get(f"timm/resnet18={trained(tmp_path / 'last.pth.tar', resnet, arch='resnet18', args=beside)}")

    torchvision_s = recipe(model="resnet18.tv_in1k")
    assert torchvision_s.spec.recipe.geometry == Geometry(256, 224, "bilinear")
    assert (torchvision_s.origin.recipe, torchvision_s.origin.notes) == (
        "the arguments of timm's train.py in it; tv_in1k",
        (),
    )
    assert recipe(model="resnet18").spec.recipe.geometry == Geometry(235, 224, "bicubic")
    assert recipe(model="resnet18", img_size=160).spec.recipe.geometry == Geometry(168, 160, "bicubic")
    assert recipe(model="my own").spec.recipe == recipe(model="resnet18").spec.recipe
    assert recipe(model="resnet18", gp="max").spec.network.global_pool == "max"
    assert recipe(model="resnet18", model_kwargs={"act_layer": "gelu"}).spec.network.act_layer == "gelu"
    for arguments in ({"bn_eps": 0.5}, {"model_kwargs": {"output_stride": 8}}):
        with pytest.raises(WeightsError, match=r"built with arguments that are not known here: (bn_eps|output_stride)"):
            recipe(model="resnet18", **arguments)


def test_tensors_that_are_one_choice_of_several_are_a_member_of_their_own(state, tmp_path):
    """The hash of their file does not tell them: what is labelled, reused or calibrated with one is not the other's."""
    other = {key: value + 1 for key, value in state.items()}
    torch.save({"model": state, "model_ema": other}, tmp_path / "both.pth")
    averaged, raw = get(f"{ARCH}={tmp_path / 'both.pth'}"), get(f"{ARCH}={tmp_path / 'both.pth'}?ema=false")
    assert (averaged.spec.tensors, raw.spec.tensors) == ("model_ema", "model")
    assert member_of(averaged) != member_of(raw)
    assert member_of(raw) == member_of(get(f"{ARCH}={tmp_path / 'both.pth'}?key=model"))
    alone = get(f"{ARCH}={trained(tmp_path / 'one.pth', state)}")
    assert alone.spec.tensors == ""
    assert "tensors" not in member_of(alone)  # as before there was a choice


def test_a_difference_of_members_is_said(state, tmp_path):
    torch.save({"model": state, "model_ema": state}, tmp_path / "both.pth")
    averaged, raw = get(f"{ARCH}={tmp_path / 'both.pth'}"), get(f"{ARCH}={tmp_path / 'both.pth'}?ema=false&resize=240")
    on_disk = json.loads(json.dumps({"members": [member_of(averaged)]}))
    found = differences(on_disk, {"members": [member_of(raw)]})
    assert found == [
        f"members ({ARCH}: resize_px 256 then, 240 now; {ARCH}: tensors model_ema then, model now)",
    ]
    assert differences({"labels_sha256": "a"}, {"labels_sha256": "b"}) == ["the names of the classes"]


@pytest.mark.parametrize(
    "beside", [{"arch": "squeezenet1_0"}, {"args": argparse.Namespace(model="squeezenet1_0", crop_pct=None)}]
)
def test_a_trainer_s_name_for_the_network_counts_if_it_is_one(state, tmp_path, beside):
    with pytest.raises(WeightsError, match=r"says that it is squeezenet1_0, not squeezenet1_1: -m squeezenet1_0=FILE"):
        get(f"{ARCH}={trained(tmp_path / 'a.pth', state, **beside)}")
    get(f"{ARCH}={trained(tmp_path / 'b.pth', state, arch='my net')}")
    get(f"{ARCH}={trained(tmp_path / 'c.pth', state, arch=ARCH)}")


@pytest.mark.parametrize(
    ("beside", "words", "advice"),
    [
        (
            {"config": {"architecture": ARCH, "pretrained_cfg": SMALL | {"crop_mode": "border"}}},
            "resize=256&crop=224",
            "r",
        ),
        (
            {"preprocessor_config": {"size": 224, "do_resize": False, **PIXELS}},
            "resize=256&crop=224",
            "resize=..&crop=..",
        ),
        ({"preprocessor_config": {"size": 224, "do_rescale": False, **PIXELS}}, "mean=imagenet", "mean=..&std=.."),
    ],
)
def test_what_is_advised_against_a_refusal_settles_it(checkpoint, beside, words, advice):
    path = checkpoint(**beside)
    with pytest.raises(WeightsError, match=rf"{re.escape(str(path))}: .*; say FILE\?{re.escape(advice)}"):
        get(f"{ARCH}={path}")
    assert get(f"{ARCH}={path}?{words}").origin.recipe


@pytest.mark.parametrize("size", [128, [3, 128, 128]])
def test_settings_of_somebody_s_own_may_say_the_input_as_one_number(checkpoint, size):
    path = checkpoint(config={"architecture": ARCH, "input_size": size, "num_classes": 1000})
    assert get(f"{ARCH}={path}").spec.recipe.geometry == Geometry(146, 128)


@pytest.mark.parametrize("content", ["", "no json", "[1]", "{}", '{"architecture": 3}', '{"learning_rate": 0.1}'])
def test_other_settings_beside_a_file_say_nothing(checkpoint, content):
    found = get(f"{ARCH}={checkpoint(config=content, preprocessor_config=content)}")
    assert found.origin.recipe == "a guess: IMAGENET1K_V1"


def test_a_file_of_another_architecture_is_refused_by_the_right_name(checkpoint):
    path = checkpoint(config={"architecture": "squeezenet1_0.tv_in1k", "pretrained_cfg": SMALL})
    with pytest.raises(
        WeightsError, match=r"config.json beside it says that it is squeezenet1_0, not squeezenet1_1: -m"
    ):
        get(f"{ARCH}={path}")


@pytest.mark.parametrize(("arch", "is_refused"), [("timm/resnet18", True), ("timm/resnet18.tv_in1k", False)])
def test_a_published_file_of_torchvision_is_no_namesake_of_timm_s(tmp_path, monkeypatch, arch, is_refused):
    state = {key: value.contiguous() for key, value in tv.resnet18(num_classes=1000).state_dict().items()}
    save_file(state, tmp_path / "renamed.safetensors")
    published = find("resnet18").published[0].file_name
    monkeypatch.setattr("pipeline.models.weights.has_hash_of", lambda _sha256, name: name == published)
    spec = f"{arch}={tmp_path / 'renamed.safetensors'}"
    if not is_refused:
        assert get(spec).spec.num_classes == 1000
        return
    with pytest.raises(WeightsError, match=r"is torchvision's resnet18@IMAGENET1K_V1, not timm's .*: -m resnet18=FILE"):
        get(spec)


def test_words_without_a_checkpoint_change_the_published_recipe(checkpoint, tmp_path):
    shutil.copy(checkpoint(), tmp_path / f"{ARCH}.safetensors")
    found = get(f"{ARCH}?crop=192", tmp_path)
    assert found.spec.recipe.geometry == Geometry(219, 192)


# -- names of classes -----------------------------------------------------------------------------------


def test_an_own_thousand_classes_are_not_taken_for_imagenet_s(checkpoint):
    found, note = names(get(f"{ARCH}={checkpoint()}"))
    assert found == tuple(str(index) for index in range(1000))
    assert "--labels FILE names them, --labels imagenet takes its names" in note
    assert given_names("imagenet", Storage()) == imagenet_names()


@pytest.mark.parametrize("name", ["squeezenet-imagenet.safetensors", "net_in1k.safetensors", "ImageNet.safetensors"])
def test_a_name_may_say_that_they_are(checkpoint, name):
    found = get(f"{ARCH}={checkpoint(name)}")
    assert names(found) == (imagenet_names(), "")
    assert "its 1,000 classes are taken for ImageNet's, because the name of its file says so" in found.origin.notes[-1]


def test_a_tag_of_timm_says_it(checkpoint):
    config = {"architecture": ARCH, "num_classes": 1000, "pretrained_cfg": SMALL | {"tag": "tv_in1k"}}
    found = get(f"{ARCH}={checkpoint(config=config)}")
    assert names(found) == (imagenet_names(), "")
    assert "because its tag says so" in found.origin.notes[-1]


def test_so_does_a_request_for_published_weights(checkpoint):
    assert names(get(f"{ARCH}@IMAGENET1K_V1={checkpoint()}")) == (imagenet_names(), "")


def test_a_weights_directory_holds_published_weights(checkpoint, tmp_path):
    shutil.copy(checkpoint(), tmp_path / f"{ARCH}.safetensors")
    found = get(ARCH, tmp_path)
    assert names(found) == (imagenet_names(), "")
    assert found.origin.notes == (
        f"{ARCH}.safetensors is taken for published weights, with ImageNet's classes; --labels FILE names others",
    )


def test_one_member_that_is_known_speaks_for_the_ensemble(checkpoint):
    path = checkpoint()
    known, unknown = get(f"{ARCH}@IMAGENET1K_V1={path}"), get(f"mine:{ARCH}={path}")
    found, note = names(known, unknown)
    assert found == imagenet_names()
    assert note == f"the 1,000 classes of mine are taken to be ImageNet's, as those of {ARCH}"


OWN = [f"thing {index}" for index in range(1000)]


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": ARCH, "pretrained_cfg": SMALL, "label_names": OWN},
        {"model_type": "x", "id2label": dict(enumerate(OWN))},
    ],
)
def test_names_in_the_file_are_taken(checkpoint, config):
    found, note = names(get(f"{ARCH}={checkpoint(config=config)}"))
    assert found == tuple(OWN)
    assert note == f"class names are those in the file of {ARCH}"
    unnamed = get(f"b:{ARCH}={checkpoint('b.safetensors', config='{}')}")
    assert names(get(f"{ARCH}={checkpoint(config=config)}"), unnamed)[1].endswith(
        "; the classes of b are taken to be the same"
    )


@pytest.mark.parametrize("ids", [{"0": "LABEL_0"}, {"1": "a"}, {"0": 3}, ["a"]])
def test_placeholders_and_gaps_are_no_names(checkpoint, ids):
    assert get(f"{ARCH}={checkpoint(config={'id2label': ids})}").origin.class_names == ()
    found = get(f"{ARCH}={checkpoint(config={'id2label': {'0': 'a', '1': 'b'}})}")
    assert "its file names 2 classes, and it has 1,000: these names are not used" in found.origin.notes


def test_files_that_name_their_classes_differently_do_not_go_together(checkpoint):
    own = get(f"own:{ARCH}={checkpoint(config={'id2label': dict(enumerate(OWN))})}")
    other = get(f"other:{ARCH}={checkpoint('b.safetensors', config={'id2label': dict(enumerate(reversed(OWN)))})}")
    published = get(f"{ARCH}@IMAGENET1K_V1={checkpoint('a.safetensors', config='{}')}")
    for pair in ((own, other), (own, published), (published, own)):
        with pytest.raises(ModelError, match="name them differently; --labels FILE says what they are"):
            names(*pair)
        assert names(*pair, given=tuple(OWN)) == (tuple(OWN), "")
    with pytest.raises(InputError, match="has 2 names, but the models have 1,000 classes"):
        names(own, given=("a", "b"))


@pytest.mark.parametrize(
    ("first", "note"),
    [
        (["# animals", ""], "--labels: of its lines 2 is empty, 1 is a comment, and each is taken for a class"),
        (["", "#1", "", "", ""], "--labels: of its lines 1, 3, 4 and 1 more are empty, and each is taken for a class"),
        (["#hashtag"], ""),
    ],
)
def test_lines_of_labels_that_are_no_names_are_said(checkpoint, first, note):
    own, given = get(f"{ARCH}={checkpoint()}"), tuple([*first, *OWN][:1000])
    assert names(own, given=given) == (given, note)
    if note:
        with pytest.raises(InputError, match=r"has 999 names, but the models have 1,000 classes; of its lines \d"):
            names(own, given=given[:999])
