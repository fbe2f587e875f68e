"""What a network is made of and what one image costs it, counted on a network whose tensors have no data.

torch's ``meta`` device runs a network on shapes alone, in well under a second whatever its size. While one
image goes through, every operation is seen: its multiplications are counted, and so are the bytes of the
tensors that are alive at the same time.
"""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pipeline.errors import ModelError
from pipeline.models.catalog import Architecture, find
from pipeline.models.weights import MemberSpec, empty_network

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a network is made of, and what one image costs it in fp32.

    Attributes:
        num_params: Parameters. Auxiliary heads, which serve training only, are not among them.
        weights_bytes: Of its parameters and buffers.
        macs: Multiply-accumulates of its convolutions, linear layers and attention.
        peak_activation_bytes: The most that is alive at one moment of a forward pass, without the weights: the
            input and the tensors that later layers still need. An operation's own workspace is not seen.
    """

    num_params: int
    weights_bytes: int
    macs: int
    peak_activation_bytes: int


@functools.cache
def measure(architecture: Architecture, num_classes: int, input_px: int) -> Cost:
    """Take a network apart. Networks that do not run on shapes alone run on the CPU, which takes seconds.

    Batch norms are left as they are. Where a classifier folds them into the convolutions before them, it
    holds a little less at its peak: the figure is an upper bound.

    Args:
        architecture: The network.
        num_classes: Size of its head.
        input_px: Side of its input.

    Raises:
        ModelError: It cannot take an image of that size apart from its weights; the message says why.
    """
    try:
        return _measured(empty_network(architecture, num_classes, input_px).to("meta"), input_px)
    except Exception as error:  # noqa: BLE001 - code that looks at the values of tensors fails in many ways
        _log.debug("%s does not run on shapes alone: %s", architecture.name, error)
    try:
        return _measured(architecture.build(num_classes, input_px), input_px)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelError(f"{architecture.name} cannot be measured at {input_px} pixels: {reason}") from error


def of_member(spec: MemberSpec) -> Cost | None:
    """The cost of a member of an ensemble, its head included; None where its network cannot be taken apart."""
    try:
        return measure(find(spec.arch), spec.num_classes, spec.recipe.geometry.crop_px)
    except ModelError:
        return None


def _measured(network: nn.Module, input_px: int) -> Cost:
    parameters = list(network.parameters())
    resident = [*parameters, *network.buffers()]
    device = parameters[0].device if parameters else torch.device("meta")
    network.requires_grad_(False)
    operations, live = FlopCounterMode(display=False), _LiveBytes(resident)
    with torch.no_grad(), operations, live:
        network(torch.zeros(1, 3, input_px, input_px, device=device))
    return Cost(
        num_params=sum(parameter.numel() for parameter in parameters),
        weights_bytes=sum(tensor.numel() * tensor.element_size() for tensor in resident),
        macs=operations.get_total_flops() // 2,  # a multiplication and an addition
        peak_activation_bytes=live.peak,
    )


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch stub
    """Counts the bytes of storages that come and go; views and in-place results share one storage.

    Args:
        resident: Tensors that were there before, and do not count.

    Attributes:
        peak: The most bytes that were alive at once.
    """

    def __init__(self, resident: Sequence[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch stub
        self._now = self.peak = 0
        self._resident = [tensor.untyped_storage() for tensor in resident]
        self._seen: dict[int, weakref.ref[torch.UntypedStorage] | None] = {
            storage._cdata: None for storage in self._resident
        }

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the operation returns
        """Run an operation and count what it made."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, num_bytes = storage._cdata, storage.nbytes()
        if address in self._seen:
            return

        def gone(_reference: weakref.ref[torch.UntypedStorage]) -> None:
            del self._seen[address]
            self._now -= num_bytes

        self._seen[address] = weakref.ref(storage, gone)
        self._now += num_bytes
        self.peak = max(self.peak, self._now)
