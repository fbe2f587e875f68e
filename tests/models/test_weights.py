"""Weights: found in order, checked, read as data only, and fitted whatever their shape."""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import pickle
import re
import time
import urllib.error
import urllib.request
import warnings
from typing import ClassVar

import pytest
import safetensors.torch
import timm
import torch
from models.on_meta import on_meta
from torchvision import models as tv

from pipeline.checkpoints.choosing import choose_state
from pipeline.checkpoints.reading import read_checkpoint
from pipeline.checkpoints.state import State
from pipeline.config.members import MemberRequest
from pipeline.errors import ModelError, WeightsError
from pipeline.models import locate
from pipeline.models.anatomy import study
from pipeline.models.catalog import find
from pipeline.models.fitting import _num_classes
from pipeline.models.weights import (
    MemberSpec,
    ResolvedMember,
    build_network,
    check_one_label_space,
    resolve,
)
from pipeline.storage import Storage

SMALL = "squeezenet1_1"


@pytest.fixture(autouse=True)
def empty_caches(tmp_path, monkeypatch):
    """No weights of this machine's user, and no network: a request for one fails the test."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch-home"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_args, **_options: None)
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)


def unreachable(*_args, **_options):
    raise urllib.error.URLError(OSError(-2, "Name or service not known"))


def get(spec: str, weights_dir=None) -> ResolvedMember:
    return resolve(MemberRequest.parse(spec), str(weights_dir) if weights_dir else None, Storage())


def plain(arch: str, num_classes: int = 4, seed: int = 0, **options) -> torch.nn.Module:
    """A network as anybody would make it, with running statistics as if it had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("cpu" if arch.startswith("regnet") else "meta"):  # no time is spent on initial values
        network = tv.get_model(arch, weights=None, num_classes=num_classes, **options)
    network = network.to_empty(device="cpu").eval()
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(noise.abs() + 0.5 if name.endswith("running_var") else noise * 0.05)
        else:
            tensor.fill_(3)
    return network


def saved(path, state):
    torch.save(state, path)
    return path


def with_hash(path):
    """Rename a file so that its name carries its hash."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path.rename(path.with_name(f"{path.stem}-{digest[:8]}{path.suffix}"))


def same_logits(resolved, network, px=64):
    images = torch.randn(2, 3, px, px, generator=torch.Generator().manual_seed(9))
    with torch.inference_mode():
        return torch.equal(build_network(resolved.spec, resolved.blob)(images), network(images))


# -- where they are found -------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """Makes small checkpoints that can be told apart by their number of classes."""
    folder = tmp_path / "weights"
    folder.mkdir()

    def make(name: str, num_classes: int, arch: str = SMALL):
        state = plain(arch, num_classes).state_dict()
        path = folder / name
        if name.endswith(".safetensors"):
            safetensors.torch.save_file({key: value.clone() for key, value in state.items()}, path)
        else:
            torch.save(state, path)
        return path

    make.folder = folder
    return make


def without_hash_checks(monkeypatch):
    """Made-up files cannot have the published names' hashes."""
    monkeypatch.setattr(locate, "_HASH_IN_PUBLISHED_NAME", locate.re.compile("$^"))
    monkeypatch.setattr(locate, "_HASH_IN_NAME", locate.re.compile("$^"))


def test_the_order_of_places(files, tmp_path, monkeypatch):
    without_hash_checks(monkeypatch)
    published = find(SMALL).published[0].file_name
    cache = tmp_path / "torch-home" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    files("elsewhere.pth", 2)
    places = [
        files(published, 3),
        files(f"{SMALL}.safetensors", 4),
        files(f"{SMALL}.pth", 5),
        files(f"{SMALL}-mine.safetensors", 6),
        files(f"{SMALL}-mine.pth", 7),
        files(published + ".cached", 8).rename(cache / published),
    ]
    assert get(f"{SMALL}={files.folder / 'elsewhere.pth'}", files.folder).spec.num_classes == 2
    for num_classes, place in enumerate(places, start=3):
        member = get(SMALL, files.folder)
        assert (member.spec.num_classes, member.spec.weights_file) == (num_classes, place.name)
        place.unlink()
    with pytest.raises(WeightsError, match="could not be downloaded"):
        get(SMALL, files.folder)


def test_several_files_that_fit_are_listed(files):
    files(f"{SMALL}-a.pth", 2)
    files(f"{SMALL}-b.pth", 2)
    (files.folder / "sub").mkdir()
    files(f"sub/{SMALL}.pth", 2)
    with pytest.raises(WeightsError, match=rf"several files fit {SMALL}: {SMALL}-a\.pth, {SMALL}-b\.pth"):
        get(SMALL, files.folder)


def test_other_published_weights_are_taken_only_without_a_request(files, monkeypatch):
    without_hash_checks(monkeypatch)
    arch = "mobilenet_v3_large"
    v2, v1 = find(arch).published
    files(v1.file_name, 4, arch)
    member = get(arch, files.folder)
    assert member.spec.weights_file == v1.file_name
    assert member.spec.recipe == v1.recipe != v2.recipe  # the file's own recipe
    assert get(f"{arch}@imagenet1k_v1", files.folder).spec.weights_file == v1.file_name
    with pytest.raises(WeightsError, match=f"{v2.file_name} is not here"):
        get(f"{arch}@IMAGENET1K_V2", files.folder)
    with pytest.raises(ModelError, match="no weights called 'IMAGENET1K_V3'"):
        get(f"{arch}@IMAGENET1K_V3", files.folder)


def test_a_checkpoint_with_a_published_name_gets_its_recipe_unless_another_is_requested(files, monkeypatch):
    without_hash_checks(monkeypatch)
    arch = "mobilenet_v3_large"
    v2, v1 = find(arch).published
    path = files(v1.file_name, 4, arch)
    assert get(f"{arch}={path}").spec.recipe == v1.recipe
    assert get(f"{arch}@IMAGENET1K_V2={path}").spec.recipe == v2.recipe


def test_timm_does_not_take_the_file_of_its_torchvision_namesake(files, monkeypatch):
    without_hash_checks(monkeypatch)
    theirs = find("resnet18").published[0].file_name
    (files.folder / theirs).write_bytes(b"")
    with pytest.raises(WeightsError, match="is not here and could not be downloaded"):
        get("timm/resnet18", files.folder)
    with pytest.raises(WeightsError, match="damaged, or no checkpoint"):
        get("resnet18", files.folder)


def test_names_are_matched_whole(files):
    """A file of vgg16_bn is none of vgg16."""
    (files.folder / "vgg16_bn-mine.pth").write_bytes(b"")
    (files.folder / "vgg16.pth.part").write_bytes(b"")
    with pytest.raises(WeightsError, match="is not here"):
        get("vgg16", files.folder)


# -- what is missing, and what lies ---------------------------------------------------------------------


def test_the_hash_in_a_name_is_checked(files):
    good = with_hash(files(f"{SMALL}.pth", 3))
    assert get(SMALL, files.folder).spec.weights_sha256 == hashlib.sha256(good.read_bytes()).hexdigest()
    upper = good.rename(good.with_name(f"{SMALL}-{good.stem.rpartition('-')[2].upper()}.pth"))
    assert get(SMALL, files.folder).spec.weights_file == upper.name
    bad = upper.rename(files.folder / f"{SMALL}-0badcafe.pth")
    with pytest.raises(WeightsError, match=r"promises a sha256 that starts with 0badcafe, but it is"):
        get(SMALL, files.folder)
    assert get(f"{SMALL}={bad}").spec.weights_file == bad.name  # the user's own file: nobody promised anything


@pytest.mark.parametrize("last", ["20261127", "deadbeef", "0badcaf", "0badcafe0", "20240131x", "0badcafe_v2"])
def test_other_last_parts_are_no_hashes(files, last):
    assert get(f"{SMALL}={files(f'{SMALL}-{last}.pth', 3)}").spec.num_classes == 3


@pytest.mark.parametrize("arch", ["squeezenet1_1", "shufflenet_v2_x0_5", "timm/legacy_xception"])
def test_published_names_are_checked_whatever_the_length_of_their_hash(files, arch):
    path = files.folder / find(arch).published[0].file_name
    path.write_bytes(b"not these weights")
    with pytest.raises(WeightsError, match=r"the file is damaged or has the wrong name"):
        get(arch, files.folder)


@pytest.mark.parametrize("arch", [SMALL, "timm/legacy_xception", "timm/xception41"])
def test_missing_weights_name_the_file_and_three_ways_at_once(tmp_path, arch):
    begun = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        get(arch)
    assert time.monotonic() - begun < 10  # timm's import included
    message = str(caught.value)
    short = arch.removeprefix("timm/")
    for part in (f"{arch}=PATH", f"{short}.safetensors in --weights-dir", "downloaded", "Name or service not known"):
        assert part in message
    assert "\n" not in message
    assert not [path for path in (tmp_path / "torch-home").rglob("*") if path.is_file()]


def test_a_checkpoint_that_is_not_there(tmp_path):
    with pytest.raises(WeightsError, match=r"nowhere\.pth: no such file$"):
        get(f"{SMALL}={tmp_path}/nowhere.pth")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WeightsError, match=r"pipe: neither a file nor a folder"):
        get(f"{SMALL}={tmp_path}/pipe")
    with pytest.raises(WeightsError, match=r"--weights-dir .*nowhere.*no such file"):
        get(SMALL, tmp_path / "nowhere")
    (tmp_path / "there.pth").write_bytes(b"what it holds is not looked at")
    for folder in ("nowhere", "there.pth"):  # though no file of it is needed
        with pytest.raises(WeightsError, match=rf"--weights-dir .*{re.escape(folder)}.*no such file"):
            get(f"{SMALL}={tmp_path}/there.pth", tmp_path / folder)
    with pytest.raises(WeightsError, match=r"ftp://host/x\.pth: unknown scheme"):
        get(f"{SMALL}=ftp://host/x.pth")
    with pytest.raises(WeightsError, match="--weights-dir ftp://host: unknown scheme"):
        get(SMALL, "ftp://host")


class Answer(io.BytesIO):
    """What a server sends."""

    headers: ClassVar[dict[str, str]] = {}

    def __exit__(self, *_details):
        self.close()


def test_a_download_is_kept_in_torchs_cache(files, tmp_path, monkeypatch):
    data = files("x.pth", 3).read_bytes()
    without_hash_checks(monkeypatch)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_args, **_options: Answer(data))
    assert get(SMALL).spec.num_classes == 3
    cached = tmp_path / "torch-home" / "hub" / "checkpoints" / find(SMALL).published[0].file_name
    assert cached.read_bytes() == data
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    assert get(SMALL).spec.weights_file == cached.name


def test_a_bad_download_leaves_nothing_behind(tmp_path, monkeypatch):
    def cut_short(*_args, **_options):
        raise http.client.IncompleteRead(b"123", 456)

    for answer, reason in ((lambda *_a, **_o: Answer(b"half"), "promises a sha256"), (cut_short, "IncompleteRead")):
        monkeypatch.setattr(urllib.request, "urlopen", answer)
        with pytest.raises(WeightsError, match=reason):
            get(SMALL)
        assert not [path for path in (tmp_path / "torch-home").rglob("*") if path.is_file()]


# -- what is in the file --------------------------------------------------------------------------------


class Code:
    """Unpickled, it would create a file."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("kind", ["torch", "torch-legacy", "pickle-2", "pickle-4"])
def test_a_pickle_that_carries_code_is_refused_and_not_run(tmp_path, kind):
    mark, path = tmp_path / "mark", tmp_path / f"{SMALL}.pth"
    content = {"state_dict": plain(SMALL).state_dict(), "extra": Code(mark)}
    if kind.startswith("torch"):
        torch.save(content, path, _use_new_zipfile_serialization=kind == "torch")
    else:
        path.write_bytes(pickle.dumps({"extra": Code(mark)}, protocol=int(kind[-1])))
    with pytest.raises(WeightsError, match=r"refused, because it is a pickle .*code.*; save the state dict alone") as e:
        get(SMALL, tmp_path)
    assert str(path) in str(e.value)
    assert "\n" not in str(e.value)
    assert not mark.exists()
    if kind == "torch":
        torch.load(path, weights_only=False)  # the check above can fail
        assert mark.exists()


@pytest.mark.parametrize("name", ["x.pth", "pytorch_model.bin", "x.safetensors"])
def test_timms_networks_take_data_only_as_well(tmp_path, name):
    torch.save({"state_dict": {}, "extra": Code(tmp_path / "mark")}, tmp_path / name)
    with pytest.raises(WeightsError, match=r"refused, because it is a pickle that carries code|no safetensors file"):
        get(f"timm/resnet18={tmp_path / name}")
    assert not (tmp_path / "mark").exists()


def test_a_whole_network_and_torchscript_are_refused(tmp_path):
    path = saved(tmp_path / "whole.pth", plain(SMALL))
    with pytest.raises(WeightsError, match=r"carries code \(torchvision\.models\.squeezenet\.SqueezeNet\)"):
        get(f"{SMALL}={path}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; such files are still about
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "script.pt")
    with pytest.raises(WeightsError, match="refused: TorchScript carries code"):
        get(f"{SMALL}={tmp_path / 'script.pt'}")


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
@pytest.mark.parametrize("damage", ["empty", "cut", "cut early", "text", "zip"])
def test_damaged_files(files, name, damage):
    path = files(name, 3)
    data = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "cut": data[:-1000],
            "cut early": data[:50],
            "text": b"404 not found",
            "zip": b"PK\3\4" + bytes(99),
        }[damage]
    )
    with pytest.raises(WeightsError, match=rf"{name}: damaged, or no (checkpoint|safetensors file)[^\n]*$"):
        get(f"{SMALL}={path}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "holds a list, not a state dict"),
        (torch.zeros(3), "holds a Tensor, not a state dict"),
        ({"epoch": 3}, "holds no tensors"),
        ({"fc.weight": torch.zeros(4, 512)}, r"are missing \(features.0.weight.*others are there \(fc.weight\)"),
    ],
)
def test_files_that_hold_something_else(tmp_path, content, message):
    with pytest.raises(WeightsError, match=rf"x\.pth: .*{message}"):
        get(f"{SMALL}={saved(tmp_path / 'x.pth', content)}")


def test_weights_of_another_architecture_or_shape_give_one_line(tmp_path):
    path = saved(tmp_path / "x.pth", plain("squeezenet1_0").state_dict())
    with pytest.raises(WeightsError, match=rf"x\.pth: does not fit {SMALL}: [^\n]*features[^\n]*$"):
        get(f"{SMALL}={path}")
    state = plain(SMALL).state_dict()
    state["features.0.weight"] = torch.zeros(64, 4, 3, 3)
    with pytest.raises(WeightsError, match=r"size mismatch for features\.0\.weight"):
        get(f"{SMALL}={saved(tmp_path / 'x.pth', state)}")
    del state["features.0.weight"]
    with pytest.raises(WeightsError, match=r"Missing key\(s\).*features\.0\.weight"):
        get(f"{SMALL}={saved(tmp_path / 'x.pth', state)}")


def test_weights_without_a_trained_head_are_refused(tmp_path):
    """torchvision's vgg16@IMAGENET1K_FEATURES is such a file."""
    state = plain(SMALL).state_dict()
    state["classifier.1.weight"][:] = torch.nan
    with pytest.raises(WeightsError, match=r"classifier\.1\.weight holds NaN"):
        get(f"{SMALL}={saved(tmp_path / 'x.pth', state)}")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (torch.Tensor.to_sparse, "sparse"),
        (torch.Tensor.to_sparse_csr, "sparse"),
        (lambda tensor: tensor.to("meta"), "without values"),
        (lambda tensor: tensor.to(torch.complex64), "complex"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
def test_tensors_that_no_network_computes_with_are_refused(tmp_path, change, says):
    state = plain(SMALL).state_dict()
    state["classifier.1.weight"] = change(state["classifier.1.weight"].flatten(1))
    with pytest.raises(WeightsError, match=rf"classifier\.1\.weight is {says}") as raised:
        choose_state(read_checkpoint("x.pth", saved(tmp_path / "x.pth", state).read_bytes()), lambda _: False)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "dress",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: {"model_state_dict": dict(state)},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": {f"_orig_mod.module.{key}": value for key, value in state.items()}},
        lambda state: {"state_dict": {f"module.model.{key}": value for key, value in state.items()}},
    ],
    ids=["state_dict", "model", "model_state_dict", "module.", "_orig_mod.module.", "module.model."],
)
def test_wrappings_are_taken_off(tmp_path, dress):
    network = plain("shufflenet_v2_x0_5", 5)
    member = get(f"shufflenet_v2_x0_5={saved(tmp_path / 'x.pth', dress(network.state_dict()))}")
    assert member.spec.num_classes == 5
    assert same_logits(member, network)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_formats_become_fp32(tmp_path, dtype, suffix):
    network = plain(SMALL).to(dtype)
    path = tmp_path / f"x{suffix}"
    (torch.save if suffix == ".pth" else safetensors.torch.save_file)(dict(network.state_dict()), path)
    member = get(f"{SMALL}={path}")
    assert same_logits(member, network.float())
    assert {tensor.dtype for tensor in build_network(member.spec, member.blob).parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("resnet18", {}),
        ("squeezenet1_1", {}),
        ("densenet121", {}),
        ("mobilenet_v2", {}),
        ("mobilenet_v3_small", {}),
        ("efficientnet_b0", {}),
        ("mnasnet0_5", {}),
        ("shufflenet_v2_x0_5", {}),
        ("googlenet", {"transform_input": True, "aux_logits": False, "init_weights": False}),
        ("googlenet", {"transform_input": True, "aux_logits": True, "init_weights": False}),
        ("regnet_y_400mf", {}),
    ],
)
def test_logits_from_a_blob_are_those_of_torchvision(tmp_path, arch, options):
    network = plain(arch, 6, **options)
    path = saved(tmp_path / "x.pth", network.state_dict())
    member = get(f"{arch}={path}")
    assert member.spec.num_classes == 6
    assert same_logits(member, network)


@pytest.mark.parametrize("aux", [True, False])
def test_inception_with_and_without_its_training_head(tmp_path, aux):
    network = plain("inception_v3", 3, transform_input=True, aux_logits=aux, init_weights=False)
    member = get(f"inception_v3={saved(tmp_path / 'x.pth', network.state_dict())}")
    assert member.spec.num_classes == 3
    assert same_logits(member, network, px=96)


@pytest.mark.parametrize(
    "arch",
    """alexnet vgg11 vgg16_bn googlenet inception_v3 resnet50 resnext50_32x4d squeezenet1_0 densenet161
    shufflenet_v2_x1_0 mnasnet1_0 mobilenet_v3_large efficientnet_b3 efficientnet_v2_s vit_b_16 swin_t
    convnext_tiny maxvit_t timm/legacy_xception timm/xception41 timm/deit_tiny_distilled_patch16_224
    timm/mobilenetv4_conv_small""".split(),
)
@pytest.mark.parametrize("num_classes", [37])
def test_the_number_of_classes_is_read_from_the_head(arch, num_classes):
    architecture = find(arch)
    px = architecture.published[0].recipe.geometry.crop_px
    with on_meta():
        state = State(architecture.build(num_classes, px).state_dict())
    assert _num_classes(study(architecture, px), arch, state, "x") == num_classes


def test_checkpoints_under_their_authors_own_names_are_translated_as_timm_does(tmp_path):
    """ConvNeXt's authors publish the same tensors under other names, linear layers in place of 1x1 convolutions."""
    network = timm.create_model("convnext_atto", num_classes=5).eval()
    theirs = {"head.norm.": "norm.", "head.fc.": "head.", "stem.": "downsample_layers.0."}
    state = {}
    for key, value in network.state_dict().items():
        key = re.sub(r"stages\.(\d)\.downsample\.", lambda m: f"downsample_layers.{m[1]}.", key)
        key = re.sub(r"(stages\.\d)\.blocks", r"\1", key).replace("conv_dw", "dwconv")
        key = key.replace("mlp.fc1", "pwconv1").replace("mlp.fc2", "pwconv2")
        start = next((start for start in theirs if key.startswith(start)), "")
        key = theirs.get(start, "") + key.removeprefix(start)
        state[key] = value.flatten(1) if "pwconv" in key and value.ndim == 4 else value
    assert state.keys() != network.state_dict().keys()
    member = get(f"timm/convnext_atto={saved(tmp_path / 'x.pth', {'model': state})}")
    assert member.spec.num_classes == 5
    assert same_logits(member, network)


def test_old_files_with_neither_versions_nor_counters_fit(tmp_path):
    """As the published DenseNets are: other names, and from before batch norms counted their batches."""
    network = plain("densenet121", 4)
    old = {}
    for key, value in network.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            for part in ("norm", "conv"):
                for number in "12":
                    if "denselayer" in key:
                        key = key.replace(f".{part}{number}.", f".{part}.{number}.")
            old[key] = value
    assert any(".norm.1." in key for key in old)
    assert same_logits(get(f"densenet121={saved(tmp_path / 'x.pth', old)}"), network)


# -- MnasNet, whose files carry a version ---------------------------------------------------------------


@pytest.fixture(scope="module")
def old_mnasnet():
    """A MnasNet of version 1, whose stem ignores the multiplier."""
    torch.manual_seed(0)
    network = tv.mnasnet0_5(weights=None, num_classes=4).eval()
    mark = State()
    mark._metadata = {"": {"version": 1}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision warns of the old version
        network.load_state_dict(mark, strict=False)  # which makes it the old network
    assert network.layers[0].out_channels == 32
    return network.eval()


@pytest.mark.parametrize("how", ["pth", "module.", "plain dict", "safetensors"])
@pytest.mark.parametrize("version", [1, 2])
def test_both_versions_of_mnasnet(tmp_path, old_mnasnet, version, how):
    network = old_mnasnet if version == 1 else plain("mnasnet0_5", 4)
    state = network.state_dict()
    assert state._metadata[""]["version"] == version
    path = tmp_path / ("x.safetensors" if how == "safetensors" else "x.pth")
    if how == "safetensors":
        safetensors.torch.save_file(dict(state), path)
    elif how == "plain dict":
        torch.save(dict(state), path)
    elif how == "module.":
        torch.save({"state_dict": torch.nn.DataParallel(network).state_dict()}, path)
    else:
        torch.save(state, path)
    member = get(f"mnasnet0_5={path}")
    assert same_logits(member, network)


# -- the ensemble ---------------------------------------------------------------------------------------


def test_members_share_their_classes():
    def spec(alias, num_classes):
        return MemberSpec(alias, SMALL, 1.0, num_classes, find(SMALL).published[0].recipe, "0" * 64, "x")

    assert check_one_label_space([spec("a", 10), spec("b", 10)]) == 10
    with pytest.raises(ModelError, match=r"do not share one set of classes: a has 10, b has 12"):
        check_one_label_space([spec("a", 10), spec("b", 12)])
