"""Convolutions ready for oneDNN: weights laid out once, and what follows a convolution done while it writes.

In eager mode torch lays the weights of every convolution out anew in every forward pass, and writes the
result of a convolution to memory before the activation behind it reads it back. Here the graph of a
network is rewritten so that neither happens: each convolution becomes one call of oneDNN's with its own
packed weights, its activation, and, in residual blocks, the addition before that.

torch.compile does the same with ``freezing``, needs a C++ compiler on every machine and 3 to 35 seconds for
each network, and was no faster (within 4 % on ResNet-18 and MobileNet v2). The operators are those that
it calls: ``torch.ops.mkldnn``.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import fx, nn
from torch.nn import functional as F  # noqa: N812 - the name the field uses
from torchvision.ops import stochastic_depth

# What oneDNN can do to a value before it is written: its name, numbers, and algorithm.
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
# In evaluation mode these give back what they get.
_IDENTITIES = (nn.Identity, nn.Dropout, nn.Dropout2d)
_IDENTITY_FUNCTIONS = {F.dropout, stochastic_depth}
_METHODS: Mapping[str, Epilogue] = {"relu": _RELU, "relu_": _RELU, "sigmoid": _MODULES[nn.Sigmoid]}
_ADDITIONS = {operator.add, operator.iadd, torch.add}
_AFTER_ADDITION = {"none", "relu"}  # what oneDNN does behind an addition

Sizes = Mapping[str, torch.Size]
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class _Shape:
    """How a convolution moves over its input."""

    padding: list[int]
    stride: list[int]
    dilation: list[int]
    groups: int


class PackedConv2d(nn.Module):
    """A convolution with packed weights and an epilogue.

    Args:
        conv: What it replaces.
        dtype: Of its weights and of what it is given.
        input_size: (B, C, H, W) of what it will be given most of the time.
        epilogue: What becomes of each value.
        adds: Whether it is given something to add before the epilogue.
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
        # plain attributes: the layout of packed tensors is oneDNN's own and survives neither copying nor casting
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


def is_available() -> bool:
    """Whether this build of torch has what packing needs."""
    return bool(torch.backends.mkldnn.enabled) and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


def pack(network: fx.GraphModule, dtype: torch.dtype, sizes: Sizes) -> fx.GraphModule:
    """A traced network with packed convolutions, which wants ``dtype``.

    Its other layers are those of the network that is given, and cast with it.

    Args:
        network: In evaluation mode, on the CPU, in float32, batch norms folded where they can be.
        dtype: float32 or bfloat16.
        sizes: What its convolutions are given, from :func:`observe`.
    """
    result = fx.GraphModule(network, copy.deepcopy(network.graph))
    _leave_out_identities(result)
    modules = dict(result.named_modules())
    for node in list(result.graph.nodes):
        if node.op == "call_module" and node.target in sizes and _is_plain(modules[node.target]):
            _replace(result, node, modules, dtype, sizes[node.target])
    result.graph.lint()
    result.delete_all_unused_submodules()
    result.recompile()
    return cast(result, dtype)


def cast(network: Module, dtype: torch.dtype) -> Module:
    """Cast all weights, in place, but those of batch norms, which work in float32 on inputs of any type."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype)
    return network


def observe(network: nn.Module, example: torch.Tensor, batch: int) -> tuple[torch.Tensor, Sizes]:
    """Run a network and watch its convolutions.

    Args:
        network: Any.
        example: float32, (1, 3, S, S).
        batch: Images it will be given at once most of the time.

    Returns:
        Its logits, and the size of what each convolution would be given; only those that are given it once.
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


def _leave_out_identities(network: fx.GraphModule) -> None:
    """Take out what only training needs: it stands between convolutions and what could be done with them."""
    modules = dict(network.named_modules())
    for node in list(network.graph.nodes):
        if node.op == "call_module" and isinstance(modules[str(node.target)], _IDENTITIES):
            pass
        elif node.op != "call_function" or node.target not in _IDENTITY_FUNCTIONS or not _is_idle(node):
            continue
        node.replace_all_uses_with(node.args[0])
        network.graph.erase_node(node)


def _is_idle(node: fx.Node) -> bool:
    """Whether a call of dropout or the like says that this is not training."""
    training = node.kwargs.get("training", node.args[-1])
    return training is False


def _is_plain(module: nn.Module) -> bool:
    return type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str)


def _replace(
    network: fx.GraphModule, node: fx.Node, modules: Mapping[str, nn.Module], dtype: torch.dtype, size: torch.Size
) -> None:
    """Put a packed convolution in place of a plain one and of what follows it, where nobody else looks at that."""
    last, added = node, None
    addition = _only_user(node)
    if addition is not None and addition.op == "call_function" and addition.target in _ADDITIONS:
        added = _added_to(node, addition)
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
    # where the last of them stood, because only there is what is added certain to be known
    with network.graph.inserting_after(last):
        arguments = (node.args[0],) if added is None else (node.args[0], added)
        call = network.graph.call_module(str(node.target), arguments)
    last.replace_all_uses_with(call)
    for old in _chain(last, node):
        network.graph.erase_node(old)


def _chain(last: fx.Node, first: fx.Node) -> list[fx.Node]:
    """The nodes from the last back to the first, which each had one user only."""
    nodes = [last]
    while nodes[-1] is not first:
        nodes.append(next(node for node in nodes[-1].all_input_nodes if node is first or first in node.all_input_nodes))
    return nodes


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _added_to(node: fx.Node, addition: fx.Node) -> fx.Node | None:
    """The other side of an addition, where that is a tensor of the same shape as far as the graph tells."""
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
