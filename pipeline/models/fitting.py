"""Fit the tensors of a checkpoint to an architecture: which classes, which head, which input."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from pipeline.checkpoints.choosing import Fits
from pipeline.checkpoints.state import State
from pipeline.config.member_options import MemberOptions
from pipeline.errors import WeightsError
from pipeline.models.catalog import Architecture
from pipeline.models.networks import NetworkOptions, NetworkShape, empty_network, load_network

_PROBE_CLASSES = 1000
_UNUSUAL_CLASSES = 1009  # a prime number that is no width of any layer


@dataclass(frozen=True, slots=True)
class FittedNetwork:
    """A network that was loaded from a checkpoint.

    Attributes:
        shape: How it is built again.
        network: It, in evaluation mode, without gradients.
        notes: What a user should know about it.
    """

    shape: NetworkShape
    network: nn.Module
    notes: tuple[str, ...] = ()


def tell_fit(architecture: Architecture, input_px: int) -> Fits:
    """Make the test of whether tensors are those of an architecture, whatever their number of classes."""
    heads = _heads(architecture, input_px)

    def fits(state: State) -> bool:
        converted = _convert_names(architecture, input_px, state)
        return any(key in converted and converted[key].ndim == ndim for key, ndim in heads.items())

    return fits


def fit_network(
    architecture: Architecture, input_px: int, state: State, requested: MemberOptions, uri: str
) -> FittedNetwork:
    """Load tensors into the network that they are of.

    Args:
        architecture: The requested one.
        input_px: Side of its input, pixels.
        state: The tensors.
        requested: What the request says of the network.
        uri: Where the tensors came from, for messages.

    Raises:
        WeightsError: They do not fit.
    """
    state = _convert_names(architecture, input_px, state)
    num_classes = _num_classes(architecture, input_px, state, uri)
    shape = NetworkShape(architecture, num_classes, input_px, NetworkOptions(requested.transform_input))
    return FittedNetwork(shape, load_network(shape, state, uri))


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
