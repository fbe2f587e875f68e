"""What an architecture needs of a state dict: names and shapes, where its head is, which inputs it takes."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from pipeline.errors import WeightsError
from pipeline.models.catalog import Architecture
from pipeline.models.heads import HeadRoot, head_roots
from pipeline.models.networks import NetworkOptions, NetworkShape, empty_network

_UNUSUAL_CLASSES = 1009  # a prime number that is no width of any layer
_USUAL = NetworkOptions()


@dataclass(frozen=True, slots=True)
class Anatomy:
    """An architecture's usual network, as far as loading a state dict is concerned.

    Attributes:
        shapes: Of its tensors, by name; with 1,009 classes.
        heads: Numbers of dimensions of the tensors that depend on the number of classes, by name.
        roots: Modules that people replace by another head; the head's last layer first. Empty where its last layer is
            not linear, or where it has several heads.
        fixed_px: Side of the only input that it takes, pixels; None if it takes others.
        prefix_tokens: Rows of timm's position table that are no patches.
        window_size: Of timm's Swin, patches; None for others.
    """

    shapes: Mapping[str, torch.Size]
    heads: Mapping[str, int]
    roots: tuple[HeadRoot, ...]
    fixed_px: int | None = None
    prefix_tokens: int | None = None
    window_size: int | None = None

    @property
    def places(self) -> tuple[str, ...]:
        """Names of the modules that the head may be in; the innermost first."""
        return tuple(root.name for root in self.roots) or (self.head,)

    def body(self, root: str) -> list[str]:
        """Names of the tensors outside of a head that any file of the architecture has."""
        return [key for key in self.shapes if not key.startswith(f"{root}.") and not is_counter(key)]

    @property
    def head(self) -> str:
        """Name of the head's last layer."""
        return next(iter(self.heads)).rpartition(".")[0]


def is_counter(key: str) -> bool:
    """Whether a tensor is the counter of a batch norm: older files have none, and only training uses it."""
    return key.endswith("num_batches_tracked")


@functools.cache
def study(architecture: Architecture, input_px: int, options: NetworkOptions = _USUAL) -> Anatomy:
    """Build an architecture's network without values, and look at it.

    Args:
        architecture: Which.
        input_px: Side of its input, pixels, where the network depends on it.
        options: How the network differs from the usual one.

    Raises:
        WeightsError: It cannot be built so.
    """
    try:
        network = empty_network(NetworkShape(architecture, _UNUSUAL_CLASSES, input_px, options))
    except Exception as error:
        if options == _USUAL:
            raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise WeightsError(f"{architecture.name} cannot be built with {options.constructor}: {reason}") from error
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    heads = {key: len(shape) for key, shape in shapes.items() if _UNUSUAL_CLASSES in shape}
    layers = list(dict.fromkeys(key.rpartition(".")[0] for key in heads))
    roots: tuple[HeadRoot, ...] = ()
    if len(layers) == 1 and isinstance(network.get_submodule(layers[0]), nn.Linear):
        roots = tuple(head_roots(network, layers[0]))
    patches = getattr(network, "patch_embed", None)
    size = getattr(patches, "img_size", None)
    fixed_px = int(size[0]) if size is not None and getattr(patches, "strict_img_size", False) else None
    prefix = None
    if patches is not None and "pos_embed" in shapes and len(shapes["pos_embed"]) == 3:
        prefix = shapes["pos_embed"][1] - int(getattr(patches, "num_patches", 0))
    window = getattr(getattr(network, "layers", None), "0", None)
    return Anatomy(shapes, heads, roots, fixed_px, prefix, _window_size(window))


def _window_size(stage: nn.Module | None) -> int | None:
    """Side of the windows in the first stage of timm's Swin, patches."""
    block = next(iter(getattr(stage, "blocks", ())), None)
    size = getattr(block, "window_size", None)
    return int(size[0]) if isinstance(size, tuple) else None
