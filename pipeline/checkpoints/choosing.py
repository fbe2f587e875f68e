"""Which of the tensors in a checkpoint are the network's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.checkpoints.reading import Checkpoint
from pipeline.checkpoints.state import State, make_state
from pipeline.errors import WeightsError

_WRAPPERS = ("state_dict", "model", "model_state_dict")
_PREFIXES = ("module.", "_orig_mod.", "model.")

Fits = Callable[[State], bool]  # whether tensors are those of the requested architecture, whatever its head


@dataclass(frozen=True, slots=True)
class ChosenState:
    """The tensors that a network is loaded from.

    Attributes:
        state: The tensors, under plain names.
        key: Where they lie in the file: ``state_dict``, ``model_ema``; empty for the whole file.
        notes: What a user should know about the choice.
    """

    state: State
    key: str = ""
    notes: tuple[str, ...] = ()


def choose_state(checkpoint: Checkpoint, fits: Fits, *, key: str | None = None, ema: bool | None = None) -> ChosenState:
    """Find the tensors of a network in a checkpoint.

    Args:
        checkpoint: The file.
        fits: Tells whether tensors are those of the requested architecture.
        key: The wrapper to take, as requested; None to find it.
        ema: Whether to take averaged weights; None for those that the file's own tool would take.

    Raises:
        WeightsError: There are none, several fit equally well, or they cannot be weights.
    """
    loaded: Any = checkpoint.tree
    chosen = ""
    for wrapper in _WRAPPERS:
        if isinstance(inner := loaded.get(wrapper), dict):
            loaded, chosen = inner, wrapper
            break
    tensors = {key: value for key, value in loaded.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
    if not tensors:
        raise WeightsError(f"{checkpoint.uri}: holds no tensors")
    versions = _versions(getattr(loaded, "_metadata", None))
    while prefix := next((prefix for prefix in _PREFIXES if all(key.startswith(prefix) for key in tensors)), None):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
        versions = {key.removeprefix(prefix) if key + "." != prefix else "": value for key, value in versions.items()}
    return ChosenState(make_state(checkpoint.uri, tensors, versions), chosen)


def _versions(metadata: object) -> dict[str, dict[str, Any]]:
    """Module versions of a state dict, without anything else in its metadata."""
    if not isinstance(metadata, Mapping):
        return {}
    return {
        key: {"version": entry["version"]}
        for key, entry in metadata.items()
        if isinstance(key, str) and isinstance(entry, Mapping) and isinstance(entry.get("version"), int)
    }
