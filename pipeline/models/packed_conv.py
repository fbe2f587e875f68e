"""Convolutions packed for oneDNN: weights reordered once, and the activation fused into the convolution.

In eager mode torch reorders the weights of every convolution in every forward pass, and writes the result of a
convolution to memory before the activation reads it again. Here the graph of a network is rewritten to avoid both. Each
convolution becomes one oneDNN call with packed weights, its activation, and, in residual blocks, the addition before
it.

torch.compile does the same with ``freezing``. It needs a C++ compiler on every machine and 3 to 35 seconds for each
network, and was no faster (within 4 % on ResNet-18 and MobileNet v2). The operators are those that it calls:
``torch.ops.mkldnn``.
"""

from __future__ import annotations

import copy
import functools
import logging
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import fx, nn
from torch.nn import functional as F  # noqa: N812 - the name the field uses

from pipeline.vision import stochastic_depth

# Operation that oneDNN fuses after a convolution: its name, scalars and algorithm.
Epilogue = tuple[str, tuple[float, ...], str]
_NOTHING: Epilogue = ("none", (), "")
_RELU: Epilogue = ("relu", (), "")
_MODULES: Mapping[type[nn.Module], Epilogue] = {
    nn.ReLU: _RELU,
    nn.ReLU6: ("hardtanh", (0.0, 6.0), ""),
    nn.Hardswish: ("hardswish", (), ""),
    nn.Hardsigmoid: ("hardsigmoid", (), ""),
    nn.SiLU: ("swish", (), ""),
    nn.Sigmoid: ("sigmoid", (), ""),
}
_FUNCTIONS: Mapping[Any, Epilogue] = {
    F.relu: _RELU,
    torch.relu: _RELU,
    F.relu6: _MODULES[nn.ReLU6],
    F.hardswish: _MODULES[nn.Hardswish],
    F.silu: _MODULES[nn.SiLU],
    torch.sigmoid: _MODULES[nn.Sigmoid],
}
# In evaluation mode these return their input.
_IDENTITIES = (nn.Identity, nn.Dropout, nn.Dropout2d)
_IDENTITY_FUNCTIONS = {F.dropout, stochastic_depth}
_METHODS: Mapping[str, Epilogue] = {"relu": _RELU, "relu_": _RELU, "sigmoid": _MODULES[nn.Sigmoid]}
_ADDITIONS = {operator.add, operator.iadd, torch.add}
_AFTER_ADDITION = {"none", "relu"}  # what oneDNN can fuse after an addition

_log = logging.getLogger(__name__)

Sizes = Mapping[str, torch.Size]
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class _Shape:
    """Padding, stride, dilation and groups of a convolution."""

    padding: list[int]
    stride: list[int]
    dilation: list[int]
    groups: int


class PackedConv2d(nn.Module):
    """A convolution with packed weights and an epilogue (a fused operation).

    Args:
        conv: The convolution that it replaces.
        dtype: Type of its weights and inputs.
        input_size: (B, C, H, W) of most of its inputs.
        epilogue: Operation on each value of the result.
        adds: Whether a second input is added before the epilogue.
    """

    def __init__(
        self, conv: nn.Conv2d, dtype: torch.dtype, input_size: torch.Size, epilogue: Epilogue, *, adds: bool
    ) -> None:
        super().__init__()
        padding, stride, dilation = (
            [int(step) for step in steps] for steps in (conv.padding, conv.stride, conv.dilation)
        )
        self._shape = _Shape(padding, stride, dilation, conv.groups)
        weight = conv.weight.detach().to(dtype)
        # plain attributes, because copying or casting would lose oneDNN's layout of packed tensors
        self._weight = torch.ops.mkldnn._reorder_convolution_weight(
            weight, padding, stride, dilation, conv.groups, list(input_size)
        )
        self._bias = None if conv.bias is None else conv.bias.detach().to(dtype)
        self._epilogue = epilogue
        self._adds = adds

    def forward(self, inputs: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        """Convolve, add, activate."""
        shape, (name, numbers, algorithm) = self._shape, self._epilogue
        steps = (shape.padding, shape.stride, shape.dilation, shape.groups)
        result: torch.Tensor
        if other is not None:
            after = None if name == "none" else name
            result = torch.ops.mkldnn._convolution_pointwise.binary(
                inputs, other, self._weight, self._bias, *steps, "add", 1.0, after, list(numbers), algorithm
            )
        else:
            result = torch.ops.mkldnn._convolution_pointwise(
                inputs, self._weight, self._bias, *steps, name, list(numbers), algorithm
            )
        return result


def is_available(dtype: torch.dtype) -> bool:
    """Whether convolutions can be packed in a number format, with this build of torch and on this CPU.

    There are builds without oneDNN. oneDNN itself refuses bfloat16 on an x86 CPU without AVX-512, and float16 on most.
    """
    return bool(torch.backends.mkldnn.enabled) and _can_convolve(dtype)


@functools.cache
def _can_convolve(dtype: torch.dtype) -> bool:
    """Whether a small packed convolution is computed, and right; its numbers are exact in any format."""
    conv = nn.Conv2d(8, 8, 3, bias=False, device="meta").to_empty(device="cpu")  # which takes no random numbers
    nn.init.ones_(conv.weight)
    ones = torch.ones(1, 8, 3, 3)
    try:
        found = PackedConv2d(conv, dtype, ones.shape, _RELU, adds=False)(ones.to(dtype))
    except (AttributeError, RuntimeError) as error:
        _log.debug("convolutions cannot be packed in %s: %s", dtype, str(error).partition("\n")[0])
        return False
    return bool((found == ones.sum()).all())


def pack(network: fx.GraphModule, dtype: torch.dtype, sizes: Sizes) -> fx.GraphModule:
    """Pack the convolutions of a traced network, and cast the network to ``dtype``.

    The result shares its other layers with ``network``, which are cast, too.

    Args:
        network: In evaluation mode, on the CPU, in float32, batch norms folded where possible.
        dtype: float32 or bfloat16.
        sizes: Input sizes of its convolutions, from :func:`record_input_sizes`.
    """
    result = fx.GraphModule(network, copy.deepcopy(network.graph))
    _remove_identities(result)
    modules = dict(result.named_modules())
    for node in list(result.graph.nodes):
        if node.op == "call_module" and node.target in sizes and _is_plain(modules[node.target]):
            _pack_convolution(result, node, modules, dtype, sizes[node.target])
    result.graph.lint()
    result.delete_all_unused_submodules()
    result.recompile()
    return cast(result, dtype)


def cast(network: Module, dtype: torch.dtype) -> Module:
    """Cast all weights in place, except those of batch norms, which compute in float32 on inputs of any type."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype)
    return network


def record_input_sizes(network: nn.Module, example: torch.Tensor, batch: int) -> tuple[torch.Tensor, Sizes]:
    """Run a network, and record the input sizes of its convolutions.

    Args:
        network: The network.
        example: float32, (1, 3, S, S).
        batch: Batch size of most calls.

    Returns:
        Its logits, and the input size of each convolution that is called once, for that batch size.
    """
    sizes: dict[str, torch.Size] = {}
    twice: set[str] = set()

    def watch(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def note(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if name in sizes:
                twice.add(name)
            sizes[name] = torch.Size((batch, *inputs[0].shape[1:]))

        return note

    hooks = [
        module.register_forward_pre_hook(watch(name))
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    try:
        with torch.no_grad():
            logits: torch.Tensor = network(example)
    finally:
        for hook in hooks:
            hook.remove()
    return logits, {name: size for name, size in sizes.items() if name not in twice}


def _remove_identities(network: fx.GraphModule) -> None:
    """Remove layers that only training needs: they stand between convolutions and operations that can be fused."""
    modules = dict(network.named_modules())
    for node in list(network.graph.nodes):
        if node.op == "call_module" and isinstance(modules[str(node.target)], _IDENTITIES):
            pass
        elif node.op != "call_function" or node.target not in _IDENTITY_FUNCTIONS or not _is_evaluation(node):
            continue
        node.replace_all_uses_with(node.args[0])
        network.graph.erase_node(node)


def _is_evaluation(node: fx.Node) -> bool:
    """Whether a call of dropout or the like is in evaluation mode."""
    training = node.kwargs.get("training", node.args[-1])
    return training is False


def _is_plain(module: nn.Module) -> bool:
    return type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str)


def _pack_convolution(
    network: fx.GraphModule, node: fx.Node, modules: Mapping[str, nn.Module], dtype: torch.dtype, size: torch.Size
) -> None:
    """Replace a convolution, and the operations after it that nothing else uses, with a packed one."""
    last, added = node, None
    addition = _only_user(node)
    if addition is not None and addition.op == "call_function" and addition.target in _ADDITIONS:
        added = _other_operand(node, addition)
        if added is not None:
            last = addition
    epilogue = _NOTHING
    follower = _only_user(last)
    found = None if follower is None else _epilogue(follower, modules)
    if follower is not None and found is not None and (added is None or found[0] in _AFTER_ADDITION):
        epilogue, last = found, follower
    conv = modules[str(node.target)]
    assert isinstance(conv, nn.Conv2d)
    packed = PackedConv2d(conv, dtype, size, epilogue, adds=added is not None)
    parent, _, name = str(node.target).rpartition(".")
    setattr(network.get_submodule(parent), name, packed)
    # after the last of them, because only there the added value is certainly computed
    with network.graph.inserting_after(last):
        arguments = (node.args[0],) if added is None else (node.args[0], added)
        call = network.graph.call_module(str(node.target), arguments)
    last.replace_all_uses_with(call)
    for old in _chain(last, node):
        network.graph.erase_node(old)


def _chain(last: fx.Node, first: fx.Node) -> list[fx.Node]:
    """Nodes from the last back to the first; each has one user only."""
    nodes = [last]
    while nodes[-1] is not first:
        nodes.append(next(node for node in nodes[-1].all_input_nodes if node is first or first in node.all_input_nodes))
    return nodes


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _other_operand(node: fx.Node, addition: fx.Node) -> fx.Node | None:
    """The other operand of an addition, if it is a node of the graph."""
    others = [other for other in addition.args if other is not node]
    if len(addition.args) != 2 or addition.kwargs or len(others) != 1 or not isinstance(others[0], fx.Node):
        return None
    return others[0]


def _epilogue(node: fx.Node, modules: Mapping[str, nn.Module]) -> Epilogue | None:
    if node.op == "call_module":
        return _MODULES.get(type(modules[str(node.target)]))
    if node.op == "call_function":
        return _FUNCTIONS.get(node.target)
    return _METHODS.get(str(node.target)) if node.op == "call_method" else None
