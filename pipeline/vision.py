"""torchvision and timm, imported without torch's compiler, which takes half of the time.

torchvision 0.29 loads ``torch._dynamo``, and sympy with it, for one function and one decorator, and timm 1.0 for a few
methods of one network (``findings/torchvision-loads-dynamo.sh``). While they are imported, stand-ins take their place
that load the compiler once somebody compiles. Both are imported from here, so that it is so in every process.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

_COMPILER = "torch._dynamo"


def _is_compile_supported(device_type: str) -> bool:
    from torch._dynamo.utils import is_compile_supported

    return bool(is_compile_supported(device_type))


def _not_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.compiler.disable`` that has an effect only where the compiler is loaded."""

    @functools.cache
    def disabled() -> Callable[..., Any]:
        outside_graphs: Callable[..., Any] = torch.compiler.disable(function)  # type: ignore[no-untyped-call]  # torch's own
        return outside_graphs

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - it is what the function is
        return (disabled() if _COMPILER in sys.modules else function)(*args, **kwargs)

    return call


@contextmanager
def _without_compiler() -> Iterator[None]:
    if _COMPILER in sys.modules:
        yield
        return
    package, utils = ModuleType(_COMPILER), ModuleType(f"{_COMPILER}.utils")
    package.__path__ = []
    package.utils, utils.is_compile_supported = utils, _is_compile_supported  # type: ignore[attr-defined]  # made here
    disable = torch.compiler.disable
    sys.modules |= {package.__name__: package, utils.__name__: utils}
    torch.compiler.disable = _not_compiled  # type: ignore[assignment]  # put back below
    try:
        yield
    finally:
        torch.compiler.disable = disable
        del sys.modules[package.__name__], sys.modules[utils.__name__]


with _without_compiler():
    from torchvision import models
    from torchvision.ops import stochastic_depth
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

__all__ = ["InterpolationMode", "functional", "models", "stochastic_depth", "timm_package"]


@functools.cache
def timm_package() -> ModuleType:
    """Import timm, which takes a second, where a network of timm is asked for."""
    with _without_compiler():
        return importlib.import_module("timm")
