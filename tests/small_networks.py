"""Small networks with values as if they had been trained, and whether two compute the same."""

from __future__ import annotations

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torchvision import models as tv

from pipeline.vision import timm_package


def seeded(network: nn.Module) -> nn.Module:
    """Values as if it had been trained: weights that keep the scale, and statistics of norms."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            fan = max(1, tensor[0].numel()) if tensor.ndim > 1 else 25
            noise = torch.randn(tensor.shape, generator=generator) * fan**-0.5
            tensor.copy_(noise.abs() + 0.5 if "running_var" in name else noise)
    return network.eval()


class _NoRandomValues(TorchFunctionMode):
    """Tensors are zeros, because :func:`seeded` fills them: random ones take longer than the rest of a test.

    They may not stay as they come, because torch draws what is outside of bounds again, until nothing is.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        named = kwargs or {}
        is_random = func in {torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.erfinv_}
        if is_random or getattr(func, "__module__", "") == nn.init.__name__:
            tensor = args[0] if args else named["tensor"]
            tensor.detach().zero_()
            return tensor
        return func(*args, **named)


def torchvision(arch: str, **options) -> nn.Module:
    with _NoRandomValues():
        return tv.get_model(arch, weights=None, num_classes=10, **options)


def timm(arch: str, **options) -> nn.Module:
    with _NoRandomValues():
        return timm_package().create_model(arch, num_classes=10, **options)


def any_network(arch: str, **options) -> nn.Module:
    return timm(arch.removeprefix("timm/"), **options) if arch.startswith("timm/") else torchvision(arch, **options)


def same(network: nn.Module, loaded: nn.Module, px: int, channels: int = 3) -> bool:
    inputs = torch.randn(2, 3, px, px, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted = network(inputs if channels == 3 else inputs.mean(dim=1, keepdim=True))
        return torch.allclose(loaded(inputs), wanted, atol=1e-4, rtol=1e-4)


def head(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(*modules)


linear = nn.Linear
norm = nn.BatchNorm1d
