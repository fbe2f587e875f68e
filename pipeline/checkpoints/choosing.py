"""Which of the tensors in a checkpoint are the network's: under which key of the file, behind which prefix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from pipeline.checkpoints.branches import branches, has_deep_tensors
from pipeline.checkpoints.candidates import USUAL_KEYS, USUAL_PREFIXES, Candidate, as_state, find_candidates
from pipeline.checkpoints.kinds import explain_tensors
from pipeline.checkpoints.reading import Checkpoint, networks_in
from pipeline.checkpoints.state import State, make_state
from pipeline.errors import WeightsError
from pipeline.text import fmt

# Trainers that put the average into ``state_dict``, by the key that has the raw weights then, and who they are.
_SWAPPED_INTO = "state_dict"
_LIGHTNING, _MMENGINE = "current_model_state", "ema_state_dict"
_SWAPPERS = {_LIGHTNING: "Lightning's weight averaging", _MMENGINE: "MMEngine's EMAHook"}
_MMENGINE_SIGNS = {"meta", "message_hub"}  # in all of its files; classes for averaging of one's own have none of them

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
class _Averages:
    """What is known of the averaged weights in a file.

    Attributes:
        swapper: The trainer that put the average where others have the raw weights; empty if it was none of those.
        unused: Why averages are not used, by the place where they lie.
    """

    swapper: str = ""
    unused: Mapping[str, str] = field(default_factory=dict)

    def has(self, one: Candidate) -> bool:
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
    everything = list(find_candidates(checkpoint.tree))
    if not everything:
        raise WeightsError(f"{uri}: {_explain_none(checkpoint)}")
    fitting = [candidate for candidate in everything if fits(as_state(candidate.tensors))]
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
            raise WeightsError(f"{uri}: has no tensors under the key {key!r}; there are {fmt.few(places) or 'none'}")
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
        notes.append(f"passed over beside its weights: {fmt.few(chosen.others)}")
    state = make_state(uri, chosen.tensors, chosen.versions)
    return ChosenState(state, chosen.place, is_one_of_several, tuple(notes), as_state(chosen.beside))


def _join_head(one: Candidate, join: Join) -> Candidate | None:
    """Tensors with the head that lies beside them."""
    if (joined := join(as_state(one.tensors), as_state(one.beside))) is None:
        return None
    start = f"{joined.head}."
    return replace(
        one,
        tensors=joined.tensors,
        head=joined.head,
        others=[name for name in one.others if not name.startswith(start)],
        beside={name: value for name, value in one.beside.items() if not name.startswith(start)},
    )


def _complete_averages(
    tree: Mapping[Any, Any], everything: Sequence[Candidate], raw: Sequence[Candidate]
) -> tuple[list[Candidate], _Averages]:
    """Find averaged weights that are not a whole network, and put them into the raw weights where that makes one.

    Args:
        tree: The file.
        everything: All tensors in it.
        raw: The networks in it, none of them averaged.

    Returns:
        The averaged networks, and why other averages make none.
    """
    found: list[Candidate] = []
    unused: dict[str, str] = {}

    def add(place: str, one: Candidate, average: Any) -> None:  # noqa: ANN401 - as hidden_averages yields it
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
        add(place, Candidate(place, "", {}, (), {}), average)
    return found, _Averages(
        unused={place: why for place, why in unused.items() if not any(_is_below(one.place, place) for one in found)}
    )


def _is_below(place: str, top: str) -> bool:
    return place == top or place.startswith(f"{top}.")


def _prefer(uri: str, fitting: Sequence[Candidate], ema: bool | None, averages: _Averages) -> tuple[Candidate, str]:
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
        raise WeightsError(f"{uri}: ema=true, but it has no averaged weights, only {fmt.few(_places(raw))}")
    if ema is False and not raw:
        raise WeightsError(f"{uri}: ema=false, but it has no raw weights, only {fmt.few(_places(averaged))}")
    left = raw if ema is False or not averaged else averaged
    if len(left) > 1 and not _are_equal(left):
        raise WeightsError(
            f"{uri}: {len(left)} networks in it fit, under {fmt.few(_places(left))}: "
            f"say which, FILE?key={left[0].place}"
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


def _swapper(tree: Mapping[Any, Any], fitting: Sequence[Candidate]) -> str:
    """The trainer that put the average where others have the raw weights; empty if it was none of those.

    Source: Lightning's ``WeightAveraging.on_save_checkpoint`` (``findings/lightning-average-in-state-dict.sh``),
    MMEngine's ``EMAHook._swap_ema_state_dict``.
    """
    keys = {one.key for one in fitting}
    signs = {_LIGHTNING: True, _MMENGINE: tree.keys() >= _MMENGINE_SIGNS}
    if _SWAPPED_INTO not in keys:
        return ""
    return next((_SWAPPERS[key] for key, is_it in signs.items() if is_it and key in keys), "")


def _are_equal(candidates: Sequence[Candidate]) -> bool:
    """Whether all hold the same numbers under the same names."""
    first, *others = candidates
    return all(
        one.tensors.keys() == first.tensors.keys()
        and all(_is_equal(value, one.tensors[name]) for name, value in first.tensors.items())
        for one in others
    )


def _is_equal(one: object, other: object) -> bool:
    return isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) and torch.equal(one, other)


def _most_likely(uri: str, checkpoint: Checkpoint, everything: Sequence[Candidate]) -> Candidate:
    """Where nothing fits: the tensors that a message should speak of, behind the prefix that all of them have.

    Raises:
        WeightsError: It is known what the file is instead.
    """
    if what := explain_tensors(uri, branches(checkpoint.tree)):
        raise WeightsError(f"{uri}: {what}")
    keys = {one.key for one in everything}
    largest = max(everything, key=lambda one: len(one.tensors)).key
    key = next((place for place in USUAL_KEYS if place in keys), largest)
    whole, *behind = (one for one in everything if one.key == key and USUAL_PREFIXES.fullmatch(one.prefix))
    return max((one for one in behind if not one.others), key=lambda one: len(one.prefix), default=whole)


def _explain_none(checkpoint: Checkpoint) -> str:
    """Why a file has no tensors by name."""
    if networks := networks_in(checkpoint.tree):
        return f"refused, because its network is a pickle that carries code ({networks[0]}); save the state dict alone"
    if what := explain_tensors(checkpoint.uri, branches(checkpoint.tree)):
        return what
    names = [str(key) for key in checkpoint.tree]
    if has_deep_tensors(checkpoint.tree):
        return (
            f"its tensors lie in lists or too deep to be looked for, below {fmt.few(names)}; save the state dict alone"
        )
    return f"holds no tensors, only {fmt.few(names)}" if names else "holds no tensors"


def _places(candidates: Sequence[Candidate]) -> list[str]:
    return [one.place or "the file itself" for one in candidates]
