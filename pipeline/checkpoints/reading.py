"""Checkpoints: read as data only, from all common formats.

Only tensors are built. Objects of any other class, arguments, settings, numpy numbers, paths, whole networks, become
inert data (:mod:`pipeline.checkpoints.pickles`): no class is imported, no function called.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
import torch

from pipeline.checkpoints.branches import as_dict
from pipeline.checkpoints.containers import TorchScriptError, load_torch_file
from pipeline.checkpoints.kinds import explain_bytes, explain_object
from pipeline.checkpoints.pickles import CodeInPickleError, Inert
from pipeline.errors import WeightsError


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a file of weights holds.

    Attributes:
        uri: Where it came from.
        tree: Its content: tensors, or dicts of them, by name. Objects of other classes are ``pickles.Inert``.
        metadata: What safetensors files say of themselves.
    """

    uri: str
    tree: Mapping[str, Any]
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_checkpoint(uri: str, data: bytes) -> Checkpoint:
    """Read a file of weights.

    Args:
        uri: Where it came from; ``.safetensors`` is read as that, all others as files of ``torch.save``.
        data: Its bytes. Tensors may be views of them: neither is changed afterwards.

    Raises:
        WeightsError: It is damaged, needs code to be read, or holds nothing by name.
    """
    if what := explain_bytes(uri, data):
        raise WeightsError(f"{uri}: is {what}")
    if uri.endswith(".safetensors"):
        return Checkpoint(uri, _load_safetensors(uri, data), _safetensors_metadata(data))
    return Checkpoint(uri, _load_pickle(uri, data))


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


def _load_pickle(uri: str, data: bytes) -> Mapping[str, Any]:
    try:
        loaded = load_torch_file(data)
        tree = as_dict(loaded)
    except CodeInPickleError as error:
        raise WeightsError(
            f"{uri}: refused, because it is a pickle that carries code ({error}); save the state dict alone"
        ) from error
    except TorchScriptError as error:
        raise WeightsError(f"{uri}: refused: TorchScript carries code; save its state dict alone") from error
    except (ValueError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile, zipfile.LargeZipFile, OSError) as error:
        raise WeightsError(f"{uri}: damaged, or no checkpoint ({type(error).__name__})") from error
    if tree is not None:
        return tree
    if isinstance(loaded, Inert):
        if what := explain_object(loaded):
            raise WeightsError(f"{uri}: is {what}")
        raise WeightsError(
            f"{uri}: refused, because it is a pickle that carries code ({loaded.name}); save the state dict alone"
        )
    raise WeightsError(f"{uri}: holds a {type(loaded).__name__}, not a state dict")
