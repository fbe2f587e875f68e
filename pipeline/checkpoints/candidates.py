"""The dicts of tensors in a checkpoint, each behind each prefix of names that a whole network may lie behind."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pipeline.checkpoints.averages import Tensors, is_averaged
from pipeline.checkpoints.branches import branches, tensors_in
from pipeline.checkpoints.pickles import Inert
from pipeline.checkpoints.state import State, plain_name
from pipeline.checkpoints.tensors import NotPlain

USUAL_KEYS = ("state_dict", "model", "model_state_dict", "")  # where tensors are expected, without a word
USUAL_PREFIXES = re.compile(r"(module\.|model\.)*")
# What wrappers insert anywhere into names, and what profilers and averages add to a network.
_INSERTED = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_AVERAGE_COUNTER = "n_averaged"  # of torch's AveragedModel
_COUNTERS = re.compile(rf"(?<![^.])(total_ops|total_params|{_AVERAGE_COUNTER})$")
# Tensors in the network itself that are of a loss, or that it normalises its input with.
_NO_WEIGHTS = re.compile(r"\w*(criterion|loss|loss_fn|loss_func)\.|(\w+_)?(mean|std)$")
_DEEPEST_PREFIX = 4
_MOST_BESIDE = 40  # tensors of a head that has a dict of its own beside the network's


@dataclass(frozen=True, slots=True)
class Candidate:
    """Tensors that may be the network's.

    Attributes:
        key: Of the dict in the file; empty for the file itself.
        prefix: Of their names there, with a full stop at its end.
        tensors: By their names without it.
        others: Names of the tensors beside them.
        versions: Of the modules.
        is_counted: Whether a count of averaged networks lies beside them.
        buffers_of: Where the rest of the network lies, if these are only its parameters; None if they are all.
        beside: Those others, and those of small dicts beside theirs, by name.
        head: Where their head lay, if that was elsewhere.
    """

    key: str
    prefix: str
    tensors: Tensors
    others: Sequence[str]
    versions: Mapping[str, dict[str, Any]]
    is_counted: bool = False
    buffers_of: str | None = None
    beside: Tensors = field(default_factory=dict)
    head: str = ""

    @property
    def place(self) -> str:
        """Where they lie, as ``?key=`` takes it."""
        return ".".join(part for part in (self.key, self.prefix.rstrip(".")) if part)

    @property
    def is_usual(self) -> bool:
        """Whether anybody would look for a network there."""
        return self.key in USUAL_KEYS and USUAL_PREFIXES.fullmatch(self.prefix) is not None

    @property
    def is_average(self) -> bool:
        """Whether they are averaged weights, by their names; no trainer is known that puts them elsewhere."""
        return is_averaged(self.place) or (self.is_counted and not self.place.endswith("online_model"))


def find_candidates(tree: Mapping[Any, Any]) -> Iterator[Candidate]:
    """The dicts of tensors in a file, each behind each prefix that some of its names have."""
    found = branches(tree)
    for key, branch in found:
        tensors = {
            plain_name(_INSERTED.sub("", name)): value
            for name, value in tensors_in(branch).items()
            if not _COUNTERS.search(name)
        }
        if not tensors:
            continue
        versions = _versions(getattr(branch, "metadata", None))
        in_other_dicts = _in_small_dicts(found, key)
        for prefix in _prefixes(tensors):
            inside = {
                name.removeprefix(prefix): value
                for name, value in tensors.items()
                if name.startswith(prefix) and not _NO_WEIGHTS.match(name.removeprefix(prefix))
            }
            others = [name for name in tensors if name[: len(prefix)] != prefix or name[len(prefix) :] not in inside]
            own = {
                name.removeprefix(prefix) if name + "." != prefix else "": version
                for name, version in versions.items()
                if f"{name}.".startswith(prefix)
            }
            beside = {name: tensors[name] for name in others} | in_other_dicts
            is_counted = _AVERAGE_COUNTER in branch
            yield Candidate(key, prefix, inside, others, own, is_counted=is_counted, beside=beside)


def _in_small_dicts(found: Sequence[tuple[str, Mapping[Any, Any]]], key: str) -> dict[str, torch.Tensor | NotPlain]:
    """The tensors of the dicts beside one of a network that are small enough to be layers more, by name."""
    above = key.rpartition(".")[0]
    return {
        f"{other.rpartition('.')[2]}.{name}": value
        for other, branch in found
        if key and other not in {"", key} and other.rpartition(".")[0] == above and len(branch) <= _MOST_BESIDE
        for name, value in tensors_in(branch).items()
    }


def _prefixes(tensors: Tensors) -> list[str]:
    """The beginnings of names that a whole network may lie behind: none, and those of many tensors."""
    counts: dict[str, int] = {"": len(tensors)}
    for name in tensors:
        parts = name.split(".")[:-1][:_DEEPEST_PREFIX]
        for prefix in itertools.accumulate(parts, lambda before, part: f"{before}.{part}"):
            counts[f"{prefix}."] = counts.get(f"{prefix}.", 0) + 1
    return [prefix for prefix, count in counts.items() if not prefix or 3 * count >= len(tensors)]


def as_state(tensors: Tensors) -> State:
    """Tensors as they come, to look at their names and shapes."""
    state = State({name: value for name, value in tensors.items() if isinstance(value, torch.Tensor)})
    state._metadata = {}
    return state


def _versions(metadata: object) -> dict[str, dict[str, Any]]:
    """Module versions of a state dict, without anything else in its metadata."""
    fields = metadata.items if isinstance(metadata, Inert) else metadata
    if not isinstance(fields, Mapping):
        return {}
    return {
        key: {"version": entry["version"]}
        for key, entry in fields.items()
        if isinstance(key, str) and isinstance(entry, Mapping) and isinstance(entry.get("version"), int)
    }
