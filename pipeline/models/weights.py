"""Weights of members: from a request to checked tensors, and from tensors to a network.

The driver searches for files in the requested checkpoint, ``--weights-dir``, the local caches of torch and the
Hugging Face hub, and the internet, in this order (:mod:`pipeline.models.locate`). Workers get the tensors from the
driver as safetensors bytes. So they need neither the files nor the internet, and unpickle nothing
(:mod:`pipeline.models.checkpoint`).
"""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from pipeline.config.members import MemberRequest
from pipeline.errors import ModelError, WeightsError
from pipeline.models.catalog import Architecture, find
from pipeline.models.checkpoint import State, read_state
from pipeline.models.download import ProgressCallback, ignore_progress
from pipeline.models.locate import Locator, WeightsFile
from pipeline.models.preprocessing import Recipe
from pipeline.storage import Storage

_PROBE_CLASSES = 1000
_UNUSUAL_CLASSES = 1009  # a prime number that is no width of any layer
_METADATA_KEY = "module_versions"
# In its first release torchvision's MnasNet had a first layer of this width for all multipliers.
_MNASNET_V1_STEM = 32


@dataclass(frozen=True, slots=True)
class MemberSpec:
    """One member of an ensemble, without its tensors. Plain data.

    Attributes:
        alias: Name of its column.
        arch: Name of its architecture.
        factor: Weight in the consensus, as requested.
        num_classes: Number of its classes.
        recipe: Its preprocessing.
        weights_sha256: Hash of the file of its weights, hex.
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


def resolve(
    request: MemberRequest, weights_dir: str | None, storage: Storage, watch: ProgressCallback = ignore_progress
) -> ResolvedMember:
    """Find, check and load the weights of one member.

    Args:
        request: The requested member.
        weights_dir: ``--weights-dir``, or None.
        storage: Reads files and S3.
        watch: Called with the progress of a download.

    Raises:
        ModelError: The architecture or the name of the weights is unknown.
        WeightsError: The file is missing, damaged, refused, or does not fit.
    """
    return resolve_with_file(Locator(weights_dir, storage, watch), request)[0]


def resolve_with_file(locator: Locator, request: MemberRequest) -> tuple[ResolvedMember, WeightsFile]:
    """Do the same, and return the file of the weights as well."""
    architecture = find(request.arch)
    wanted = architecture.choose(request.weights)
    file = locator.find(request, architecture, wanted)
    published = wanted if request.weights else architecture.matching(file.name) or wanted
    num_classes, blob = check_weights(architecture, published.recipe.geometry.crop_px, file)
    spec = MemberSpec(
        alias=request.alias,
        arch=request.arch,
        factor=request.factor,
        num_classes=num_classes,
        recipe=published.recipe,
        weights_sha256=file.sha256,
        weights_file=file.name,
    )
    return ResolvedMember(spec, blob), file


def check_weights(architecture: Architecture, input_px: int, file: WeightsFile) -> tuple[int, bytes]:
    """Read a file of weights, and check that they fit.

    Returns:
        Their number of classes, and the tensors as safetensors bytes.

    Raises:
        WeightsError: The file is damaged, refused, or does not fit.
    """
    state = _convert_names(architecture, input_px, read_state(file.uri, file.data))
    num_classes = _num_classes(architecture, input_px, state, file.uri)
    return num_classes, _to_blob(_load(architecture, num_classes, input_px, state, file.uri))


def check_one_label_space(members: list[MemberSpec]) -> int:
    """Check that all members have the same number of classes, and return it.

    Raises:
        ModelError: The numbers differ; the message lists them.
    """
    if len({member.num_classes for member in members}) > 1:
        counts = ", ".join(f"{member.alias} has {member.num_classes}" for member in members)
        raise ModelError(f"the members do not share one set of classes: {counts}")
    return members[0].num_classes


def build_network(spec: MemberSpec, blob: bytes) -> nn.Module:
    """Build a member's network from the safetensors bytes of :func:`resolve`."""
    return _load(find(spec.arch), spec.num_classes, spec.recipe.geometry.crop_px, _from_blob(blob), spec.weights_file)


def _to_blob(network: nn.Module) -> bytes:
    state = network.state_dict()
    tensors = {key: value.detach().contiguous().clone() for key, value in state.items()}
    versions = json.dumps(getattr(state, "_metadata", {}))
    blob: bytes = safetensors.torch.save(tensors, metadata={_METADATA_KEY: versions})
    return blob


def _from_blob(blob: bytes) -> State:
    # safetensors reads metadata from files only; they are in the JSON header, after its length of 8 bytes
    header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    state = State(safetensors.torch.load(blob))
    state._metadata = json.loads(header["__metadata__"][_METADATA_KEY])
    return state


class _NoRandomValues(TorchFunctionMode):
    """Leaves parameters without data as they are; for their ``normal_`` torch would load its compiler, for seconds."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - what a function of torch returns
        named = kwargs or {}
        if func is torch.Tensor.normal_ or getattr(func, "__module__", "") == nn.init.__name__:
            return args[0] if args else named["tensor"]
        return func(*args, **named)


def empty_network(architecture: Architecture, num_classes: int, input_px: int) -> nn.Module:
    """Build a network on the meta device, or, if its constructor computes with tensors, on the CPU."""
    try:
        with _NoRandomValues(), torch.device("meta"):
            return architecture.build(num_classes, input_px)
    except (NotImplementedError, RuntimeError):  # torchvision's RegNets, for example
        return architecture.build(num_classes, input_px)


def _convert_names(architecture: Architecture, input_px: int, state: State) -> State:
    """Convert a checkpoint of the authors' own code to timm's tensor names, if timm has a converter."""
    if (translate := architecture.checkpoint_converter) is None:
        return state
    network = empty_network(architecture, _PROBE_CLASSES, input_px)
    if state.keys() == network.state_dict().keys():
        return state
    try:
        translated: dict[str, torch.Tensor] = translate(dict(state), network)
    except Exception:  # noqa: BLE001 - timm's converters fail in many ways on other files
        return state  # the error comes when it is loaded
    converted = State(translated)
    converted._metadata = state._metadata
    return converted


def _num_classes(architecture: Architecture, input_px: int, state: State, uri: str) -> int:
    """Read the number of classes from the checkpoint's classifier head."""
    heads = _heads(architecture, input_px)
    sizes = {state[key].shape[0] for key, ndim in heads.items() if key in state and state[key].ndim == ndim}
    if len(sizes) != 1:
        raise WeightsError(f"{uri}: does not fit {architecture.name}: no classifier head of that architecture in it")
    return int(sizes.pop())


@functools.cache
def _heads(architecture: Architecture, input_px: int) -> Mapping[str, int]:
    """Numbers of dimensions of the tensors that depend on the number of classes, by name."""
    state = empty_network(architecture, _UNUSUAL_CLASSES, input_px).state_dict()
    return {key: tensor.ndim for key, tensor in state.items() if _UNUSUAL_CLASSES in tensor.shape}


def _load(architecture: Architecture, num_classes: int, input_px: int, state: State, uri: str) -> nn.Module:
    """Build a network, and load tensors into it.

    Raises:
        WeightsError: Names or shapes differ.
    """
    network = empty_network(architecture, num_classes, input_px)
    _guess_version(network, state)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="A new version of MNASNet")  # the old one works as well
            network.load_state_dict(state, assign=True)
        if any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
            network = architecture.build(
                num_classes, input_px
            )  # some buffers are computed by the constructor, not stored
            network.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        detail = lines[1] if len(lines) > 1 else lines[0]
        raise WeightsError(f"{uri}: does not fit {architecture.name}: {detail[:200]}") from error
    except ValueError as error:
        raise WeightsError(f"{uri}: does not fit {architecture.name}: {error}") from error
    return network.eval().requires_grad_(False)


def _guess_version(network: nn.Module, state: State) -> None:
    """Add the version that MnasNet requires, if the file (safetensors, for example) has lost it.

    Other networks treat tensors without versions as old ones. That is right for the published DenseNets, which are
    older than the batch counters of batch norms.
    """
    current = getattr(network.state_dict(), "_metadata", {}).get("", {}).get("version")
    if current is None or "version" in state._metadata.get("", {}):
        return
    stem = state.get("layers.0.weight")
    is_old = stem is not None and stem.shape[0] == _MNASNET_V1_STEM
    state._metadata = {**state._metadata, "": {"version": 1 if is_old else current}}
