"""Which of the tensors in a checkpoint are the network's: under which key of the file, behind which prefix."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from pipeline.checkpoints.averages import (
    NotWholeError,
    Tensors,
    averaged_part,
    complete,
    has_weights,
    hidden_averages,
    is_averaged,
)
from pipeline.checkpoints.branches import branches, has_deep_tensors, tensors_in
from pipeline.checkpoints.kinds import explain_tensors
from pipeline.checkpoints.pickles import Inert
from pipeline.checkpoints.reading import Checkpoint, networks_in
from pipeline.checkpoints.state import State, make_state, plain_name
from pipeline.checkpoints.tensors import NotPlain
from pipeline.errors import WeightsError

# Trainers that put the average into ``state_dict``, by the key that has the raw weights then, and who they are.
_SWAPPED_INTO = "state_dict"
_LIGHTNING, _MMENGINE = "current_model_state", "ema_state_dict"
_SWAPPERS = {_LIGHTNING: "Lightning's weight averaging", _MMENGINE: "MMEngine's EMAHook"}
_MMENGINE_SIGNS = {"meta", "message_hub"}  # in all of its files; classes for averaging of one's own have none of them
_USUAL_KEYS = ("state_dict", "model", "model_state_dict", "")  # where tensors are expected, without a word
_USUAL_PREFIXES = re.compile(r"(module\.|model\.)*")
# What wrappers insert anywhere into names, and what profilers and averages add to a network.
_INSERTED = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_AVERAGE_COUNTER = "n_averaged"  # of torch's AveragedModel
_COUNTERS = re.compile(rf"(?<![^.])(total_ops|total_params|{_AVERAGE_COUNTER})$")
# Tensors in the network itself that are of a loss, or that it normalises its input with.
_NO_WEIGHTS = re.compile(r"\w*(criterion|loss|loss_fn|loss_func)\.|(\w+_)?(mean|std)$")
_DEEPEST_PREFIX = 4
_NAMES_SHOWN = 4
_MOST_BESIDE = 40  # tensors of a head that has a dict of its own beside the network's

Fits = Callable[[State], bool]  # whether tensors are those of the requested architecture, whatever its head


@dataclass(frozen=True, slots=True)
class ChosenState:
    """The tensors that a network is loaded from.

    Attributes:
        state: The tensors, under plain names.
        key: Where they lie in the file: ``state_dict``, ``model_ema``; empty for the whole file.
        is_one_of_several: Whether the file holds other tensors that fit: then its hash does not tell these.
        notes: What a user should know about the choice.
        beside: The tensors beside them, by name.
    """

    state: State
    key: str = ""
    is_one_of_several: bool = False
    notes: tuple[str, ...] = ()
    beside: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Joined:
    """A network whose head lay apart.

    Attributes:
        tensors: Of both, by the names that the network has for them.
        head: Where the head lay.
    """

    tensors: Tensors
    head: str


Join = Callable[[State, Mapping[str, torch.Tensor]], Joined | None]  # of tensors, and those beside them


@dataclass(frozen=True, slots=True)
class _Candidate:
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
        return self.key in _USUAL_KEYS and _USUAL_PREFIXES.fullmatch(self.prefix) is not None

    @property
    def is_average(self) -> bool:
        """Whether they are averaged weights, by their names; no trainer is known that puts them elsewhere."""
        return is_averaged(self.place) or (self.is_counted and not self.place.endswith("online_model"))


@dataclass(frozen=True, slots=True)
class _Averages:
    """What is known of the averaged weights in a file.

    Attributes:
        swapper: The trainer that put the average where others have the raw weights; empty if it was none of those.
        unused: Why averages are not used, by the place where they lie.
    """

    swapper: str = ""
    unused: Mapping[str, str] = field(default_factory=dict)

    def has(self, one: _Candidate) -> bool:
        """Whether some tensors are averaged ones."""
        return one.key == _SWAPPED_INTO if self.swapper else one.is_average


def choose_state(
    checkpoint: Checkpoint, fits: Fits, *, key: str | None = None, ema: bool | None = None, join: Join | None = None
) -> ChosenState:
    """Find the tensors of a network in a checkpoint.

    Args:
        checkpoint: The file.
        fits: Tells whether tensors are those of the requested architecture.
        key: Where to take them from, as requested: the key of a dict, and maybe a prefix of names; None to find them.
        ema: Whether to take averaged weights; None for those that the file's own tool would take.
        join: Puts a network and its head that lie apart together.

    Raises:
        WeightsError: There are none, several fit equally well, or they cannot be weights.
    """
    uri = checkpoint.uri
    everything = list(_candidates(checkpoint.tree))
    if not everything:
        raise WeightsError(f"{uri}: {_explain_none(checkpoint)}")
    fitting = [candidate for candidate in everything if fits(_as_state(candidate.tensors))]
    if not fitting and join is not None:
        fitting = [joined for one in everything if (joined := _join_head(one, join)) is not None]
    averages = _Averages(_swapper(checkpoint.tree, fitting))
    if fitting and not any(averages.has(one) for one in fitting):
        completed, averages = _complete_averages(checkpoint.tree, everything, fitting)
        fitting += completed
    is_one_of_several = len(fitting) > 1
    if key is not None:
        if key in averages.unused:
            raise WeightsError(f"{uri}: what lies under {key} cannot be used: {averages.unused[key]}")
        fitting = [one for one in fitting or everything if key in {one.place, one.key}]
        if not fitting:
            places = dict.fromkeys(one.place or one.key for one in everything if one.place or one.key)
            raise WeightsError(f"{uri}: has no tensors under the key {key!r}; there are {_few(list(places)) or 'none'}")
        # a prefix is taken along where only one fits, or where it is named
        fitting = [one for one in fitting if one.place == key] or fitting
    chosen, note = _prefer(uri, fitting or [_most_likely(uri, checkpoint, everything)], ema, averages)
    notes = [note] if note else []
    if key is None and ema is None:
        notes += [f"the average under {place} is not used: {why}" for place, why in averages.unused.items()]
    if not chosen.is_usual and not note:
        notes.append(f"its weights are those under {chosen.place}")
    if chosen.head:
        where = f"the one under {chosen.head}, apart from its body"
        notes.append(f"its head is {where}; what stands between them without tensors is taken for dropout")
    if chosen.others and fitting:
        notes.append(f"passed over beside its weights: {_few(chosen.others)}")
    state = make_state(uri, chosen.tensors, chosen.versions)
    return ChosenState(state, chosen.place, is_one_of_several, tuple(notes), _as_state(chosen.beside))


def _join_head(one: _Candidate, join: Join) -> _Candidate | None:
    """Tensors with the head that lies beside them."""
    if (joined := join(_as_state(one.tensors), _as_state(one.beside))) is None:
        return None
    start = f"{joined.head}."
    return replace(
        one,
        tensors=joined.tensors,
        head=joined.head,
        others=[name for name in one.others if not name.startswith(start)],
        beside={name: value for name, value in one.beside.items() if not name.startswith(start)},
    )


def _candidates(tree: Mapping[Any, Any]) -> Iterator[_Candidate]:
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
            yield _Candidate(key, prefix, inside, others, own, is_counted=is_counted, beside=beside)


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


def _as_state(tensors: Tensors) -> State:
    """Tensors as they come, to look at their names and shapes."""
    state = State({name: value for name, value in tensors.items() if isinstance(value, torch.Tensor)})
    state._metadata = {}
    return state


def _complete_averages(
    tree: Mapping[Any, Any], everything: Sequence[_Candidate], raw: Sequence[_Candidate]
) -> tuple[list[_Candidate], _Averages]:
    """Find averaged weights that are not a whole network, and put them into the raw weights where that makes one.

    Args:
        tree: The file.
        everything: All tensors in it.
        raw: The networks in it, none of them averaged.

    Returns:
        The averaged networks, and why other averages make none.
    """
    found: list[_Candidate] = []
    unused: dict[str, str] = {}

    def add(place: str, one: _Candidate, average: Any) -> None:  # noqa: ANN401 - as hidden_averages yields it
        try:
            if not _are_equal(raw):
                raise NotWholeError("several networks could give it its buffers")
            whole = complete(one.place, average, raw[0].tensors)
        except NotWholeError as error:
            unused.setdefault(place, str(error))
        else:
            is_mixed = any(value is raw[0].tensors[name] for name, value in whole.items())
            buffers_of = raw[0].place if is_mixed else None
            found.append(replace(one, tensors=whole, versions=raw[0].versions, buffers_of=buffers_of))

    names = raw[0].tensors.keys()
    # behind the prefix that has most of the network's names first: what is wrong with that one is said
    for one in sorted(everything, key=lambda one: -len(names & one.tensors.keys())):
        is_inside = any(one.key == net.key and one.prefix.startswith(net.prefix) for net in raw)
        is_done = any(one.key == other.key and one.prefix.startswith(other.prefix) for other in found)
        if one.is_average and not is_inside and not is_done and has_weights(one.tensors):
            add(averaged_part(one.place) if is_averaged(one.place) else one.place, one, one.tensors)
    for place, average in hidden_averages(tree):
        add(place, _Candidate(place, "", {}, (), {}), average)
    return found, _Averages(
        unused={place: why for place, why in unused.items() if not any(_is_below(one.place, place) for one in found)}
    )


def _is_below(place: str, top: str) -> bool:
    return place == top or place.startswith(f"{top}.")


def _prefer(uri: str, fitting: Sequence[_Candidate], ema: bool | None, averages: _Averages) -> tuple[_Candidate, str]:
    """Choose between weights that all fit: the averaged ones, unless the raw ones are asked for.

    Returns:
        The choice, and a note on it; empty if there was none.

    Raises:
        WeightsError: There is more than one choice.
    """
    averaged = [one for one in fitting if averages.has(one)]
    raw = [one for one in fitting if not averages.has(one)]
    if ema and not averaged and averages.unused:
        place, why = next(iter(averages.unused.items()))
        raise WeightsError(f"{uri}: ema=true, but the average under {place} cannot be used: {why}")
    if ema and not averaged:
        raise WeightsError(f"{uri}: ema=true, but it has no averaged weights, only {_few(_places(raw))}")
    if ema is False and not raw:
        raise WeightsError(f"{uri}: ema=false, but it has no raw weights, only {_few(_places(averaged))}")
    left = raw if ema is False or not averaged else averaged
    if len(left) > 1 and not _are_equal(left):
        raise WeightsError(
            f"{uri}: {len(left)} networks in it fit, under {_few(_places(left))}: say which, FILE?key={left[0].place}"
        )
    chosen = left[0]
    if ema is False and averaged and _are_equal([chosen, averaged[0]]):
        return chosen, f"its raw weights ({_places(raw)[0]}) are the same numbers as the averaged ones"
    if chosen.buffers_of is None and (ema is not None or not averaged or not raw):
        return chosen, ""
    where = chosen.place + (f", where {averages.swapper} puts them" if averages.swapper else "")
    if chosen.buffers_of is not None:
        where += f"; its buffers are those of {chosen.buffers_of or 'the file itself'}"
    advice = "; FILE?ema=false takes the raw ones" if ema is None and raw else ""
    return chosen, f"its averaged weights are taken ({where}){advice}"


def _swapper(tree: Mapping[Any, Any], fitting: Sequence[_Candidate]) -> str:
    """The trainer that put the average where others have the raw weights; empty if it was none of those.

    Source: Lightning's ``WeightAveraging.on_save_checkpoint`` (``findings/lightning-average-in-state-dict.sh``),
    MMEngine's ``EMAHook._swap_ema_state_dict``.
    """
    keys = {one.key for one in fitting}
    signs = {_LIGHTNING: True, _MMENGINE: tree.keys() >= _MMENGINE_SIGNS}
    if _SWAPPED_INTO not in keys:
        return ""
    return next((_SWAPPERS[key] for key, is_it in signs.items() if is_it and key in keys), "")


def _are_equal(candidates: Sequence[_Candidate]) -> bool:
    """Whether all hold the same numbers under the same names."""
    first, *others = candidates
    return all(
        one.tensors.keys() == first.tensors.keys()
        and all(_is_equal(value, one.tensors[name]) for name, value in first.tensors.items())
        for one in others
    )


def _is_equal(one: object, other: object) -> bool:
    return isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) and torch.equal(one, other)


def _most_likely(uri: str, checkpoint: Checkpoint, everything: Sequence[_Candidate]) -> _Candidate:
    """Where nothing fits: the tensors that a message should speak of, behind the prefix that all of them have.

    Raises:
        WeightsError: It is known what the file is instead.
    """
    if what := explain_tensors(uri, branches(checkpoint.tree)):
        raise WeightsError(f"{uri}: {what}")
    keys = {one.key for one in everything}
    largest = max(everything, key=lambda one: len(one.tensors)).key
    key = next((place for place in _USUAL_KEYS if place in keys), largest)
    whole, *behind = (one for one in everything if one.key == key and _USUAL_PREFIXES.fullmatch(one.prefix))
    return max((one for one in behind if not one.others), key=lambda one: len(one.prefix), default=whole)


def _explain_none(checkpoint: Checkpoint) -> str:
    """Why a file has no tensors by name."""
    if networks := networks_in(checkpoint.tree):
        return f"refused, because its network is a pickle that carries code ({networks[0]}); save the state dict alone"
    if what := explain_tensors(checkpoint.uri, branches(checkpoint.tree)):
        return what
    names = [str(key) for key in checkpoint.tree]
    if has_deep_tensors(checkpoint.tree):
        return f"its tensors lie in lists or too deep to be looked for, below {_few(names)}; save the state dict alone"
    return f"holds no tensors, only {_few(names)}" if names else "holds no tensors"


def _places(candidates: Sequence[_Candidate]) -> list[str]:
    return [one.place or "the file itself" for one in candidates]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")


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
