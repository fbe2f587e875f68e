"""Checkpoints: read as data only, from all common formats."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import safetensors.torch
import torch

from pipeline.checkpoints.branches import as_dict, branches, is_network
from pipeline.checkpoints.containers import TorchScriptError, load_torch_file
from pipeline.checkpoints.kinds import explain_archive, explain_bytes, explain_object
from pipeline.checkpoints.pickles import CodeInPickleError, Inert, MalformedPickleError
from pipeline.errors import WeightsError

_SAFETENSORS_HEADER = b'{"'  # the JSON behind its length
_DAMAGES = (MalformedPickleError, zipfile.BadZipFile, ValueError, KeyError, TypeError, EOFError, NotImplementedError)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a file of weights holds.

    Attributes:
        uri: Where it came from.
        tree: Its content: tensors, or dicts of them, by name.
        metadata: What safetensors files say of themselves.
    """

    uri: str
    tree: Mapping[Any, Any]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def renamed(self, rename: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Checkpoint:
        """The same with other names for the tensors at its top level.

        Raises:
            WeightsError: It lacks tensors that belong together.
        """
        tensors = {key: value for key, value in self.tree.items() if isinstance(value, torch.Tensor)}
        try:
            return replace(self, tree=rename(tensors))
        except KeyError as error:
            raise WeightsError(f"{self.uri}: {error.args[0]} is missing") from error


def read_checkpoint(uri: str, data: bytes) -> Checkpoint:
    """Read a file of weights. No code in it is run: of a pickle only tensors are built, all else stays data.

    Args:
        uri: Where it came from; what is called ``.safetensors``, or begins as one, is read as that, all others as what
            ``torch.save`` writes.
        data: Its bytes, which the tensors share.

    Raises:
        WeightsError: It is damaged, of another kind, holds no tensors by name, or a network that only code can build.
    """
    if uri.endswith(".safetensors") or data[8:10] == _SAFETENSORS_HEADER:
        return Checkpoint(uri, _load_safetensors(uri, data), _safetensors_metadata(data))
    if what := explain_bytes(uri, data):
        raise WeightsError(f"{uri}: {what}")
    loaded = _load_pickle(uri, data)
    tree = as_dict(loaded)
    if tree is None:
        if isinstance(loaded, Inert):
            what = explain_object(loaded) or _explain_code(loaded)
            raise WeightsError(f"{uri}: {what}")
        raise WeightsError(f"{uri}: holds a {type(loaded).__name__}, not a state dict")
    return Checkpoint(uri, tree)


def networks_in(tree: Mapping[Any, Any]) -> list[str]:
    """Classes of the whole networks in a checkpoint, by the paths where they lie: their tensors are not looked for."""
    values = (value for _, branch in branches(tree) for value in branch.values())
    return [str(value.name) for value in values if isinstance(value, Inert) and is_network(value)]


def _explain_code(value: Inert) -> str:
    return f"refused, because it is a pickle that carries code ({value.name}); save the state dict alone"


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
        loaded: object = load_torch_file(data)
    except TorchScriptError as error:
        raise WeightsError(f"{uri}: refused: TorchScript carries code; save its state dict alone") from error
    except CodeInPickleError as error:
        what = f"a pickle that carries code ({error})"
        raise WeightsError(f"{uri}: refused, because it is {what}; save the state dict alone") from error
    except _DAMAGES as error:
        if kind := explain_archive(_names_in_zip(data)):
            raise WeightsError(f"{uri}: {kind}") from error
        raise WeightsError(f"{uri}: damaged, or no checkpoint ({type(error).__name__})") from error
    return loaded


def _names_in_zip(data: bytes) -> list[str]:
    """Names of the files in a zip file; none of what is no zip file."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return []
