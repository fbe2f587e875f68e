"""The dicts in a checkpoint, whatever class they are of: state dicts, and whole networks as their tensors by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from pipeline.checkpoints.pickles import Fields, Inert
from pipeline.checkpoints.tensors import NotPlain

_MODULE_PARTS = ("_parameters", "_buffers", "_modules")
_MOST_TENSORS = 100_000
_MOST_DICTS = 1_000
_LEVELS = 2


def as_dict(value: object) -> Mapping[Any, Any] | None:
    """A dict, an object that is a kind of dict, or the tensors of a network; None for anything else."""
    if isinstance(value, Mapping):
        return value
    if not isinstance(value, Inert):
        return None
    return state_of_network(value) if _is_network(value) else value.items


def _is_network(value: object) -> bool:
    """Whether an object is a ``torch.nn.Module``: by its attributes, as its class is not loaded."""
    return (
        isinstance(value, Inert)
        and isinstance(value.state, dict)
        and all(isinstance(value.state.get(part), dict) for part in _MODULE_PARTS)
    )


def state_of_network(network: Inert) -> Fields:
    """The tensors that a pickled network would have in its state dict.

    They lie in plain dicts of each module, so none of its code is needed to read them.

    Raises:
        ValueError: There are too many, as in a network that contains itself.
    """
    state = Fields()
    state.network = str(network.name)
    waiting = [("", network)]
    for num_modules, (prefix, module) in enumerate(_taken(waiting)):
        if max(num_modules, len(state)) > _MOST_TENSORS:
            raise ValueError("a network without end")
        passing = module.state.get("_non_persistent_buffers_set")
        left_out = {name for name in passing if isinstance(name, str)} if isinstance(passing, list) else set()
        for part in ("_parameters", "_buffers"):
            for name, value in module.state[part].items():
                if isinstance(name, str) and value is not None and not (part == "_buffers" and name in left_out):
                    state[prefix + name] = value
        children = [(f"{prefix}{name}.", child) for name, child in module.state["_modules"].items()]
        waiting += [(name, child) for name, child in reversed(children) if _is_network(child)]
    return state


def _taken(waiting: list[tuple[str, Inert]]) -> Iterator[tuple[str, Inert]]:
    while waiting:
        yield waiting.pop()


def branches(tree: Mapping[Any, Any]) -> list[tuple[str, Mapping[Any, Any]]]:
    """The file itself and the dicts in it, two levels deep, by their dotted paths; the first of a path comes first."""
    found: list[tuple[str, Mapping[Any, Any]]] = [("", tree)]
    level = found
    for _ in range(_LEVELS):
        inner: list[tuple[str, Mapping[Any, Any]]] = []
        for path, branch in level:
            for key, value in branch.items():
                if len(found) + len(inner) >= _MOST_DICTS:
                    break
                if isinstance(key, str) and (below := as_dict(value)) is not None:
                    inner.append((f"{path}.{key}" if path else key, below))
        found = found + inner
        level = inner
    return found


def tensors_in(branch: Mapping[Any, Any]) -> dict[str, Any]:
    """The tensors of a dict by name, those that are more than numbers included."""
    return {k: v for k, v in branch.items() if isinstance(k, str) and isinstance(v, torch.Tensor | NotPlain)}
