"""The tensors of a network: checked, in float32, under plain names."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch

from pipeline.checkpoints.tensors import NotPlain
from pipeline.errors import WeightsError

# Auxiliary heads of GoogLeNet and Inception v3.
_TRAINING_ONLY_KEYS = re.compile(r"^(aux1|aux2|AuxLogits)\.")
# torchvision's published DenseNets have tensor names that its code no longer uses.
_DENSENET_KEY = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$")


class State(OrderedDict[str, torch.Tensor]):
    """A state dict: tensors by name, floating point ones in float32, with the versions of their modules.

    Attributes:
        _metadata: Versions by module, for ``load_state_dict``; empty if the file has none.
    """

    _metadata: dict[str, dict[str, Any]]


def plain_name(name: str) -> str:
    """The name that today's code has for a tensor."""
    return _DENSENET_KEY.sub(r"\1\2", name)


def make_state(
    uri: str, tensors: Mapping[str, torch.Tensor | NotPlain], versions: Mapping[str, dict[str, Any]]
) -> State:
    """Check tensors, and leave out those that only training needs.

    Args:
        uri: Where they came from, for messages.
        tensors: By the names that the network has for them.
        versions: Of the modules, by name.

    Raises:
        WeightsError: One of them cannot be a weight.
    """
    state = State()
    for key, value in tensors.items():
        if _TRAINING_ONLY_KEYS.match(key):
            continue
        odd = value.kind if isinstance(value, NotPlain) else _oddity(value)
        if odd or isinstance(value, NotPlain):
            raise WeightsError(f"{uri}: {key} is {odd}, and weights are plain numbers; save the network's state dict")
        if value.is_floating_point():
            value = value.float()
            # a sum is not finite where one value is not, and takes a tenth of the time of a look at each
            if not value.sum().isfinite() and not value.isfinite().all() and (odd := _not_finite(key, value)):
                raise WeightsError(f"{uri}: {key} holds {odd}, so nothing can be classified with it")
        state[plain_name(key)] = value
    state._metadata = dict(versions)
    return state


def _not_finite(key: str, value: torch.Tensor) -> str | None:
    """What is not finite in a tensor. A running variance may be infinite: half precision makes that of a large one."""
    if value.isnan().any():
        return "NaN"
    return None if key.endswith("running_var") else "infinite numbers"


def _oddity(value: torch.Tensor) -> str | None:
    """What kind of tensor it is, if of one that no network here computes with."""
    kinds = {
        "complex": value.is_complex(),
        "quantized": value.is_quantized,
        "nested": value.is_nested,
        "without values (on the meta device)": value.is_meta,
        "sparse": value.layout != torch.strided,
    }
    return next((kind for kind, applies in kinds.items() if applies), None)
