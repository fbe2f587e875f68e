"""What lies around a network in its file: layers that take its outputs, or that prepare its inputs.

A checkpoint may be of a larger model, of which the architecture is only a part. What else belongs to it is not
computed here, so that its classes would be those of another layer.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pipeline.checkpoints.own_recipe import RecipeFacts
from pipeline.checkpoints.state import State
from pipeline.config.member_options import Channels
from pipeline.errors import WeightsError

_MOST = 2.0  # of the mean or deviation of pixels on the range 0-1; those on the range 0-255 are above


def refuse_layer_behind(beside: Mapping[str, torch.Tensor], state: State, outputs: int, uri: str) -> None:
    """Refuse a network whose outputs another layer takes.

    Args:
        beside: Tensors beside those of the network, by their whole names.
        state: The network's own.
        outputs: How many it has.
        uri: The file, for messages.

    Raises:
        WeightsError: A linear layer beside it takes so many features.
    """
    for name, value in beside.items():
        takes_them = name.endswith("weight") and value.ndim == 2 and value.shape[1] == outputs
        if takes_them and not _is_copy(name, value, state):
            layer = name.rpartition(".")[0] or name
            raise WeightsError(
                f"{uri}: the network is only a part of what was trained: {layer} takes its {outputs:,} outputs and "
                f"gives {value.shape[0]:,}, which is not computed here; train the architecture with as many classes"
            )


def _is_copy(name: str, value: torch.Tensor, state: State) -> bool:
    """Whether a tensor is one of another network of the same kind, a teacher or an average."""
    parts = name.split(".")
    tails = (".".join(parts[at:]) for at in range(1, len(parts)))
    return any(tail in state and state[tail].shape == value.shape for tail in tails)


def facts_of_layer_before(beside: Mapping[str, torch.Tensor]) -> RecipeFacts:
    """The mean and deviation that a layer in front of the network normalises by; nothing if there is none.

    Args:
        beside: As above.
    """
    found = {name: _channels(value) for name, value in beside.items()}
    for name, mean in found.items():
        layer, _, tensor = name.rpartition(".")
        std = found.get(f"{layer}.std" if layer else "std")
        if tensor == "mean" and mean is not None and std is not None and min(std) > 0:
            return RecipeFacts(mean=mean, std=std, source=f"the layer {layer or 'in front'} in it, which normalises")
    return RecipeFacts()


def _channels(value: torch.Tensor) -> Channels | None:
    if value.numel() != 3 or not value.is_floating_point() or not bool((value.abs() <= _MOST).all()):
        return None
    first, second, third = value.float().flatten().tolist()
    return first, second, third
