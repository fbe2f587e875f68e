"""Fit the tensors of a checkpoint to an architecture: which classes, which head, which input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from pipeline.checkpoints.choosing import Fits
from pipeline.checkpoints.state import State
from pipeline.config.member_options import MemberOptions
from pipeline.errors import WeightsError
from pipeline.models.anatomy import Anatomy, is_counter, study
from pipeline.models.catalog import Architecture
from pipeline.models.heads import Head, find_head
from pipeline.models.networks import NetworkOptions, NetworkShape, empty_network, load_network
from pipeline.models.sizes import check_tables, find_input_size
from pipeline.text import fmt

_PROBE_CLASSES = 1000
_UNCLEAR_HEAD = "how its head computes is not told: only linear layers and norms in one nn.Sequential are built again"
_NOTHING_SAID = MemberOptions()
_USUAL = NetworkOptions()


@dataclass(frozen=True, slots=True)
class FittedNetwork:
    """A network that was loaded from a checkpoint.

    Attributes:
        shape: How it is built again.
        network: It, in evaluation mode, without gradients.
        notes: What a user should know about it.
    """

    shape: NetworkShape
    network: nn.Module
    notes: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        """Of the network: numbers for an image."""
        return 1 if self.shape.options.is_binary else self.shape.num_classes


@dataclass(frozen=True, slots=True)
class WantedNetwork:
    """What is asked of a network.

    Attributes:
        architecture: Which.
        input_px: Side of its input by its preprocessing, pixels.
        px_is_said: Whether that is more than the architecture's default: tensors for another size are refused then.
        is_published: Whether the weights are known to be published ones.
        options: What the request says.
        built: How the file says that it was built.
    """

    architecture: Architecture
    input_px: int
    px_is_said: bool = False
    is_published: bool = False
    options: MemberOptions = _NOTHING_SAID
    built: NetworkOptions = _USUAL

    @property
    def anatomy(self) -> Anatomy:
        """Of its architecture."""
        return study(self.architecture, self.input_px, self.built)


def tell_fit(wanted: WantedNetwork) -> Fits:
    """Make the test of whether tensors are those of an architecture, whatever their head and their input."""
    anatomy = wanted.anatomy

    def has_all(state: State, root: str) -> bool:
        heads = (key.startswith(f"{root}.") and key.endswith("weight") for key in state)
        return all(key in state for key in anatomy.body(root)) and any(heads)

    def fits(state: State) -> bool:
        if any(has_all(state, root) for root in anatomy.places):
            return True
        if len(state) < len(anatomy.shapes) / 2:
            return False
        usual = NetworkShape(wanted.architecture, _PROBE_CLASSES, wanted.input_px, wanted.built)
        converted = _convert_names(usual, state)
        return any(has_all(converted, root) for root in anatomy.places)

    return fits


def fit_network(wanted: WantedNetwork, state: State, uri: str) -> FittedNetwork:
    """Load tensors into the network that they are of.

    Args:
        wanted: The network.
        state: The tensors.
        uri: Where the tensors came from, for messages.

    Raises:
        WeightsError: They do not fit.
    """
    check_tables(state, wanted.anatomy, uri)
    shape, notes = _fit_input(wanted, state, uri)
    state = _convert_names(shape, state)
    state, note = _spread_channel(wanted.anatomy, state)
    notes += note
    head = _find_own_head(wanted, state, uri)
    if head is None:
        num_classes = _num_classes(wanted.anatomy, wanted.architecture.name, state, uri)
    else:
        num_classes = head.num_classes
        notes.append(_describe_head(head, wanted.options))
    options = replace(shape.options, head=head, is_binary=True if num_classes == 1 else None)
    if options.is_binary:
        notes.append("its one output is taken for the logit of the second of two classes, as of a sigmoid")
    fitted = replace(shape, num_classes=2 if options.is_binary else num_classes, options=options)
    return FittedNetwork(fitted, load_network(fitted, state, uri), tuple(notes))


def _fit_input(wanted: WantedNetwork, state: State, uri: str) -> tuple[NetworkShape, list[str]]:
    """Find out which input the tensors are for.

    Raises:
        WeightsError: Not for the one that was asked for.
    """
    architecture, anatomy, asked_px = wanted.architecture, wanted.anatomy, wanted.input_px
    transform_input, notes = wanted.options.transform_input, []
    if transform_input is not None and not architecture.transforms_input:
        raise WeightsError(f"{architecture.name} has no transform_input, only googlenet and inception_v3 have")
    if architecture.transforms_input and transform_input is None and not wanted.is_published:
        notes.append(
            "the network normalises its input once more, as published weights want it; "
            "for one that was trained from scratch say FILE?transform_input=false"
        )
    found = find_input_size(state, anatomy)
    input_px = asked_px if found is None else found.input_px
    if found is not None and input_px != asked_px:
        if wanted.px_is_said:
            raise WeightsError(f"{uri}: {found.told_by} is made for inputs of {input_px} pixels, not {asked_px}")
        notes.append(f"its input is {input_px} pixels, as {found.told_by} tells")
    options = replace(
        wanted.built,
        transform_input=transform_input,
        img_size=input_px if anatomy.fixed_px not in {None, input_px} else None,
        window_size=found.window_size if found and found.window_size else wanted.built.window_size,
    )
    return NetworkShape(architecture, _PROBE_CLASSES, input_px, options), notes


def _convert_names(shape: NetworkShape, state: State) -> State:
    """Convert a checkpoint of the authors' own code to timm's tensor names, if timm has a converter."""
    if (translate := shape.architecture.checkpoint_converter) is None:
        return state
    if state.keys() == study(shape.architecture, shape.input_px, shape.options).shapes.keys():
        return state
    network = empty_network(shape)
    try:
        translated: dict[str, torch.Tensor] = translate(dict(state), network)
    except Exception:  # noqa: BLE001 - timm's converters fail in many ways on other files
        return state  # the error comes when it is loaded
    converted = State(translated)
    converted._metadata = state._metadata
    return converted


def _spread_channel(anatomy: Anatomy, state: State) -> tuple[State, list[str]]:
    """Give a first convolution of one channel three, which see a third each: together the mean of the channels."""
    wanted = [key for key, shape in anatomy.shapes.items() if len(shape) == 4 and shape[1] == 3]
    single = [key for key in wanted if key in state and state[key].ndim == 4 and state[key].shape[1] == 1]
    if not single:
        return state, []
    spread = State({key: value.repeat(1, 3, 1, 1) / 3 if key in single else value for key, value in state.items()})
    spread._metadata = state._metadata
    return spread, ["its one input channel gets the mean of red, green and blue, each normalised"]


def _find_own_head(wanted: WantedNetwork, state: State, uri: str) -> Head | None:
    """Find a head that is not the architecture's own; None if it is that one, or none that can be built again.

    Raises:
        WeightsError: An activation was named for a head that has no place for one.
    """
    anatomy, activation = wanted.anatomy, wanted.options.head
    head = None
    if not _has_usual_head(anatomy, state):
        for root in anatomy.roots:
            if _is_all_but(anatomy, root.name, state):
                head = find_head(state, root, activation)
            if head is not None:
                break
    if activation is not None and not (head and head.activations):
        raise WeightsError(f"{uri}: head={activation} is no use: its head has no linear layers with room between them")
    return head


def _is_all_but(anatomy: Anatomy, root: str, state: State) -> bool:
    """Whether the body is there, and nothing else of the head lies around the module that another head may be in."""
    body, outermost = anatomy.body(root), f"{anatomy.places[-1]}."
    around = {key for key in state if key.startswith(outermost) and not key.startswith(f"{root}.")}
    return all(key in state for key in body) and around <= {*body}


def _has_usual_head(anatomy: Anatomy, state: State) -> bool:
    """Whether the architecture's own head is there, in its own sizes but for the number of classes.

    A head with other sizes, with a bias more or less, or with other layers before the last one is built again.
    """
    if not anatomy.roots:
        return all(key in state and state[key].ndim == ndim for key, ndim in anatomy.heads.items())
    start = f"{anatomy.places[-1]}."

    def sizes(shapes: Mapping[str, torch.Size]) -> dict[str, torch.Size]:
        found = {key: shape for key, shape in shapes.items() if key.startswith(start) and not is_counter(key)}
        return {key: shape[1:] if key in anatomy.heads else shape for key, shape in found.items()}

    return sizes(anatomy.shapes) == sizes({key: value.shape for key, value in state.items()})


def _describe_head(head: Head, options: MemberOptions) -> str:
    note = f"its head is {head.describe()}"
    if head.begins_late:
        note += "; what stands before it without tensors is taken for dropout"
    if head.has_layer_norm:
        note += "; a norm without statistics is taken for a layer norm, and may be a group norm"
    if head.activations and options.head is None:
        note += "; a state dict does not name activations, and ReLU is assumed: FILE?head=gelu says another"
        if head.has_two_places:
            note += ". Its place is assumed, too: before the norm, and dropout behind it"
    return note


def _num_classes(anatomy: Anatomy, name: str, state: State, uri: str) -> int:
    """Read the number of classes from the checkpoint's classifier head."""
    sizes = {state[key].shape[0] for key, ndim in anatomy.heads.items() if key in state and state[key].ndim == ndim}
    if len(sizes) != 1:
        missing = [key for key in anatomy.shapes if key not in state]
        surplus = [key for key in state if key not in anatomy.shapes]
        what = (
            f"of its {len(anatomy.shapes)} tensors {len(missing)} are missing ({fmt.few(missing) or 'none'}), "
            f"and {len(surplus)} others are there ({fmt.few(surplus) or 'none'})"
        )
        if all(key in state for key in anatomy.body(anatomy.head)):
            what += "; the body is there, but " + (_UNCLEAR_HEAD if surplus else "no head: classes cannot be told")
        raise WeightsError(f"{uri}: does not fit {name}: {what}")
    return int(sizes.pop())
