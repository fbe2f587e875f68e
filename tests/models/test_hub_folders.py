"""Folders as transformers 5.24 and timm save them: they compute what the same network of timm or torchvision does.

The layouts were compared with transformers itself: its logits and these differ by at most 1.4e-6 (resnet, vit,
convnext, convnextv2, swin; 224 pixels, random weights).
"""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
import torch
from models.on_meta import on_meta
from safetensors.torch import save_file
from torch import nn

from pipeline import label
from pipeline.checkpoints.companions import FOLDERS_OF_PARTS
from pipeline.checkpoints.huggingface import find_hub_network
from pipeline.checkpoints.state import State
from pipeline.config.members import MemberRequest, parse_members
from pipeline.errors import ModelError, WeightsError
from pipeline.models.catalog import find
from pipeline.models.fitting import _convert_names
from pipeline.models.networks import NetworkShape
from pipeline.models.weights import MemberSpec, build_network, resolve
from pipeline.storage import Storage
from pipeline.vision import models as tv
from pipeline.vision import timm_package

NAMES = [f"thing {index}" for index in range(6)]
COMMON = {"id2label": {str(index): name for index, name in enumerate(NAMES)}, "hidden_act": "relu"}
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 224, "width": 224},
    "resample": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "rescale_factor": 1 / 255,
}


def hub_resnet(state: dict) -> dict:
    def layer(match: re.Match) -> str:
        stage, block, kind, place, rest = match.groups()
        start = f"resnet.encoder.stages.{int(stage) - 1}.layers.{block}."
        if kind == "downsample":
            return f"{start}shortcut.{['convolution', 'normalization'][int(place)]}.{rest}"
        return f"{start}layer.{int(place) - 1}.{'convolution' if kind == 'conv' else 'normalization'}.{rest}"

    names = {"conv1.weight": "resnet.embedder.embedder.convolution.weight"}
    found = {}
    for name, value in state.items():
        name = re.sub(r"^layer(\d)\.(\d+)\.(conv|bn|downsample)\.?(\d)\.(\w+)$", layer, names.get(name, name))
        name = re.sub(r"^bn1\.", "resnet.embedder.embedder.normalization.", name)
        found[re.sub(r"^fc\.", "classifier.1.", name)] = value
    return found


def renamed(state: dict, renames: list[tuple[str, str]]) -> dict:
    found = {}
    for name, value in state.items():
        for old, new in renames:
            name = re.sub(old, new, name)
        found[name] = value
    return found


def split_qkv(state: dict, before: str) -> dict:
    found = {}
    for name, value in state.items():
        if match := re.match(r"(.*)\.attn\.qkv\.(\w+)$", name):
            for part, some in zip(("query", "key", "value"), value.chunk(3), strict=True):
                found[f"{match[1]}.{before}.{part}.{match[2]}"] = some.contiguous()
        else:
            found[name] = value
    return found


BLOCK = [
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
]


def hub_vit(state: dict) -> dict:
    names = [
        (r"^cls_token", "vit.embeddings.cls_token"),
        (r"^pos_embed", "vit.embeddings.position_embeddings"),
        (r"^patch_embed\.proj", "vit.embeddings.patch_embeddings.projection"),
        (r"^norm\.", "vit.layernorm."),
        (r"^head\.", "classifier."),
        (r"^blocks\.", "vit.encoder.layer."),
    ]
    return renamed(split_qkv(state, "attention.attention"), names + BLOCK)


def hub_swin(state: dict) -> dict:
    names = [
        (r"^patch_embed\.proj", "swin.embeddings.patch_embeddings.projection"),
        (r"^patch_embed\.norm", "swin.embeddings.norm"),
        (r"^norm\.", "swin.layernorm."),
        (r"^head\.fc\.", "classifier."),
        (r"^layers\.(\d)\.downsample", lambda match: f"swin.encoder.layers.{int(match[1]) - 1}.downsample"),
        (r"^layers\.", "swin.encoder.layers."),
        (r"\.attn\.relative", ".attention.self.relative"),
    ]
    return renamed(split_qkv(state, "attention.self"), names + BLOCK)


def hub_convnext_v2(state: dict) -> dict:
    names = [
        (r"^stem\.0\.", "convnextv2.embeddings.patch_embeddings."),
        (r"^stem\.1\.", "convnextv2.embeddings.layernorm."),
        (r"^stages\.(\d)\.downsample\.", r"convnextv2.encoder.stages.\1.downsampling_layer."),
        (r"^stages\.(\d)\.blocks\.", r"convnextv2.encoder.stages.\1.layers."),
        (r"^head\.norm\.", "convnextv2.layernorm."),
        (r"^head\.fc\.", "classifier."),
        (r"\.conv_dw\.", ".dwconv."),
        (r"\.mlp\.fc(\d)\.", r".pwconv\1."),
        (r"\.mlp\.grn\.", ".grn."),
        (r"(layers\.\d+)\.norm\.", r"\1.layernorm."),
    ]
    found = renamed(state, names)
    return {name: value.flatten(1) if "pwconv" in name and value.ndim > 1 else value for name, value in found.items()}


def timm(arch: str, **options) -> nn.Module:
    return timm_package().create_model(arch, num_classes=6, **options)


VIT = {"model_type": "vit", "hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "patch_size": 16}
VIT_WHOLE = VIT | {"intermediate_size": 768, "hidden_act": "gelu"}
SWIN = {
    "depths": [2, 2, 6, 2],
    "embed_dim": 96,
    "patch_size": 4,
    "hidden_act": "gelu",
    "image_size": 224,
    "window_size": 7,
}
KINDS = {
    "resnet": (
        "resnet18",
        lambda: tv.resnet18(num_classes=6),
        hub_resnet,
        {"layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "embedding_size": 64},
    ),
    "vit": (
        "timm/vit_tiny_patch16_224",
        lambda: timm("vit_tiny_patch16_224"),
        hub_vit,
        VIT_WHOLE,
    ),
    "convnextv2": (
        "timm/convnextv2_atto",
        lambda: timm("convnextv2_atto"),
        hub_convnext_v2,
        {"depths": [2, 2, 6, 2], "hidden_sizes": [40, 80, 160, 320], "patch_size": 4, "hidden_act": "gelu"},
    ),
    "swin": (
        "timm/swin_tiny_patch4_window7_224",
        lambda: timm("swin_tiny_patch4_window7_224"),
        hub_swin,
        SWIN,
    ),
}


def write(folder, state: dict, settings: dict, processor: dict | None = PROCESSOR):
    folder.mkdir(exist_ok=True)
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(settings))
    if processor:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    (folder / "training_args.bin").write_bytes(b"settings of a trainer")
    return folder


def get(spec: str):
    return resolve(MemberRequest.parse(spec), None, Storage())


@pytest.mark.parametrize("kind", ["resnet", "convnextv2"])
def test_a_network_of_transformers_is_the_architecture_that_computes_it(kind, tmp_path):
    arch, make, rename, settings = KINDS[kind]
    network = make().eval()
    folder = write(tmp_path / "my net", rename(network.state_dict()), COMMON | {"model_type": kind} | settings)
    inputs = torch.randn(1, 3, 224, 224)
    for spec, alias in ((f"hf:{folder}", "my_net"), (f"{arch}={folder}/model.safetensors", arch.removeprefix("timm/"))):
        found = get(spec)
        assert (found.spec.alias, found.spec.arch) == (alias, arch)
        assert found.origin.class_names == tuple(NAMES)
        assert (found.origin.recipe, found.origin.notes) == ("preprocessor_config.json beside it", ())
        geometry = found.spec.recipe.geometry
        assert (geometry.resize_px, geometry.crop_px, geometry.fit) == (224, 224, "squash")
    with torch.inference_mode():
        assert torch.allclose(build_network(found.spec, found.blob)(inputs), network(inputs), atol=1e-5)


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_the_tensors_of_transformers_get_the_architecture_s_names(kind):
    """Without values, which take seconds to make; each has a shape of its own where it could be mistaken."""
    arch, make, rename, settings = KINDS[kind]
    with on_meta():
        wanted = make().state_dict()
    found = find_hub_network(COMMON | {"model_type": kind} | settings)
    state = State(found.rename(rename(wanted)))
    state._metadata = {}
    named = _convert_names(NetworkShape(find(arch), 6, 224), state)
    assert found.arch == arch
    assert {name: value.shape for name, value in named.items()} == {name: value.shape for name, value in wanted.items()}


@pytest.mark.parametrize("layout", ["save_for_hf", "TimmWrapper"])
def test_a_folder_of_timm(layout, tmp_path):
    network = timm("resnet18").eval()
    recipe = {
        "input_size": [3, 128, 128],
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    settings = {"architecture": "resnet18", "num_classes": 6, "pretrained_cfg": recipe, "label_names": NAMES}
    state = network.state_dict()
    if layout == "TimmWrapper":
        settings["model_type"] = "timm_wrapper"
        state = {f"timm_model.{name}": value for name, value in state.items()}
    found = get(f"mine:hf:{write(tmp_path / 'x', state, settings, None)}*2")
    assert (found.spec.alias, found.spec.arch, found.spec.factor) == ("mine", "timm/resnet18", 2.0)
    assert found.spec.recipe.geometry.crop_px == 128
    assert found.origin.class_names == tuple(NAMES)
    inputs = torch.randn(1, 3, 128, 128)
    with torch.inference_mode():
        assert torch.equal(build_network(found.spec, found.blob)(inputs), network(inputs))


@pytest.mark.parametrize("model_args", [{"global_pool": "max"}, {"act_layer": "silu", "drop_rate": 0.1}])
def test_what_a_network_of_timm_was_built_with_counts(model_args, tmp_path):
    network = timm("resnet18", **model_args).eval()
    settings = {"architecture": "resnet18", "num_classes": 6, "model_args": model_args, "pretrained_cfg": {}}
    folder = write(tmp_path / "x", network.state_dict(), settings, None)
    found = get(f"hf:{folder}")
    inputs = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        spec = MemberSpec.from_dict(dataclasses.asdict(found.spec))
        assert torch.equal(build_network(spec, found.blob)(inputs), network(inputs))
    with pytest.raises(WeightsError, match="built with arguments that are not known here: "):
        get(f"resnet18={folder}")  # torchvision's has no such arguments


@pytest.mark.parametrize(
    ("model_args", "message"),
    [
        ({"checkpoint_path": "/x"}, "arguments that are not known here: checkpoint_path"),
        ({"global_pool": 3}, "arguments that are not known here: global_pool"),
        ({"window_size": 4}, r"timm/resnet18 cannot be built with \{'window_size': 4\}"),
        ({"window_size": True}, "arguments that are not known here: window_size"),
        ({"act_layer": "no-such"}, r"timm/resnet18 cannot be built with \{'act_layer': 'no-such'\}"),
    ],
)
def test_other_arguments_of_timm_are_refused(model_args, message, tmp_path):
    settings = {"architecture": "resnet18", "num_classes": 6, "model_args": model_args, "pretrained_cfg": {}}
    with pytest.raises(WeightsError, match=message):
        get(f"hf:{write(tmp_path / 'x', {'a.weight': torch.zeros(1)}, settings, None)}")


def test_a_transformer_of_timm_is_built_as_its_folder_says(tmp_path):
    model_args = {"class_token": False, "global_pool": "avg", "fc_norm": False}
    with on_meta():
        wanted = timm("vit_tiny_patch16_224", **model_args).state_dict()
    settings = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 6,
        "model_args": model_args,
        "pretrained_cfg": {"input_size": [3, 224, 224]},
    }
    state = {name: torch.zeros(value.shape) for name, value in wanted.items()}
    found = get(f"hf:{write(tmp_path / 'x', state, settings, None)}")
    assert {name: getattr(found.spec.network, name) for name in model_args} == model_args


def test_a_folder_is_labelled_with(tmp_path, sample_data):
    folder = write(
        tmp_path / "net",
        hub_resnet(tv.resnet18(num_classes=6).state_dict()),
        COMMON | {"model_type": "resnet"} | KINDS["resnet"][3],
    )
    shard = next(iter(sorted(sample_data.glob("*.tar"))))
    summary = label(
        str(shard), tmp_path / "out", model=f"hf:{folder}?crop=64&resize=64", limit=4, engine="inline", progress="none"
    )
    assert summary.labelled == 4
    job = json.loads((tmp_path / "out" / "job.json").read_text())
    assert job["class_names"] == NAMES
    assert job["origins"]["net"]["recipe"] == "resize, crop as requested; preprocessor_config.json beside it"


RESNET = {"model_type": "resnet", "hidden_act": "relu"} | KINDS["resnet"][3]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (VIT | {"hidden_size": 200}, r"of a kind or size \(vit\) that is not read; resnet, vit"),
        ({"model_type": "swin"} | SWIN | {"image_size": 256}, r"of a kind or size \(swin\)"),  # its windows are padded
        (RESNET | {"downsample_in_first_stage": True}, r"of a kind or size \(resnet\)"),
        (RESNET | {"problem_type": "multi_label_classification"}, "is trained for multi_label_classification"),
        (VIT_WHOLE | {"layer_norm_eps": 0.1}, "config.json beside it: layer_norm_eps of 0.1 is not supported"),
        (RESNET | {"id2label": {"0": "LABEL_0"}}, "one label, for which transformers trains a regression"),
        ({"model_type": "beit"}, r"of a kind or size \(beit\) that is not read"),
        ({"model_type": "resnet", "layer_type": "basic", "depths": [1, 1, 1, 1]}, r"of a kind or size \(resnet\)"),
        ({"learning_rate": 1}, r"no config.json beside it says what it is: -m ARCH="),
    ],
)
def test_folders_of_other_networks_are_one_line(settings, message, tmp_path):
    folder = write(tmp_path / "x", {"a.weight": torch.zeros(1)}, settings)
    with pytest.raises(WeightsError, match=message):
        get(f"hf:{folder}")


def test_folders_without_weights_and_wrong_architectures(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        WeightsError, match=r"a folder without model.safetensors or pytorch_model.bin: name the file in it"
    ):
        get(f"hf:{tmp_path / 'empty'}")
    for name, message in FOLDERS_OF_PARTS.items():
        (tmp_path / "empty" / name).write_text("{}")
        with pytest.raises(WeightsError, match=re.escape(f"empty: {message}")):
            get(f"resnet18={tmp_path / 'empty'}")
        (tmp_path / "empty" / name).unlink()
    with pytest.raises(WeightsError, match="no such file; hf: takes a folder"):
        get(f"hf:{tmp_path / 'nowhere'}")
    folder = write(tmp_path / "x", {"a.weight": torch.zeros(1)}, VIT_WHOLE)
    with pytest.raises(
        WeightsError, match=r"says that it is vit_tiny_patch16_224, not vit_b_16: -m timm/vit_tiny_patch16_224=FILE"
    ):
        get(f"vit_b_16={folder}")


@pytest.mark.parametrize(
    ("spec", "alias", "folder"),
    [
        ("hf:nets/my-net", "my-net", "nets/my-net"),
        ("hf:/a/b/", "b", "/a/b/"),
        ("x:hf:s3://bucket/net", "x", "s3://bucket/net"),
        ("hf:./odd name!", "odd_name_", "./odd name!"),
    ],
)
def test_the_form_of_a_folder(spec, alias, folder):
    (found,) = parse_members((spec,))
    assert (found.alias, found.arch, found.checkpoint) == (alias, "hf", folder)


def test_two_folders_of_one_name_want_aliases():
    with pytest.raises(ModelError, match="two members are called 'x': name one of them"):
        parse_members(("hf:a/x", "hf:b/x"))
