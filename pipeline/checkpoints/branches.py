"""The dicts of tensors in a checkpoint, whatever class they are of."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch

from pipeline.checkpoints.pickles import Inert
from pipeline.checkpoints.tensors import NotPlain

_MODULE_PARTS = ("_parameters", "_buffers", "_modules")
_MOST_DICTS = 1_000
_MOST_ENTRIES = 200_000  # of all dicts together: some may be the same one again and again
_LEVELS = 3


def as_dict(value: object) -> Mapping[Any, Any] | None:
    """A dict, or an object that is a kind of dict; None for anything else."""
    if isinstance(value, Mapping):
        return value
    return value.items if isinstance(value, Inert) else None


def is_network(value: object) -> bool:
    """Whether an object is a ``torch.nn.Module``: by its attributes, as its class is not loaded."""
    return (
        isinstance(value, Inert)
        and isinstance(value.state, dict)
        and all(isinstance(value.state.get(part), dict) for part in _MODULE_PARTS)
    )


def branches(tree: Mapping[Any, Any]) -> list[tuple[str, Mapping[Any, Any]]]:
    """The file itself and the dicts in it, three levels deep, by their dotted paths; the first of a path is first."""
    found: list[tuple[str, Mapping[Any, Any]]] = [("", tree)]
    level, num_entries = found, len(tree)
    for _ in range(_LEVELS):
        inner: list[tuple[str, Mapping[Any, Any]]] = []
        for path, branch in level:
            for key, value in branch.items():
                if len(found) + len(inner) >= _MOST_DICTS or num_entries > _MOST_ENTRIES:
                    break
                if isinstance(key, str) and (below := as_dict(value)) is not None:
                    inner.append((f"{path}.{key}" if path else key, below))
                    num_entries += len(below)
        found = found + inner
        level = inner
    return found


def tensors_in(branch: Mapping[Any, Any]) -> dict[str, torch.Tensor | NotPlain]:
    """The tensors of a dict by name, those that are more than numbers included."""
    return {k: v for k, v in branch.items() if isinstance(k, str) and isinstance(v, torch.Tensor | NotPlain)}


def has_deep_tensors(tree: Mapping[Any, Any]) -> bool:
    """Whether tensors lie anywhere in a tree, in lists and below the levels that are searched included."""
    waiting: list[object] = [tree]
    for _ in range(_MOST_ENTRIES):
        if not waiting:
            break
        value = waiting.pop()
        if isinstance(value, torch.Tensor | NotPlain):
            return True
        if (below := as_dict(value)) is not None:
            waiting += itertools.islice(below.values(), max(0, _MOST_ENTRIES - len(waiting)))
        elif isinstance(value, list | tuple):
            waiting += value[: max(0, _MOST_ENTRIES - len(waiting))]
    return False
