"""Weights: found in a fixed order, checked, and read as data only.

The order is: the checkpoint named in the request, ``--weights-dir``, the local caches of torch and the
Hugging Face hub, a download. The driver does this once. Workers get the tensors from the driver as
safetensors bytes, so they need neither the files nor the internet, and nobody unpickles anything.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import re
import tempfile
import urllib.error
import urllib.request
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from pipeline.config import MemberRequest
from pipeline.errors import ModelError, StorageError, WeightsError
from pipeline.models.catalog import TRAINING_ONLY_KEYS, Architecture, Published, find
from pipeline.models.recipe import Recipe
from pipeline.storage import Storage, absolute_uri, join

_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})$")
_SUFFIXES = (".safetensors", ".pth")
_WRAPPERS = ("state_dict", "model", "model_state_dict")
_PREFIXES = ("module.", "_orig_mod.", "model.")
_PROBE_CLASSES = 1000
_METADATA_KEY = "module_versions"
_DENSENET_KEY = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$")

State = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class MemberSpec:
    """One member of an ensemble, resolved: everything but its tensors. Inert data.

    Attributes:
        alias: Name of its column.
        arch: Architecture.
        factor: Weight in the consensus, as asked for.
        num_classes: Size of its label space.
        recipe: Its preprocessing.
        weights_sha256: Hash of the file its tensors came from.
        weights_file: Name of that file.
    """

    alias: str
    arch: str
    factor: float
    num_classes: int
    recipe: Recipe
    weights_sha256: str
    weights_file: str


@dataclass(frozen=True, slots=True)
class ResolvedMember:
    """A member and its tensors, as safetensors bytes."""

    spec: MemberSpec
    blob: bytes


def resolve(request: MemberRequest, weights_dir: str | None, storage: Storage) -> ResolvedMember:
    """Find, check and load the weights of one member.

    Raises:
        ModelError: The architecture or the name of the weights is unknown.
        WeightsError: The file is missing, damaged, refused, or does not fit.
    """
    architecture = find(request.arch)
    wanted = architecture.choose(request.weights)
    uri, data = _find_file(request, architecture, wanted, weights_dir, storage)
    file_name = PurePosixPath(uri).name
    digest = hashlib.sha256(data).hexdigest()
    _check_hash(file_name, uri, digest)
    state = _read_state(uri, data)
    num_classes = _num_classes(architecture, state, uri)
    network = _load(architecture, num_classes, state, uri)
    published = wanted if request.weights else architecture.matching(file_name) or wanted
    spec = MemberSpec(
        alias=request.alias,
        arch=request.arch,
        factor=request.factor,
        num_classes=num_classes,
        recipe=published.recipe,
        weights_sha256=digest,
        weights_file=file_name,
    )
    return ResolvedMember(spec, _to_blob(network, state))


def check_one_label_space(members: list[MemberSpec]) -> int:
    """The number of classes that all members share.

    Raises:
        ModelError: They do not share one; the message says which has how many.
    """
    if len({member.num_classes for member in members}) > 1:
        counts = ", ".join(f"{member.alias} has {member.num_classes}" for member in members)
        raise ModelError(f"the members do not share one set of classes: {counts}")
    return members[0].num_classes


def network_from_blob(spec: MemberSpec, blob: bytes) -> nn.Module:
    """Build a member's network from the bytes that :func:`resolve` made."""
    with tempfile.TemporaryDirectory(prefix="shardlabel-") as folder:
        # safe_open reads metadata from files only
        path = Path(folder) / "weights.safetensors"
        path.write_bytes(blob)
        state = _read_safetensors(str(path))
    return _load(find(spec.arch), spec.num_classes, state, spec.weights_file)


# -- finding the file ---------------------------------------------------------------------------------


def _find_file(
    request: MemberRequest, architecture: Architecture, wanted: Published, weights_dir: str | None, storage: Storage
) -> tuple[str, bytes]:
    ways = _three_ways(request, wanted)
    if request.checkpoint is not None:
        return _read(absolute_uri(request.checkpoint), storage, ways)
    if weights_dir is not None:
        folder = absolute_uri(weights_dir)
        if name := _pick(architecture, wanted, _names_in(folder, storage), weights_dir):
            return _read(join(folder, name), storage, ways)
    for path in _cached(wanted):
        if path.is_file():
            return _read(str(path), storage, ways)
    path = _download(wanted, ways)
    return _read(str(path), storage, ways)


def _three_ways(request: MemberRequest, wanted: Published) -> str:
    return (
        f"supply it as {request.arch}=PATH, or as {wanted.file_name} (or {request.arch.rpartition('/')[2]}.safetensors) "
        f"in --weights-dir, or let a machine with internet download it"
    )


def _read(uri: str, storage: Storage, ways: str) -> tuple[str, bytes]:
    try:
        return uri, storage.read(uri)
    except StorageError as error:
        raise WeightsError(f"{error}; {ways}") from error


def _names_in(folder: str, storage: Storage) -> list[str]:
    try:
        entries = list(storage.list(folder.rstrip("/") + "/"))
    except StorageError as error:
        raise WeightsError(f"--weights-dir {error}") from error
    start = len(folder.rstrip("/")) + 1
    return [entry.uri[start:] for entry in entries if "/" not in entry.uri[start:]]


def _pick(architecture: Architecture, wanted: Published, names: list[str], weights_dir: str) -> str | None:
    """The file of a weights directory that belongs to an architecture."""
    arch = architecture.short_name
    for exact in (wanted.file_name, *(arch + suffix for suffix in _SUFFIXES)):
        if exact in names:
            return exact
    for suffix in _SUFFIXES:
        found = [
            name
            for name in names
            if name.startswith(f"{arch}-") and name.endswith(suffix) and architecture.matching(name) in {None, wanted}
        ]
        if len(found) > 1:
            listed = ", ".join(sorted(found))
            raise WeightsError(f"--weights-dir {weights_dir}: several files fit {architecture.name}: {listed}; name one with =")
        if found:
            return found[0]
    return None


def _cached(wanted: Published) -> list[Path]:
    """Where torch and the Hugging Face hub keep what they downloaded."""
    paths = [Path(torch.hub.get_dir()) / "checkpoints" / wanted.file_name]
    if wanted.hub_id:
        from huggingface_hub import try_to_load_from_cache

        for name in ("model.safetensors", "pytorch_model.bin"):
            cached = try_to_load_from_cache(wanted.hub_id, name)
            if isinstance(cached, str):
                paths.append(Path(cached))
    return paths


def _download(wanted: Published, ways: str) -> Path:
    """Fetch published weights into torch's cache; a file appears there whole or not at all."""
    if wanted.url is None:
        return _download_from_hub(wanted, ways)
    target = Path(torch.hub.get_dir()) / "checkpoints" / wanted.file_name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(wanted.url, timeout=30) as response:  # noqa: S310 - an https URL of the catalogue
            handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".tmp-")
            try:
                with os.fdopen(handle, "wb") as file:
                    while piece := response.read(1 << 20):
                        file.write(piece)
                os.replace(temporary, target)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise WeightsError(f"{wanted.file_name} is not here and could not be downloaded ({reason}); {ways}") from error
    return target


def _download_from_hub(wanted: Published, ways: str) -> Path:
    if wanted.hub_id is None:
        raise WeightsError(f"nobody published weights under the name {wanted.file_name}; {ways}")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(wanted.hub_id, "model.safetensors"))
    except Exception as error:  # the hub client's errors are of a dozen families
        raise WeightsError(f"{wanted.hub_id} could not be downloaded ({type(error).__name__}); {ways}") from error


def _check_hash(file_name: str, uri: str, digest: str) -> None:
    match = _HASH_IN_NAME.search(PurePosixPath(file_name).stem)
    if match and not digest.startswith(match.group(1)):
        raise WeightsError(
            f"{uri}: its name promises a sha256 that starts with {match.group(1)}, but it is {digest[:8]}...; "
            "the file is damaged or has the wrong name"
        )


# -- reading tensors ----------------------------------------------------------------------------------


class _VersionedState(OrderedDict[str, torch.Tensor]):
    """A state dict with the module versions that some architectures look at when loading."""

    _metadata: dict[str, dict[str, Any]]


def _read_state(uri: str, data: bytes) -> State:
    """Tensors of a checkpoint, unwrapped and with plain names.

    Raises:
        WeightsError: It is damaged, or a pickle that carries more than data.
    """
    try:
        if uri.endswith(".safetensors"):
            return _plain(uri, safetensors.torch.load(data), None)
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" in str(error) and "GLOBAL" in str(error):
            raise WeightsError(f"{uri}: refused, because it is a pickle that carries code; save the state dict alone") from error
        raise WeightsError(f"{uri}: damaged, or no checkpoint") from error
    except Exception as error:  # torch's and safetensors' readers raise RuntimeError, ValueError, EOFError, KeyError, ...
        raise WeightsError(f"{uri}: damaged, or no checkpoint ({type(error).__name__})") from error
    if not isinstance(loaded, dict):
        raise WeightsError(f"{uri}: holds a {type(loaded).__name__}, not a state dict")
    return _plain(uri, loaded, getattr(loaded, "_metadata", None))


def _plain(uri: str, loaded: Mapping[str, Any], metadata: dict[str, Any] | None) -> State:
    for wrapper in _WRAPPERS:
        if isinstance(inner := loaded.get(wrapper), dict):
            loaded, metadata = inner, getattr(inner, "_metadata", None)
            break
    tensors = {key: value for key, value in loaded.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise WeightsError(f"{uri}: holds no tensors")
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
            metadata = None
    state = _VersionedState(
        (_DENSENET_KEY.sub(r"\1\2", key), value.float() if value.is_floating_point() else value)
        for key, value in tensors.items()
        if not TRAINING_ONLY_KEYS.match(key)
    )
    if metadata:
        state._metadata = metadata
    return state


def _read_safetensors(path: str) -> State:
    with safetensors.safe_open(path, framework="pt") as file:
        state = _VersionedState((key, file.get_tensor(key)) for key in file.keys())  # noqa: SIM118 - not a mapping
        state._metadata = json.loads((file.metadata() or {}).get(_METADATA_KEY, "{}"))
    return state


def _to_blob(network: nn.Module, state: State) -> bytes:
    versions = getattr(state, "_metadata", None) or getattr(network.state_dict(), "_metadata", {})
    tensors = {key: value.detach().contiguous().clone() for key, value in state.items()}
    return safetensors.torch.save(tensors, metadata={_METADATA_KEY: json.dumps(versions)})


# -- fitting tensors to a network ---------------------------------------------------------------------


def _empty(architecture: Architecture, num_classes: int) -> nn.Module:
    with torch.device("meta"):
        return architecture.build(num_classes)


def _num_classes(architecture: Architecture, state: State, uri: str) -> int:
    """Size of the classifier's head, read from the checkpoint."""
    expected = _empty(architecture, _PROBE_CLASSES).state_dict()
    other = _empty(architecture, _PROBE_CLASSES + 1).state_dict()
    heads = [key for key in expected if expected[key].shape != other[key].shape]
    sizes = {state[key].shape[0] for key in heads if key in state and state[key].ndim == expected[key].ndim}
    if len(sizes) != 1:
        raise WeightsError(f"{uri}: does not fit {architecture.name}: no classifier head of that architecture in it")
    return int(sizes.pop())


def _load(architecture: Architecture, num_classes: int, state: State, uri: str) -> nn.Module:
    """A network that holds the given tensors.

    Raises:
        WeightsError: Names or shapes differ.
    """
    network = _empty(architecture, num_classes)
    versions = getattr(network.state_dict(), "_metadata", {})
    if not getattr(state, "_metadata", None):
        state = _VersionedState(state)
        state._metadata = versions
    try:
        network.load_state_dict(state, assign=True)
        if any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
            network = architecture.build(num_classes)  # some buffers are computed, not stored
            network.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        detail = lines[1] if len(lines) > 1 else lines[0]
        raise WeightsError(f"{uri}: does not fit {architecture.name}: {detail[:200]}") from error
    except ValueError as error:
        raise WeightsError(f"{uri}: does not fit {architecture.name}: {error}") from error
    return network.eval().requires_grad_(False)


__all__ = ["MemberSpec", "ModelError", "ResolvedMember", "check_one_label_space", "network_from_blob", "resolve"]
