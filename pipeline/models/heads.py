"""Heads that people put in the place of an architecture's own: found in a state dict, and built again.

A state dict names linear layers and norms, with their sizes, and their places in an ``nn.Sequential``. What has no
tensors it does not name: dropout, which is nothing in evaluation, and activations.
"""

from __future__ import annotations

import itertools
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from pipeline.config.member_options import Activation

Kind = Literal["linear", "batch_norm", "layer_norm", "activation"]

_ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "leaky_relu": nn.LeakyReLU,
    "hardswish": nn.Hardswish,
    "none": nn.Identity,
}
_USUAL_ACTIVATION = "relu"
# What may stand in a Sequential whose last layer is an architecture's own head, so that people replace all of it.
_PLAIN = (nn.Linear, nn.Dropout, nn.Identity, nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Hardswish)
# And what else, where the head is given a map of one pixel: ConvNeXt's norm of it is a layer norm of its features.
_FLATTENING = (nn.Flatten, nn.LayerNorm)
_PLACE = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class HeadLayer:
    """A layer of a head. Plain data.

    Attributes:
        name: Its name in the head, as in the state dict; empty if it is the whole head.
        kind: What it is.
        inputs, outputs: Features; of an activation 0.
        bias: Whether it has one.
        activation: Which, if it is one.
    """

    name: str
    kind: Kind
    inputs: int = 0
    outputs: int = 0
    bias: bool = True
    activation: str = ""

    def build(self) -> nn.Module:
        """Build it with random weights."""
        if self.kind == "linear":
            return nn.Linear(self.inputs, self.outputs, self.bias)
        if self.kind == "activation":
            return _ACTIVATIONS[self.activation]()
        return nn.BatchNorm1d(self.inputs) if self.kind == "batch_norm" else nn.LayerNorm(self.inputs)


@dataclass(frozen=True, slots=True)
class Head:
    """A head in the place of an architecture's own. Plain data.

    Attributes:
        root: Name of the module that it replaces.
        layers: Its layers in order, without those that do nothing in evaluation.
        flattens: Whether it is given a map of one pixel.
    """

    root: str
    layers: tuple[HeadLayer, ...]
    flattens: bool = False

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Head:
        """Inverse of ``dataclasses.asdict``."""
        layers = values["layers"]
        assert isinstance(layers, Sequence)
        flattens = bool(values.get("flattens", False))
        return cls(str(values["root"]), tuple(HeadLayer(**layer) for layer in layers), flattens)

    @property
    def num_classes(self) -> int:
        """Outputs of its last layer."""
        return self.layers[-1].outputs

    @property
    def has_two_places(self) -> bool:
        """Whether modules without tensors stand on both sides of a norm, so that either may be the activation."""
        pairs = zip(self.layers, self.layers[1:], self.layers[2:], strict=False)
        return any(
            one.kind == "activation" and norm.kind.endswith("norm") and int(after.name) > int(norm.name) + 1
            for one, norm, after in pairs
        )

    @property
    def begins_late(self) -> bool:
        """Whether modules without tensors stand before its first layer."""
        places = int(self.layers[0].name) if self.layers[0].name.isdecimal() else 0
        return places > (1 if self.flattens else 0)

    @property
    def activations(self) -> list[str]:
        """The activations in it, which are assumed."""
        return [layer.activation for layer in self.layers if layer.kind == "activation"]

    @property
    def has_layer_norm(self) -> bool:
        """Whether a norm without statistics is in it, which a group norm may be as well."""
        return any(layer.kind == "layer_norm" for layer in self.layers)

    def replace_in(self, network: nn.Module) -> None:
        """Put it, with random weights, in the place of the network's own head."""
        first = self.layers[0]
        made = OrderedDict((layer.name, layer.build()) for layer in self.layers)
        if self.flattens:
            made = OrderedDict({"flatten": nn.Flatten(1), **made})
        network.set_submodule(self.root, first.build() if not first.name else _sequential(made))

    def describe(self) -> str:
        """It, in one line for people."""
        names = [layer.activation or layer.kind.replace("_", " ") for layer in self.layers]
        sizes = [str(layer.outputs) for layer in self.layers if layer.kind == "linear"]
        return f"{self.root}: {', '.join(names)} ({' -> '.join([str(self.layers[0].inputs), *sizes])})"


def _sequential(modules: OrderedDict[str, nn.Module]) -> nn.Module:
    """A Sequential whose modules may have dotted names."""
    if not any("." in name for name in modules):
        return nn.Sequential(modules)
    (first, inner), *rest = ((name.partition(".")[0], name.partition(".")[2]) for name in modules)
    assert not rest  # only a single layer is accepted under a dotted name
    return nn.Sequential(OrderedDict({first: _sequential(OrderedDict({inner: next(iter(modules.values()))}))}))


@dataclass(frozen=True, slots=True)
class HeadRoot:
    """A module that people replace by another head. Plain data.

    Attributes:
        name: Its name.
        inputs: Features that it is given.
        flattens: Whether it is given them as a map of one pixel.
    """

    name: str
    inputs: int
    flattens: bool = False


def head_roots(network: nn.Module, own_head: str) -> list[HeadRoot]:
    """The modules that people replace by another head.

    Args:
        network: With the architecture's own head.
        own_head: Name of its last linear layer.

    Returns:
        That layer, and the Sequential around it, if it holds nothing but the head; the innermost first.
    """
    roots = [HeadRoot(own_head, _inputs(network.get_submodule(own_head)))]
    parent = own_head.rpartition(".")[0]
    while parent and type(around := network.get_submodule(parent)) is nn.Sequential:
        if not all(isinstance(module, (*_PLAIN, *_FLATTENING)) for module in around):
            break
        flattens = any(isinstance(module, nn.Flatten) for module in around)
        roots.append(HeadRoot(parent, _inputs(around), flattens))
        parent = parent.rpartition(".")[0]
    return roots


def _inputs(head: nn.Module) -> int:
    """Features that the first linear layer of a head takes."""
    return next(module.in_features for module in head.modules() if isinstance(module, nn.Linear))


def find_head(state: Mapping[str, torch.Tensor], place: HeadRoot, activation: Activation | None) -> Head | None:
    """Find a head in a state dict, if its names and sizes leave one reading.

    Args:
        state: The tensors of the whole network.
        place: The module that it replaces.
        activation: Between its linear layers; None for ReLU, which is usual.

    Returns:
        The head; None if there is none, or if it cannot be told how it computes.
    """
    modules: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        if key.startswith(f"{place.name}."):
            name, _, tensor = key.removeprefix(f"{place.name}.").rpartition(".")
            modules.setdefault(name, {})[tensor] = value
    names = list(modules)
    if len(names) > 1:
        if not all(_PLACE.fullmatch(name) for name in names):
            return None  # a module with names of its own computes as its code says
        names.sort(key=int)
    layers: list[HeadLayer] = []
    features = place.inputs
    for name in names:
        layer = _read_layer(name, modules[name], features)
        if layer is None:
            return None
        layers += _activation_before(layers, layer, activation or _USUAL_ACTIVATION)
        layers.append(layer)
        features = layer.outputs
    if place.flattens and "" in names:
        return None
    return Head(place.name, tuple(layers), place.flattens) if _is_whole(layers) else None


def _is_whole(layers: Sequence[HeadLayer]) -> bool:
    """Whether layers end as a head does: with a linear layer, maybe with a norm directly behind it."""
    kinds = [layer.kind for layer in layers]
    return kinds[-1:] == ["linear"] or (kinds[-2:-1] == ["linear"] and kinds[-1].endswith("norm"))


def _read_layer(name: str, tensors: Mapping[str, torch.Tensor], features: int) -> HeadLayer | None:
    """The layer that some tensors are of, if it takes so many features."""
    shapes = {tensor: tuple(value.shape) for tensor, value in tensors.items()}
    weight = shapes.get("weight", ())
    if len(weight) == 2 and weight[1] == features and shapes.keys() <= {"weight", "bias"}:
        return HeadLayer(name, "linear", features, weight[0], "bias" in shapes)
    if weight != (features,) or "bias" not in shapes:
        return None
    if shapes.keys() == {"weight", "bias"}:
        return HeadLayer(name, "layer_norm", features, features)
    if {"running_mean", "running_var"} <= shapes.keys():
        return HeadLayer(name, "batch_norm", features, features)
    return None


def _activation_before(layers: Sequence[HeadLayer], layer: HeadLayer, activation: str) -> list[HeadLayer]:
    """The activation between the last linear layer and this one.

    It stands in the first place without tensors after a linear layer. Where linear layers follow each other directly,
    there is none.
    """
    if not any(one.kind == "linear" for one in layers):
        return []
    since = itertools.takewhile(lambda one: one.kind != "linear", reversed(layers))
    if any(one.kind == "activation" for one in since):
        return []
    place = int(layers[-1].name) + 1
    return [HeadLayer(str(place), "activation", activation=activation)] if place < int(layer.name) else []
