"""Networks: built without values, and loaded from tensors."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import safetensors.torch
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from pipeline.checkpoints.state import State
from pipeline.errors import WeightsError
from pipeline.models.catalog import Architecture
from pipeline.models.heads import Head

_METADATA_KEY = "module_versions"
# In its first release torchvision's MnasNet had a first layer of this width for all multipliers.
_MNASNET_V1_STEM = 32


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """How a network differs from the one that its architecture's name stands for. Plain data; None: it does not.

    Attributes:
        transform_input: Of GoogLeNet and Inception v3: whether inputs are normalised to [-1, 1] inside the network.
        global_pool, act_layer: Of a timm network: how it pools its last features, and its activation.
        img_size: Side of the input that a timm network is built for, pixels.
        window_size: Of timm's Swin: side of the windows, patches.
        class_token, no_embed_class, fc_norm: Of timm's ViT: whether it has a class token, whether its table of
            positions lacks one for it, and whether its last norm comes after pooling.
        is_binary: Whether its head has one output, the logit of the second of two classes.
        head: Another head than its own.
    """

    transform_input: bool | None = None
    global_pool: str | None = None
    act_layer: str | None = None
    img_size: int | None = None
    window_size: int | None = None
    class_token: bool | None = None
    no_embed_class: bool | None = None
    fc_norm: bool | None = None
    is_binary: bool | None = None
    head: Head | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of ``dataclasses.asdict``; what is None may be missing."""
        head = values.get("head")
        return cls(**{**values, "head": None if head is None else Head.from_dict(head)})

    @property
    def constructor(self) -> dict[str, Any]:
        """What the constructor of the network takes of it."""
        others = ("is_binary", "head")
        values = {name: getattr(self, name) for name in self.__slots__ if name not in others}
        return {name: value for name, value in values.items() if value is not None}


_USUAL = NetworkOptions()


class TwoClasses(nn.Module):
    """Makes two classes of a network's one output.

    Args:
        network: Its output, (B, 1), is the logit of the second class against the first.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs_BCHW: torch.Tensor) -> torch.Tensor:
        """Logits 0 and z, (B, 2): their softmax is 1 - sigmoid(z) and sigmoid(z)."""
        logit_B1 = self.network(inputs_BCHW)
        return torch.cat([torch.zeros_like(logit_B1), logit_B1], dim=1)


# Of these, all of timm's initial values are made.
_VALUES_ALONE = frozenset(
    {
        torch.Tensor.normal_,
        torch.Tensor.uniform_,
        torch.Tensor.erfinv_,
        torch.Tensor.mul_,
        torch.Tensor.add_,
        torch.Tensor.clamp_,
    }
)


class _NoRandomValues(TorchFunctionMode):
    """Leaves parameters without data as they are; to fill them torch would load its compiler, for seconds."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - what a function of torch returns
        named = kwargs or {}
        if getattr(func, "__module__", "") == nn.init.__name__:
            return args[0] if args else named["tensor"]
        if func in _VALUES_ALONE and isinstance(args[0], torch.Tensor) and args[0].is_meta:
            return args[0]
        return func(*args, **named)


@dataclass(frozen=True, slots=True)
class NetworkShape:
    """What is needed to build a network. Plain data.

    Attributes:
        architecture: Which.
        num_classes: Number of its classes.
        input_px: Side of its input, pixels.
        options: How it differs from the usual one.
    """

    architecture: Architecture
    num_classes: int
    input_px: int
    options: NetworkOptions = _USUAL


def make_network(shape: NetworkShape) -> nn.Module:
    """Build a network with random weights, in evaluation mode; with one output where two classes are made of it."""
    outputs = 1 if shape.options.is_binary else shape.num_classes
    network = shape.architecture.build(outputs, shape.input_px, shape.options.constructor)
    if shape.options.head is not None:
        shape.options.head.replace_in(network)
    return network.eval()


def empty_network(shape: NetworkShape) -> nn.Module:
    """Build a network on the meta device, or, if its constructor computes with tensors, on the CPU."""
    try:
        with _NoRandomValues(), torch.device("meta"):
            return make_network(shape)
    except (NotImplementedError, RuntimeError):  # torchvision's RegNets, for example
        return make_network(shape)


def as_classifier(network: nn.Module, options: NetworkOptions) -> nn.Module:
    """A loaded network as it classifies: with as many outputs as there are classes."""
    return TwoClasses(network).eval() if options.is_binary else network


def load_network(shape: NetworkShape, state: State, uri: str) -> nn.Module:
    """Build a network, and load tensors into it.

    Raises:
        WeightsError: Names or shapes differ.
    """
    architecture = shape.architecture
    network = empty_network(shape)
    _guess_version(network, state)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="A new version of MNASNet")  # the old one works as well
            network.load_state_dict(state, assign=True)
        if any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
            network = make_network(shape)  # some buffers are computed by the constructor, not stored
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


def to_blob(network: nn.Module) -> bytes:
    """A network's tensors as safetensors bytes, with the versions of its modules."""
    state = network.state_dict()
    tensors = {}
    storages = set()
    for key, value in state.items():
        tensor = value.detach().contiguous()
        if (storage := tensor.untyped_storage().data_ptr()) in storages:
            tensor = tensor.clone()  # safetensors refuses tensors that share memory
        storages.add(storage)
        tensors[key] = tensor
    versions = json.dumps(getattr(state, "_metadata", {}))
    blob: bytes = safetensors.torch.save(tensors, metadata={_METADATA_KEY: versions})
    return blob


def from_blob(blob: bytes) -> State:
    """Inverse of :func:`to_blob`."""
    # safetensors reads metadata from files only; they are in the JSON header, after its length of 8 bytes
    header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    state = State(safetensors.torch.load(blob))
    state._metadata = json.loads(header["__metadata__"][_METADATA_KEY])
    return state
