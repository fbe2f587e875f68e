"""Averaged weights that are no whole state dict: parameters without buffers, lists without names, objects.

Classes for averaging keep what training changes: parameters by name (``shadow``), or in the order of
``network.parameters()`` (torch_ema's ``shadow_params``). They copy them into the network to evaluate it, so that the
buffers are those of the raw weights. The same is done here, where all parameters are there and their sizes fit.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from pipeline.checkpoints.branches import as_dict, branches, is_network, tensors_in
from pipeline.checkpoints.pickles import Inert
from pipeline.checkpoints.tensors import NotPlain
from pipeline.text import fmt

Tensors = Mapping[str, torch.Tensor | NotPlain]
Unnamed = Sequence[torch.Tensor]  # in the order of the network's parameters

# Keys that hold averaged weights, as trainers call them; ``exp_avg`` is Adam's, of gradients.
_AVERAGED = re.compile(r"(?:^|(?<!exp)[._])(?:ema|swa|averaged?|avg|shadow)(?:$|[._])", re.IGNORECASE)
# What classes for averaging call the raw weights that they keep beside the average.
_RAW_BESIDE_AVERAGE = re.compile(r"(^|\.)(online_model|collected_params|backup)$")
_OPTIMIZER = re.compile(r"(^|\.)(opt|optim\w*)(\.|$)")
_BUFFER = re.compile(
    r"(^|\.)(running_mean|running_var|num_batches_tracked|relative_position_index|relative_coords_table|attn_mask)$"
)
_DEEPEST = 8
_MOST_PLACES = 20_000


class NotWholeError(ValueError):
    """An average cannot be completed; the message says why, as a clause about it."""


def is_averaged(place: str) -> bool:
    """Whether a dotted path is one of averaged weights, by its names."""
    return _AVERAGED.search(place) is not None and not _RAW_BESIDE_AVERAGE.search(place)


def averaged_part(place: str) -> str:
    """The beginning of such a path, to the end of the key that says so."""
    match = _AVERAGED.search(place)
    assert match is not None
    return place[: place.find(".", match.end() - 1)] if "." in place[match.end() - 1 :] else place


def has_weights(tensors: Tensors | Unnamed) -> bool:
    """Whether there is a matrix among tensors: counters and metrics have none."""
    values = tensors.values() if isinstance(tensors, Mapping) else tensors
    return any(value.ndim > 1 for value in values)


def hidden_averages(tree: Mapping[Any, Any]) -> Iterator[tuple[str, Tensors | Unnamed | Inert]]:
    """Averaged weights where state dicts are not looked for: in lists, in objects, deep in the file.

    Yields:
        Their dotted path, and tensors by name, or in order, or a network in a pickle.
    """
    known = {id(branch) for _, branch in branches(tree)}
    seen: set[int] = set()  # what lies in many places is looked at once
    waiting: list[tuple[str, object, int]] = [("", tree, 0)]
    for _ in range(_MOST_PLACES):
        if not waiting:
            return
        path, value, depth = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if is_averaged(path) and (found := _weights_in(value, known)) is not None:
            yield path, found
        elif depth < _DEEPEST and not is_network(value):
            below = [(str(name), inner) for name, inner in _inside(value) if isinstance(inner, _CONTAINERS)]
            waiting += [(f"{path}.{name}" if path else name, inner, depth + 1) for name, inner in reversed(below)]


_CONTAINERS = (Mapping, Inert, list, tuple)


def _inside(value: object) -> Iterator[tuple[object, object]]:
    """What an object holds, by its keys, attributes or places."""
    pairs: list[Iterator[tuple[object, object]]] = []
    if (below := as_dict(value)) is not None:
        pairs.append(iter(below.items()))
    if isinstance(value, Inert) and isinstance(value.state, Mapping):
        pairs.append(iter(value.state.items()))
    if isinstance(value, list | tuple):
        pairs.append(iter(enumerate(value)))
    yield from itertools.islice(itertools.chain(*pairs), _MOST_PLACES)


def _weights_in(value: object, known: set[int]) -> Tensors | Unnamed | Inert | None:
    """The weights that an object is, unless they are looked for anyway; None if it is none."""
    if isinstance(value, Inert) and is_network(value):
        return value
    if isinstance(value, list | tuple):
        return value if value and all(isinstance(one, torch.Tensor) for one in value) and has_weights(value) else None
    below = as_dict(value)
    if below is None or id(below) in known or not has_weights(tensors := tensors_in(below)):
        return None
    return tensors


def complete(place: str, average: Tensors | Unnamed | Inert, raw: Tensors) -> dict[str, torch.Tensor | NotPlain]:
    """Put averaged parameters into the raw weights of their network, as classes for averaging do to evaluate it.

    Args:
        place: Where the average lies.
        average: It.
        raw: The whole network, by the names of its code.

    Raises:
        NotWholeError: It is not all parameters of the network.
    """
    if isinstance(average, Inert):
        raise NotWholeError(f"it is a network in a pickle ({average.name}), whose code is not run; save its state dict")
    named = _name(place, average, raw) if not isinstance(average, Mapping) else _rename(average, raw)
    missing = [name for name in raw if name not in named and not _BUFFER.search(name)]
    if missing:
        raise NotWholeError(f"it lacks {fmt.plural(len(missing), 'tensor')} of the network ({fmt.few(missing)})")
    odd = [name for name, value in named.items() if _shape(value) != _shape(raw[name])]
    if odd:
        raise NotWholeError(f"its tensors have other sizes than the network's ({fmt.few(odd)})")
    return {**raw, **named}


def _name(place: str, average: Unnamed, raw: Tensors) -> dict[str, torch.Tensor | NotPlain]:
    """Names for tensors in the order of the network's parameters, which is that of its state dict."""
    if _OPTIMIZER.search(place):
        raise NotWholeError("it is a list without names in the order of an optimizer")
    parameters = [name for name in raw if not _BUFFER.search(name)]
    if [_shape(value) for value in average] != [_shape(raw[name]) for name in parameters]:
        raise NotWholeError(
            f"it is a list of {fmt.plural(len(average), 'tensor')} without names, whose sizes are not those of the "
            f"network's {fmt.plural(len(parameters), 'parameter')} in order"
        )
    return dict(zip(parameters, average, strict=True))


def _rename(average: Tensors, raw: Tensors) -> dict[str, torch.Tensor | NotPlain]:
    """Tensors by the names of the network: those of latent-diffusion's LitEma lack their full stops. Counters go."""
    plain = {name.replace(".", ""): name for name in raw}
    renamed = {name if name in raw else plain.get(name, name): value for name, value in average.items()}
    foreign = [name for name, value in renamed.items() if name not in raw and value.ndim]
    if foreign:
        raise NotWholeError(f"it has tensors that the network has not ({fmt.few(foreign)})")
    return {name: value for name, value in renamed.items() if name in raw}


def _shape(value: torch.Tensor | NotPlain) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else (value.ndim,)
