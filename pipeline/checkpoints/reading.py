"""Checkpoints: read as data only, from all common formats."""

from __future__ import annotations

import io
import json
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
import torch

from pipeline.errors import WeightsError

_NAMED_CODE = re.compile(r"GLOBAL (\S+)")
_PICKLE_MAGIC = b"\x80"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a file of weights holds.

    Attributes:
        uri: Where it came from.
        tree: Its content: tensors, or dicts of them, by name.
        metadata: What safetensors files say of themselves.
    """

    uri: str
    tree: Mapping[str, Any]
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_checkpoint(uri: str, data: bytes) -> Checkpoint:
    """Read a file of weights.

    Args:
        uri: Where it came from; ``.safetensors`` is read as that, all others by ``torch.load``.
        data: Its bytes.

    Raises:
        WeightsError: It is damaged, contains code, or holds no tensors by name.
    """
    if uri.endswith(".safetensors"):
        return Checkpoint(uri, _load_safetensors(uri, data), _safetensors_metadata(data))
    loaded = _load_pickle(uri, data)
    if not isinstance(loaded, dict):
        raise WeightsError(f"{uri}: holds a {type(loaded).__name__}, not a state dict")
    return Checkpoint(uri, loaded)


def _safetensors_metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file, which the library reads from paths only: in the JSON after 8 bytes."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata: dict[str, str] = header.get("__metadata__") or {}
    return metadata


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
