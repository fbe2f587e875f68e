"""Networks as Hugging Face's transformers saves them: which architecture of timm or torchvision computes the same.

A folder of ``save_pretrained`` holds ``config.json`` and tensors under transformers' own names. Where an architecture
here computes the same, its tensors get the names of its authors, which timm converts further, or of the architecture
itself. The layouts are those of transformers 5.24.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Tensors = dict[str, torch.Tensor]
Renames = Sequence[tuple[re.Pattern[str], str]]

_RESNETS: Mapping[tuple[str, tuple[int, ...]], str] = {
    ("basic", (2, 2, 2, 2)): "resnet18",
    ("basic", (3, 4, 6, 3)): "resnet34",
    ("bottleneck", (3, 4, 6, 3)): "resnet50",
    ("bottleneck", (3, 4, 23, 3)): "resnet101",
    ("bottleneck", (3, 8, 36, 3)): "resnet152",
}
_RESNET_WIDTHS = {"basic": (64, 128, 256, 512), "bottleneck": (256, 512, 1024, 2048)}
_VITS = {
    (192, 12, 3): "tiny",
    (384, 12, 6): "small",
    (768, 12, 12): "base",
    (1024, 24, 16): "large",
    (1280, 32, 16): "huge",
}
_CONVNEXTS: Mapping[tuple[tuple[int, ...], int], str] = {
    ((3, 3, 9, 3), 96): "tiny",
    ((3, 3, 27, 3), 96): "small",
    ((3, 3, 27, 3), 128): "base",
    ((3, 3, 27, 3), 192): "large",
    ((3, 3, 27, 3), 256): "xlarge",
}
_CONVNEXTS_V2: Mapping[tuple[tuple[int, ...], int], str] = {
    ((2, 2, 6, 2), 40): "atto",
    ((2, 2, 6, 2), 48): "femto",
    ((2, 2, 6, 2), 64): "pico",
    ((2, 2, 8, 2), 80): "nano",
    ((3, 3, 9, 3), 96): "tiny",
    ((3, 3, 27, 3), 128): "base",
    ((3, 3, 27, 3), 192): "large",
    ((3, 3, 27, 3), 352): "huge",
}
_LARGEST_EPSILON = 1e-5  # in norms; that of the networks here is 1e-6 or this, and a smaller one makes no difference
_SWIN_STRIDE = 32  # pixels of the input for one of its last stage
_SWINS: Mapping[tuple[tuple[int, ...], int], str] = {
    ((2, 2, 6, 2), 96): "tiny",
    ((2, 2, 18, 2), 96): "small",
    ((2, 2, 18, 2), 128): "base",
    ((2, 2, 18, 2), 192): "large",
}


def _compile(*renames: tuple[str, str]) -> Renames:
    return [(re.compile(pattern), new) for pattern, new in renames]


_RESNET_NAMES = _compile(
    (r"^resnet\.embedder\.embedder\.convolution\.", "conv1."),
    (r"^resnet\.embedder\.embedder\.normalization\.", "bn1."),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.normalization\.", ".downsample.1."),
    (r"^classifier\.1\.", "fc."),
)
_RESNET_LAYER = re.compile(r"^resnet\.encoder\.stages\.(\d+)\.layers\.(\d+)\.(?:layer\.(\d+)\.(\w+)\.)?")
_VIT_NAMES = _compile(
    (r"^vit\.embeddings\.cls_token$", "cls_token"),
    (r"^vit\.embeddings\.position_embeddings$", "pos_embed"),
    (r"^vit\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^vit\.layernorm\.", "norm."),
    (r"^classifier\.", "head."),
    (r"^vit\.encoder\.layer\.", "blocks."),
    (r"\.attention\.attention\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
)
_SWIN_NAMES = _compile(
    (r"^swin\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^swin\.embeddings\.norm\.", "patch_embed.norm."),
    (r"^swin\.layernorm\.", "norm."),
    (r"^classifier\.", "head."),
    (r"^swin\.encoder\.", ""),
    (r"\.attention\.self\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
)
_CONVNEXT_NAMES = _compile(
    (r"^convnext(v2)?\.embeddings\.patch_embeddings\.", "downsample_layers.0.0."),
    (r"^convnext(v2)?\.embeddings\.layernorm\.", "downsample_layers.0.1."),
    (r"^convnext(v2)?\.encoder\.stages\.(\d+)\.downsampling_layer\.", r"downsample_layers.\2."),
    (r"^convnext(v2)?\.encoder\.stages\.(\d+)\.layers\.", r"stages.\2."),
    (r"^convnext(v2)?\.layernorm\.", "norm."),
    (r"^classifier\.", "head."),
    (r"\.layer_scale_parameter$", ".gamma"),
    (r"\.layernorm\.", ".norm."),
    (r"\.grn\.weight$", ".grn.gamma"),
    (r"\.grn\.bias$", ".grn.beta"),
)
_QUERY = re.compile(r"^(.*\.attn\.)query\.(weight|bias)$")


@dataclass(frozen=True, slots=True)
class HubNetwork:
    """A network of transformers that an architecture here computes.

    Attributes:
        arch: The architecture, as ``-m`` takes it.
        rename: Gives its tensors the names of that architecture, or of its authors.
    """

    arch: str
    rename: Callable[[Tensors], Tensors]


def find_hub_network(settings: Mapping[str, Any]) -> HubNetwork | None:
    """Find the architecture that computes what a ``config.json`` of transformers describes; None if none does.

    Args:
        settings: Its content.
    """
    match settings.get("model_type"):
        case "resnet":
            return _find_resnet(settings)
        case "vit":
            return _find_vit(settings)
        case "convnext" | "convnextv2":
            return _find_convnext(settings)
        case "swin":
            return _find_swin(settings)
        case _:
            return None


def explain_epsilon(settings: Mapping[str, Any]) -> str:
    """Why a network of transformers computes something else than the architecture here; empty if it does not."""
    epsilon = settings.get("layer_norm_eps")
    if not isinstance(epsilon, int | float) or epsilon <= _LARGEST_EPSILON:
        return ""
    return f"layer_norm_eps of {epsilon:g} is not supported, only up to {_LARGEST_EPSILON:g}"


def _find_resnet(settings: Mapping[str, Any]) -> HubNetwork | None:
    kind = settings.get("layer_type")
    name = _RESNETS.get((str(kind), _numbers(settings, "depths")))
    usual = _numbers(settings, "hidden_sizes") == _RESNET_WIDTHS.get(str(kind)) and settings.get("embedding_size") == 64
    same = settings.get("hidden_act") == "relu" and not any(
        settings.get(name) for name in ("downsample_in_bottleneck", "downsample_in_first_stage")
    )
    return HubNetwork(name, _rename_resnet) if name and usual and same else None


def _find_vit(settings: Mapping[str, Any]) -> HubNetwork | None:
    sizes = (settings.get("hidden_size"), settings.get("num_hidden_layers"), settings.get("num_attention_heads"))
    name, patch = _VITS.get(sizes), settings.get("patch_size")  # type: ignore[arg-type]  # of any type, in JSON
    usual = settings.get("intermediate_size") == 4 * (sizes[0] or 0) and settings.get("qkv_bias", True)
    if not name or not usual or settings.get("hidden_act") != "gelu":
        return None
    return HubNetwork(f"timm/vit_{name}_patch{patch}_224", lambda tensors: _join_qkv(_rename(tensors, _VIT_NAMES)))


def _find_convnext(settings: Mapping[str, Any]) -> HubNetwork | None:
    widths, version = _numbers(settings, "hidden_sizes"), settings["model_type"]
    known = _CONVNEXTS if version == "convnext" else _CONVNEXTS_V2
    name = known.get((_numbers(settings, "depths"), widths[0])) if widths else None
    usual = widths == tuple(widths[0] * 2**stage for stage in range(4)) if widths else False
    if not name or not usual or settings.get("hidden_act") != "gelu" or settings.get("patch_size") != 4:
        return None
    return HubNetwork(f"timm/{version}_{name}", _rename_convnext)


def _find_swin(settings: Mapping[str, Any]) -> HubNetwork | None:
    name = _SWINS.get((_numbers(settings, "depths"), settings.get("embed_dim")))  # type: ignore[arg-type]  # likewise
    size, window = settings.get("image_size"), settings.get("window_size")
    if not isinstance(size, int) or not isinstance(window, int) or size % (_SWIN_STRIDE * window):
        return None  # where windows do not fill the picture, transformers pads otherwise than timm
    usual = settings.get("patch_size") == 4 and settings.get("hidden_act") == "gelu"
    if not name or not usual or settings.get("use_absolute_embeddings") or not settings.get("qkv_bias", True):
        return None
    # its authors' names, which timm converts
    return HubNetwork(f"timm/swin_{name}_patch4_window7_224", lambda tensors: _join_qkv(_rename(tensors, _SWIN_NAMES)))


def _numbers(settings: Mapping[str, Any], name: str) -> tuple[int, ...]:
    value = settings.get(name)
    return tuple(value) if isinstance(value, list) and all(isinstance(number, int) for number in value) else ()


def _rename(tensors: Tensors, renames: Renames) -> Tensors:
    renamed = {}
    for name, value in tensors.items():
        for pattern, new in renames:
            name = pattern.sub(new, name)
        renamed[name] = value
    return renamed


def _rename_resnet(tensors: Tensors) -> Tensors:
    def layer(match: re.Match[str]) -> str:
        stage, block, place, kind = match.groups()
        start = f"layer{int(stage) + 1}.{block}."
        return start if place is None else f"{start}{'conv' if kind == 'convolution' else 'bn'}{int(place) + 1}."

    return {_RESNET_LAYER.sub(layer, name): value for name, value in _rename(tensors, _RESNET_NAMES).items()}


def _rename_convnext(tensors: Tensors) -> Tensors:
    renamed = _rename(tensors, _CONVNEXT_NAMES)
    return {name: value.flatten() if ".grn." in name else value for name, value in renamed.items()}


def _join_qkv(tensors: Tensors) -> Tensors:
    """Stack the projections to queries, keys and values, which timm has in one layer."""
    joined: Tensors = {}
    for name, value in tensors.items():
        if match := _QUERY.match(name):
            start, kind = match.groups()
            parts = [value, *(tensors[f"{start}{other}.{kind}"] for other in ("key", "value"))]
            joined[f"{start}qkv.{kind}"] = torch.cat(parts)
        elif ".attn.key." not in name and ".attn.value." not in name:
            joined[name] = value
    return joined
