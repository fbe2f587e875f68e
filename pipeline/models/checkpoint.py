"""Checkpoints: read as data only, from all common formats."""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch

from pipeline.errors import WeightsError
from pipeline.models.catalog import TRAINING_ONLY_KEYS

_WRAPPERS = ("state_dict", "model", "model_state_dict")
_PREFIXES = ("module.", "_orig_mod.", "model.")
# torchvision's published DenseNets have tensor names that its code no longer uses.
_DENSENET_KEY = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$")
_NAMED_CODE = re.compile(r"GLOBAL (\S+)")
_PICKLE_MAGIC = b"\x80"


class State(OrderedDict[str, torch.Tensor]):
    """A state dict: tensors by name, floating point ones in float32, with the versions of their modules.

    Attributes:
        _metadata: Versions by module, for ``load_state_dict``; empty if the file has none.
    """

    _metadata: dict[str, dict[str, Any]]


def read_state(uri: str, data: bytes) -> State:
    """Read the tensors of a checkpoint: unwrapped, with plain names and without training-only parts.

    Args:
        uri: Where it came from; ``.safetensors`` is read as that, all others by ``torch.load``.
        data: Its bytes.

    Raises:
        WeightsError: It is damaged, contains code, or its tensors cannot be weights.
    """
    loaded = _load_safetensors(uri, data) if uri.endswith(".safetensors") else _load_pickle(uri, data)
    if not isinstance(loaded, dict):
        raise WeightsError(f"{uri}: holds a {type(loaded).__name__}, not a state dict")
    for wrapper in _WRAPPERS:
        if isinstance(inner := loaded.get(wrapper), dict):
            loaded = inner
            break
    tensors = {key: value for key, value in loaded.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
    if not tensors:
        raise WeightsError(f"{uri}: holds no tensors")
    versions = _versions(getattr(loaded, "_metadata", None))
    while prefix := next((prefix for prefix in _PREFIXES if all(key.startswith(prefix) for key in tensors)), None):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
        versions = {key.removeprefix(prefix) if key + "." != prefix else "": value for key, value in versions.items()}
    state = State()
    for key, value in tensors.items():
        if TRAINING_ONLY_KEYS.match(key):
            continue
        if odd := _oddity(value):
            raise WeightsError(f"{uri}: {key} is {odd}, and weights are plain numbers; save the network's state dict")
        if value.is_floating_point():
            value = value.float()
            if value.isnan().any():
                raise WeightsError(f"{uri}: {key} holds NaN, so nothing can be classified with it")
        state[_DENSENET_KEY.sub(r"\1\2", key)] = value
    state._metadata = versions
    return state


def _oddity(value: torch.Tensor) -> str | None:
    """What kind of tensor it is, if of one that no network here computes with."""
    kinds = {
        "complex": value.is_complex(),
        "quantized": value.is_quantized,
        "nested": value.is_nested,
        "without values (on the meta device)": value.is_meta,
        "sparse": value.layout != torch.strided,
    }
    return next((kind for kind, applies in kinds.items() if applies), None)


def _load_safetensors(uri: str, data: bytes) -> dict[str, torch.Tensor]:
    try:
        tensors: dict[str, torch.Tensor] = safetensors.torch.load(data)
    except Exception as error:  # SafetensorError, and whatever torch makes of odd shapes
        raise WeightsError(f"{uri}: damaged, or no safetensors file") from error
    return tensors


def _load_pickle(uri: str, data: bytes) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of is refused below
            loaded: object = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if named := _NAMED_CODE.search(str(error)):
            what = f"a pickle that carries code ({named.group(1)})"
        elif data.startswith(_PICKLE_MAGIC):
            what = "a pickle that torch.save did not write, which may carry code"
        else:
            raise WeightsError(f"{uri}: damaged, or no checkpoint") from error
        raise WeightsError(f"{uri}: refused, because it is {what}; save the state dict alone") from error
    except Exception as error:  # RuntimeError, ValueError, EOFError, KeyError, UnicodeDecodeError, ...
        if "TorchScript" in str(error):
            raise WeightsError(f"{uri}: refused: TorchScript carries code; save its state dict alone") from error
        raise WeightsError(f"{uri}: damaged, or no checkpoint ({type(error).__name__})") from error
    return loaded


def _versions(metadata: object) -> dict[str, dict[str, Any]]:
    """Module versions of a state dict, without anything else in its metadata."""
    if not isinstance(metadata, Mapping):
        return {}
    return {
        key: {"version": entry["version"]}
        for key, entry in metadata.items()
        if isinstance(key, str) and isinstance(entry, Mapping) and isinstance(entry.get("version"), int)
    }
