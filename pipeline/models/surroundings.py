"""What lies beside a network in its file: its head, a layer behind it, the numbers that normalise its input."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from pipeline.checkpoints.choosing import Join, Joined
from pipeline.checkpoints.own_recipe import RecipeFacts
from pipeline.checkpoints.state import State
from pipeline.config.member_options import NORMALISATIONS, Channels
from pipeline.errors import WeightsError
from pipeline.models.anatomy import Anatomy
from pipeline.models.fitting import WantedNetwork
from pipeline.models.heads import HeadRoot, find_head

_LOSS = re.compile(r"(^|\.)\w*(criterion|loss|loss_fn|loss_func)\.")
_MEAN = re.compile(r"(^|.*[._])mean$")
_BYTE = 255.0


def tell_join(wanted: WantedNetwork) -> Join:
    """Make what puts a head and the body of an architecture that lie apart together, if they are all there is."""
    anatomy = wanted.anatomy

    def join(state: State, beside: Mapping[str, torch.Tensor]) -> Joined | None:
        for root in anatomy.roots:
            around = [key for key in state if key.startswith(f"{anatomy.places[-1]}.")]
            body = set(anatomy.body(root.name))
            if not body <= state.keys() or not body.issuperset(around):
                continue
            apart = {key: value for key, value in state.items() if key not in anatomy.shapes}
            for place in _heads_in({**beside, **apart}):
                separate = HeadRoot(place, root.inputs, root.flattens)
                if find_head({**beside, **apart}, separate, wanted.options.head) is None:
                    continue
                head = {key: value for key, value in {**beside, **apart}.items() if key.startswith(f"{place}.")}
                renamed = {root.name + key.removeprefix(place): value for key, value in head.items()}
                return Joined({**{key: state[key] for key in state if key not in head}, **renamed}, place)
        return None

    return join


def _heads_in(tensors: Mapping[str, torch.Tensor]) -> Iterator[str]:
    """The modules that hold all layers among some tensors; the innermost first."""
    layers = [key for key in tensors if key.endswith(".weight") and not _LOSS.search(key)]
    parts = layers[0].split(".")[:-1] if layers else []
    for length in range(len(parts), 0, -1):
        place = ".".join(parts[:length])
        if all(key.startswith(f"{place}.") for key in layers):
            yield place


def check_beside(anatomy: Anatomy, outputs: int, beside: Mapping[str, torch.Tensor], key: str, uri: str) -> None:
    """Refuse a network that is only a part of a model: a layer beside it computes on with what it gives.

    Args:
        anatomy: Of its architecture.
        outputs: Of the network.
        beside: The tensors beside it, by name.
        key: Where it lies in the file.
        uri: The file, for messages.

    Raises:
        WeightsError: There is such a layer.
    """
    features = anatomy.roots[0].inputs if anatomy.roots else None
    for name, value in beside.items():
        module, _, kind = name.rpartition(".")
        if kind != "weight":
            continue
        linear = value.shape[1] if value.ndim == 2 else None
        is_norm = value.shape == (outputs,) and f"{module}.bias" in beside
        if linear == outputs or is_norm:
            what = f"takes as many numbers as the network has outputs, {outputs}"
        elif linear is not None and linear == features and not _LOSS.search(name):
            what = f"takes the {features} features of the network beside its own head"
        else:
            continue
        raise WeightsError(
            f"{uri}: {module} beside the network under {key} {what}: the network may be a part of a larger model, and "
            f"its classes not the model's; if they are, say FILE?key={key}, else save the network with {module} as its "
            "last layer"
        )


def normalisation_beside(beside: Mapping[str, torch.Tensor], uri: str) -> RecipeFacts:
    """The mean and deviation that a layer in front of the network normalises its input with; nothing if none does.

    Numbers for pixels on 0-255 are turned into those for 0-1.

    Raises:
        WeightsError: They are there, and cannot be those of pixels.
    """
    for name, partner in _pairs(beside):
        numbers = [_channels(beside[key]) for key in (name, partner)]
        mean, std = numbers
        if mean is None or std is None:
            continue
        if max(*mean, *std) > 1:
            mean, std = _of_bytes(mean), _of_bytes(std)
        if min(mean) < 0 or min(std) <= 0 or max(*mean, *std) > 1:
            raise WeightsError(
                f"{uri}: {name} and {partner} beside the network are no mean and deviation of pixels: "
                "say what normalises its input, FILE?mean=..&std=.."
            )
        return RecipeFacts(mean=mean, std=std, source=f"{name} and {partner} in it")
    return RecipeFacts()


def has_normalisation(beside: Mapping[str, torch.Tensor]) -> bool:
    """Whether the numbers of such a layer are there."""
    return any(_channels(beside[mean]) and _channels(beside[std]) for mean, std in _pairs(beside))


def _pairs(beside: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, str]]:
    """The names of what is called a mean and a deviation."""
    for name in beside:
        partner = f"{name[: -len('mean')]}std"
        if _MEAN.match(name) is not None and partner in beside:
            yield name, partner


def _channels(value: torch.Tensor) -> Channels | None:
    """Three numbers of a tensor that has one for each channel, or one for all."""
    if value.numel() not in {1, 3} or not value.is_floating_point():
        return None
    first, second, third = (round(number, 6) for number in value.float().flatten().expand(3).tolist())
    return first, second, third


def _of_bytes(numbers: Channels) -> Channels:
    first, second, third = (number / _BYTE for number in numbers)
    return first, second, third


def add_normalisation(layer: RecipeFacts, said: RecipeFacts, uri: str) -> RecipeFacts:
    """What a file says of its preprocessing, with the layer in front of the network that normalises its input.

    Args:
        layer: What the layer does, from :func:`normalisation_beside`.
        said: What the file says otherwise.
        uri: The file, for messages.

    Raises:
        WeightsError: The file says another normalisation as well: both, or one of them, may be meant.
    """
    if layer.mean is None:
        return said
    if said.mean is not None and (said.mean, said.std) not in {(layer.mean, layer.std), NORMALISATIONS["none"]}:
        raise WeightsError(
            f"{uri}: {layer.source} normalise the input, and {said.source} normalise it otherwise: FILE?mean=..&std=.."
        )
    return replace(said, mean=layer.mean, std=layer.std, source="; ".join(filter(None, (said.source, layer.source))))
