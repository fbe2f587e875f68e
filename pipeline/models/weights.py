"""Weights of members: from a request to tensors that fit, and from tensors to a network.

Files are looked for in the checkpoint named in the request, ``--weights-dir``, the local caches of torch
and the Hugging Face hub, and the internet, in this order (:mod:`pipeline.models.locate`). The driver does
this once. Workers get the tensors from the driver as safetensors bytes, so they need neither the files
nor the internet, and nobody unpickles anything (:mod:`pipeline.models.checkpoint`).
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass

import safetensors.torch
import torch
from torch import nn

from pipeline.config.members import MemberRequest
from pipeline.errors import ModelError, WeightsError
from pipeline.models.catalog import Architecture, find
from pipeline.models.checkpoint import State, read_state
from pipeline.models.download import Watch, ignore
from pipeline.models.locate import Locator, WeightsFile
from pipeline.models.recipe import Recipe
from pipeline.storage import Storage

_PROBE_CLASSES = 1000
_METADATA_KEY = "module_versions"
# The first release of torchvision's MnasNet had a first layer of this width, whatever the multiplier.
_MNASNET_V1_STEM = 32


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


def resolve(request: MemberRequest, weights_dir: str | None, storage: Storage, watch: Watch = ignore) -> ResolvedMember:
    """Find, check and load the weights of one member.

    Args:
        request: What was asked for.
        weights_dir: ``--weights-dir``, or None.
        storage: Reads files and S3.
        watch: Told how far a download is.

    Raises:
        ModelError: The architecture or the name of the weights is unknown.
        WeightsError: The file is missing, damaged, refused, or does not fit.
    """
    return resolve_with(Locator(weights_dir, storage, watch), request)[0]


def resolve_with(locator: Locator, request: MemberRequest) -> tuple[ResolvedMember, WeightsFile]:
    """The same, with the file that the weights came from."""
    architecture = find(request.arch)
    wanted = architecture.choose(request.weights)
    file = locator.find(request, architecture, wanted)
    published = wanted if request.weights else architecture.matching(file.name) or wanted
    state = read_state(file.uri, file.data)
    input_px = published.recipe.geometry.crop_px
    state = _converted(architecture, input_px, state)
    num_classes = _num_classes(architecture, input_px, state, file.uri)
    network = _load(architecture, num_classes, input_px, state, file.uri)
    spec = MemberSpec(
        alias=request.alias,
        arch=request.arch,
        factor=request.factor,
        num_classes=num_classes,
        recipe=published.recipe,
        weights_sha256=file.sha256,
        weights_file=file.name,
    )
    return ResolvedMember(spec, _to_blob(network)), file


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
    return _load(find(spec.arch), spec.num_classes, spec.recipe.geometry.crop_px, _from_blob(blob), spec.weights_file)


def _to_blob(network: nn.Module) -> bytes:
    state = network.state_dict()
    tensors = {key: value.detach().contiguous().clone() for key, value in state.items()}
    versions = json.dumps(getattr(state, "_metadata", {}))
    blob: bytes = safetensors.torch.save(tensors, metadata={_METADATA_KEY: versions})
    return blob


def _from_blob(blob: bytes) -> State:
    # safetensors hands out the metadata of files only; they are in the JSON header, behind its 8 bytes of length
    header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    state = State(safetensors.torch.load(blob))
    state._metadata = json.loads(header["__metadata__"][_METADATA_KEY])
    return state


def empty_network(architecture: Architecture, num_classes: int, input_px: int) -> nn.Module:
    """A network whose tensors have shapes only, or, where its code computes with tensors to build it, random ones."""
    try:
        with torch.device("meta"):
            return architecture.build(num_classes, input_px)
    except (NotImplementedError, RuntimeError):  # torchvision's RegNets, for example
        return architecture.build(num_classes, input_px)


def _converted(architecture: Architecture, input_px: int, state: State) -> State:
    """Tensors under timm's names, where they have those of their authors' own code and timm can translate them."""
    if (translate := architecture.translator) is None:
        return state
    network = empty_network(architecture, _PROBE_CLASSES, input_px)
    if state.keys() == network.state_dict().keys():
        return state
    try:
        translated: dict[str, torch.Tensor] = translate(dict(state), network)
    except Exception:  # noqa: BLE001 - it is made for its own files and fails in its own ways on others
        return state  # what does not fit is named when it is loaded
    converted = State(translated)
    converted._metadata = state._metadata
    return converted


def _num_classes(architecture: Architecture, input_px: int, state: State, uri: str) -> int:
    """Size of the classifier's head, read from the checkpoint."""
    expected = empty_network(architecture, _PROBE_CLASSES, input_px).state_dict()
    other = empty_network(architecture, _PROBE_CLASSES + 1, input_px).state_dict()
    heads = [key for key in expected if key not in other or expected[key].shape != other[key].shape]
    sizes = {state[key].shape[0] for key in heads if key in state and state[key].ndim == expected[key].ndim}
    if len(sizes) != 1:
        raise WeightsError(f"{uri}: does not fit {architecture.name}: no classifier head of that architecture in it")
    return int(sizes.pop())


def _load(architecture: Architecture, num_classes: int, input_px: int, state: State, uri: str) -> nn.Module:
    """A network that holds the given tensors.

    Raises:
        WeightsError: Names or shapes differ.
    """
    network = empty_network(architecture, num_classes, input_px)
    _guess_version(network, state)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="A new version of MNASNet")  # the old one is as good
            network.load_state_dict(state, assign=True)
        if any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
            network = architecture.build(num_classes, input_px)  # some buffers are computed, not stored
            network.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        detail = lines[1] if len(lines) > 1 else lines[0]
        raise WeightsError(f"{uri}: does not fit {architecture.name}: {detail[:200]}") from error
    except ValueError as error:
        raise WeightsError(f"{uri}: does not fit {architecture.name}: {error}") from error
    return network.eval().requires_grad_(False)


def _guess_version(network: nn.Module, state: State) -> None:
    """Give tensors of a MnasNet the version that it insists on, where the file (safetensors, say) lost it.

    Everything else takes tensors without versions for old ones, which is right: among those are the published
    DenseNets, from before batch norms counted their batches.
    """
    current = getattr(network.state_dict(), "_metadata", {}).get("", {}).get("version")
    if current is None or "version" in state._metadata.get("", {}):
        return
    stem = state.get("layers.0.weight")
    is_old = stem is not None and stem.shape[0] == _MNASNET_V1_STEM
    state._metadata = {**state._metadata, "": {"version": 1 if is_old else current}}
