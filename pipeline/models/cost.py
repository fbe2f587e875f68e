"""Cost of a network: parameters, operations and activation memory, counted without weights.

On torch's ``meta`` device tensors have shapes only, so a network of any size runs in well under a second. During one
forward pass of one image, the multiplications of every operation are counted, and the bytes of the tensors that are
alive at the same time.
"""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from importlib.metadata import version
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.errors import ModelError
from pipeline.machine import cache_folder
from pipeline.models.cached import MeasurementCache
from pipeline.models.networks import NetworkOptions, NetworkShape, empty_network, make_network
from pipeline.models.weights import MemberSpec

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cost:
    """Size of a network, and cost of one image in fp32.

    Attributes:
        num_params: Number of parameters, without auxiliary heads, which serve training only.
        weights_bytes: Size of its parameters and buffers.
        macs: Multiply-accumulates of its convolutions, linear layers and attention.
        peak_activation_bytes: Most memory in use at one time of a forward pass, without the weights: the input and
            the tensors that later layers need. An operation's own workspace is not counted.
    """

    num_params: int
    weights_bytes: int
    macs: int
    peak_activation_bytes: int


@functools.cache
def measure_cost(shape: NetworkShape) -> Cost:
    """Measure the cost of a network. Networks that do not run on the meta device run on the CPU, which takes seconds.

    Batch norms are not folded, as a classifier may do. So the peak is an upper bound.

    Args:
        shape: The network.

    Raises:
        ModelError: The network cannot compute an image of that size; the message says why.
    """
    name, input_px = shape.architecture.name, shape.input_px
    try:
        return _measure(empty_network(shape).to("meta"), input_px)
    except Exception as error:  # noqa: BLE001 - code that uses the values of tensors fails in many ways
        _log.debug("%s does not run on shapes alone: %s", name, error)
    try:
        return _measure(make_network(shape), input_px)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelError(f"{name} cannot be measured at {input_px} pixels: {reason}") from error


def known_cost(shape: NetworkShape) -> Cost:
    """Look up the cost of a network in this user's cache, or measure it; to measure torch loads its compiler.

    Raises:
        ModelError: The network cannot compute an image of that size.
    """
    cache = MeasurementCache(cache_folder() / "costs.json")
    key = f"{_versions()}: {shape.architecture.name}, {shape.num_classes} classes, {shape.input_px} px"
    if shape.options != NetworkOptions():
        key += f", {shape.options}"
    cached = cache.get(key)
    if isinstance(cached, list) and len(cached) == len(fields(Cost)) and all(type(value) is int for value in cached):
        return Cost(*cached)
    found = measure_cost(shape)
    cache.put(key, astuple(found))
    return found


@functools.cache
def _versions() -> str:
    """Versions of what costs depend on."""
    return " ".join(f"{package} {version(package)}" for package in ("torch", "torchvision", "timm"))


def member_cost(spec: MemberSpec) -> Cost | None:
    """Look up or measure the cost of a member, its head included; None if that fails."""
    try:
        return known_cost(spec.shape)
    except ModelError:
        return None


def _measure(network: nn.Module, input_px: int) -> Cost:
    parameters = list(network.parameters())
    resident = [*parameters, *network.buffers()]
    device = parameters[0].device if parameters else torch.device("meta")
    network.requires_grad_(False)
    counted = _Operations(resident)
    with torch.no_grad(), counted:
        network(torch.zeros(1, 3, input_px, input_px, device=device))
    return Cost(
        num_params=sum(parameter.numel() for parameter in parameters),
        weights_bytes=sum(tensor.numel() * tensor.element_size() for tensor in resident),
        macs=counted.flops // 2,  # a multiplication and an addition
        peak_activation_bytes=counted.peak_bytes,
    )


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch stub
    """Counts operations by torch's formulas, and the bytes of live storages, which views and in-place results share.

    Args:
        resident: Tensors that existed before, which are not counted.

    Attributes:
        flops: Floating point operations so far. torch's own counter would load its compiler, which takes seconds.
        peak_bytes: Most bytes that were alive at one time.
    """

    def __init__(self, resident: Sequence[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch stub
        from torch.utils.flop_counter import flop_registry  # imported late: it imports triton

        self._formulas = flop_registry
        self.flops = self._now = self.peak_bytes = 0
        self._resident = [tensor.untyped_storage() for tensor in resident]
        self._seen: dict[int, weakref.ref[torch.UntypedStorage] | None] = {
            storage._cdata: None for storage in self._resident
        }

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled while this counts; telling the compiler so would load it

    def __torch_dispatch__(
        self,
        func: OpOverload[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the operation returns
        """Run an operation, and count it and its results."""
        named = kwargs or {}
        result = func(*args, **named)
        if (flops := self._formulas.get(func._overloadpacket)) is not None:
            self.flops += flops(*args, **named, out_val=result)
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, num_bytes = storage._cdata, storage.nbytes()
        if address in self._seen:
            return

        def release(_reference: weakref.ref[torch.UntypedStorage]) -> None:
            del self._seen[address]
            self._now -= num_bytes

        self._seen[address] = weakref.ref(storage, release)
        self._now += num_bytes
        self.peak_bytes = max(self.peak_bytes, self._now)
