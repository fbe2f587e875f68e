"""Models: the list of architectures, their published facts, where files are found, and copying of weights."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import subprocess
import sys
import termios

import pytest
import safetensors.torch
import torch
from conftest import REPOSITORY
from torchvision import models as tv

from pipeline import label
from pipeline.cli import main
from pipeline.commands import models as catalogue
from pipeline.errors import InputError, ModelError, WeightsError
from pipeline.models.catalog import find, torchvision_names
from pipeline.models.families import families, family_of

# SPEC section 3
MISSION = """alexnet vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn googlenet inception_v3
timm/legacy_xception timm/xception41 resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d
resnext101_64x4d squeezenet1_0 squeezenet1_1 densenet121 densenet161 densenet169 densenet201 shufflenet_v2_x0_5
shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0 mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2
mobilenet_v3_small mobilenet_v3_large efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4
efficientnet_b5 efficientnet_b6 efficientnet_b7 efficientnet_v2_s efficientnet_v2_m efficientnet_v2_l""".split()
SMALL = "squeezenet1_1"


@pytest.fixture(autouse=True)
def empty_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch-home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_args, **_options: None)


@pytest.fixture(scope="module")
def everything():
    return {card.name: card for card in catalogue.list_architectures()}


# -- looking --------------------------------------------------------------------------------------------


def test_every_classifier_of_the_mission_and_of_torchvision_is_listed_once(everything):
    assert set(everything) == {*MISSION, *torchvision_names()}
    assert len(catalogue.list_architectures()) == len(everything)


def test_every_architecture_has_a_family_with_a_year_and_a_paper():
    named = [arch for family in families() for arch in family.architectures]
    assert len(named) == len(set(named))
    assert set(named) == {*MISSION, *torchvision_names()}
    years = [family.year for family in families()]
    assert years == sorted(years)
    assert all(family.paper and family.url.startswith("https://") for family in families())
    assert family_of("timm/legacy_xception.tf_in1k") is family_of("timm/xception41")
    assert family_of("timm/resnet50") is None


def test_the_figures_are_those_of_torchvision(everything):
    for arch in ("resnet50", "vgg16", "vit_b_16"):
        shown = {entry.weights: entry for entry in everything[arch].published}
        for weights in tv.get_model_weights(arch):
            if "FEATURES" in weights.name:  # no classifier
                continue
            entry, meta = shown.pop(weights.name), weights.meta
            accuracy = meta["_metrics"]["ImageNet-1K"]
            assert (entry.num_params, entry.gmacs, entry.file_mb) == (
                meta["num_params"],
                meta["_ops"],
                meta["_file_size"],
            )
            assert (entry.top1, entry.top5) == (accuracy["acc@1"], accuracy["acc@5"])
            preset = weights.transforms()
            assert [entry.input_px, entry.resize_px] == [*preset.crop_size, *preset.resize_size]
            assert entry.interpolation == preset.interpolation.value
            assert entry.weights_file == weights.url.rpartition("/")[2]
            assert entry.url == weights.url
        assert not shown
        assert everything[arch].published[0].weights == tv.get_model_weights(arch).DEFAULT.name


def test_nothing_is_missing_for_the_mission(everything):
    for arch in MISSION:
        for entry in everything[arch].published:
            assert None not in (entry.num_params, entry.gmacs, entry.top1, entry.top5, entry.licence, entry.url), arch


def test_what_timm_does_not_publish_is_counted(everything):
    xception = everything["timm/legacy_xception"].published[0]
    assert xception.num_params == 22_855_952
    assert xception.gmacs == pytest.approx(8.4, rel=0.01)  # timm's own benchmark tables
    assert everything["timm/xception41"].published[0].gmacs == pytest.approx(9.28, rel=0.01)
    assert (xception.top1, xception.input_px, xception.interpolation) == (79.058, 299, "bicubic")


def test_names_families_and_patterns():
    def names(word):
        return [card.name for card in catalogue.list_architectures(word)]

    assert names("resnet50") == ["resnet50"]
    assert names("AlexNet") == names("alexnet") == ["alexnet"]
    assert names("efficientnetv2") == ["efficientnet_v2_s", "efficientnet_v2_m", "efficientnet_v2_l"]
    assert names("Xception") == ["timm/legacy_xception", "timm/xception41"]
    assert names("resnet1*") == ["resnet18", "resnet101", "resnet152"]
    assert {"timm/legacy_xception.tf_in1k", "timm/xception65.ra3_in1k"} < set(names("timm/*xception*"))
    assert names("timm/resnet50.a1_in1k") == ["timm/resnet50.a1_in1k"]
    with pytest.raises(ModelError, match=r"unknown model 'resnet49'; did you mean .*resnet50"):
        catalogue.list_architectures("resnet49")
    with pytest.raises(ModelError, match=r"no model is called like 'xyz\*'"):
        catalogue.list_architectures("xyz*")


def test_where_files_are_found(tmp_path):
    place = tmp_path / "weights"
    place.mkdir()
    v2, v1 = find("mobilenet_v3_large").published
    cache = tmp_path / "torch-home" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (place / v1.file_name).write_bytes(b"1")
    (cache / v2.file_name).write_bytes(b"2")
    (card,) = catalogue.list_architectures("mobilenet_v3_large", weights_dir=str(place))
    assert [entry.found for entry in card.published] == [str(cache / v2.file_name), str(place / v1.file_name)]
    for name in ("a", "b"):
        (place / f"alexnet-{name}.pth").write_bytes(b"")
    assert (
        catalogue.list_architectures("alexnet", weights_dir=str(place))[0].published[0].found is None
    )  # not clear which
    with pytest.raises(WeightsError, match="no such file"):
        catalogue.list_architectures("alexnet", weights_dir=str(tmp_path / "nowhere"))


# -- carrying -------------------------------------------------------------------------------------------


def checkpoint(path, num_classes=5):
    torch.manual_seed(0)
    state = tv.squeezenet1_1(weights=None, num_classes=num_classes).state_dict()
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(dict(state), path)
    else:
        torch.save(state, path)
    return path


def test_what_was_fetched_is_found_and_used(tmp_path, sample_data):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    path = checkpoint(source / f"{SMALL}.pth", 14)
    (first,) = catalogue.fetch([SMALL], str(target), weights_dir=str(source))
    assert (first.spec, first.uri, first.copied) == (SMALL, str(target / path.name), True)
    assert (target / path.name).read_bytes() == path.read_bytes()
    assert not catalogue.fetch([SMALL], str(target), weights_dir=str(source))[0].copied
    assert [entry.name for entry in target.iterdir()] == [path.name]
    shard = sorted(sample_data.glob("*.tar"))[0]
    summary = label(str(shard), out=tmp_path / "out", model=SMALL, weights_dir=target, limit=3, engine="inline",
                    labels=str(sample_data / "classes.txt"))  # fmt: skip
    assert summary.images == 3


def test_a_checkpoint_keeps_its_name_and_the_spec_to_use_is_returned(tmp_path):
    path = checkpoint(tmp_path / "mine.safetensors")
    (found,) = catalogue.fetch([f"mine:{SMALL}={path}"], str(tmp_path / "target"))
    assert found.spec == f"{SMALL}={tmp_path}/target/mine.safetensors"


def test_weights_go_to_a_bucket(s3, tmp_path):
    path = checkpoint(tmp_path / f"{SMALL}.safetensors")
    target = f"s3://{s3.bucket()}/weights"
    found = catalogue.fetch([SMALL], f"{target}/", weights_dir=str(tmp_path), s3_endpoint=s3.endpoint)
    assert [file.uri for file in found] == [f"{target}/{path.name}"]
    (card,) = catalogue.list_architectures(SMALL, weights_dir=target, s3_endpoint=s3.endpoint)
    assert card.published[0].found == f"{target}/{path.name}"


def test_nothing_is_written_of_a_file_that_does_not_fit(tmp_path):
    path = tmp_path / f"{SMALL}.pth"
    torch.save(tv.alexnet(weights=None, num_classes=2).state_dict(), path)
    with pytest.raises(WeightsError, match=f"does not fit {SMALL}"):
        catalogue.fetch([SMALL], str(tmp_path / "target"), weights_dir=str(tmp_path))
    assert not (tmp_path / "target").exists()
    with pytest.raises(InputError, match="--to ftp://host: unknown scheme"):
        catalogue.fetch([SMALL], "ftp://host")


# -- on the command line --------------------------------------------------------------------------------


def test_the_list_is_whole_when_piped(everything, shardlabel):
    done = shardlabel("models")
    assert done.returncode == 0
    assert not done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["architecture", "weights", "params"]
    first_words = {line.split()[0] for line in lines if line.strip()}
    assert set(everything) <= first_words
    (line,) = [line for line in lines if line.startswith("resnet18 ")]
    for word in ("IMAGENET1K_V1", "11.7", "1.81", "69.8", "89.1", "224", "256", "resnet18-f37072fd.pth"):
        assert word in line


def test_a_narrow_terminal_gets_whole_lines(monkeypatch):
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 80))
    for name in ("COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "argv", ["shardlabel", "models", "ResNet"])
    before = os.dup(1)  # a width is asked of the file, not of sys.stdout
    os.dup2(follower, 1)
    with open(1, "w", closefd=False) as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        with pytest.raises(SystemExit):
            main()
    os.dup2(before, 1)
    os.close(before)
    os.close(follower)
    shown = b""
    with contextlib.suppress(OSError):  # how a terminal says that it is closed
        while more := os.read(leader, 1 << 16):
            shown += more
    os.close(leader)
    lines = shown.decode().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("resnet50 ") and "IMAGENET1K_V2" in line and " 4.09 " in line for line in lines)
    assert not any(".pth" in line for line in lines)


def test_one_in_full(shardlabel):
    done = shardlabel("models", "resnet50")
    for words in ("Deep Residual Learning", "2015", "-m resnet50@IMAGENET1K_V1", "80.86 %", "resnet50-11ad3fa6.pth"):
        assert words in done.stdout
    told = json.loads(shardlabel("models", "resnet50", "--json").stdout)
    assert (told["name"], told["family"], told["num_params"], told["weights"]) == (
        "resnet50",
        "ResNet",
        25_557_032,
        "IMAGENET1K_V2",
    )
    assert [entry["weights"] for entry in told["published"]] == ["IMAGENET1K_V2", "IMAGENET1K_V1"]


def test_fetch_on_the_command_line(tmp_path, shardlabel):
    path = checkpoint(tmp_path / "weights.pth")
    name = f"{SMALL}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth"
    path.rename(tmp_path / name)
    done = shardlabel("models", "fetch", SMALL, "--weights-dir", tmp_path, "--to", tmp_path / "target", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["uri"] == str(tmp_path / "target" / name)
    wrong = shardlabel("models", "fetch", "resnet49", "--to", tmp_path / "target")
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1)
    assert shardlabel("models", "fetch", SMALL).returncode == 2


@pytest.mark.slow
def test_measured_beside_published_accuracy(shared, tmp_path):
    weights = shared / "weights" / "mobilenet_v2-imagenet.pth"
    shard = sorted((shared / "data" / "shards").glob("*.tar"))[0]
    script = REPOSITORY / "examples" / "published_accuracy.py"
    command = [sys.executable, script, shard, "--out", tmp_path / "out", "--engine", "inline", "--limit", "12"]
    command += ["-m", f"mobilenet_v2@IMAGENET1K_V1={weights}"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=True)
    member, images, top1, _, published, difference, *_ = done.stdout.splitlines()[1].split()
    assert (member, images, published) == ("mobilenet_v2", "12", "71.88")
    assert float(top1) >= 60
    assert float(difference) == pytest.approx(float(top1) - 71.88, abs=0.01)
