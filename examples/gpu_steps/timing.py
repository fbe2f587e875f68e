"""Rates of calls on a device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

_ROUNDS = 3


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], object], device: torch.device, times: int = 1) -> float:
    """Seconds that so many calls take on the device."""
    wait(device)
    began = time.perf_counter()
    for _ in range(times):
        call()
    wait(device)
    return time.perf_counter() - began


def rate(call: Callable[[], object], per_call: float, device: torch.device, seconds: float = 0.4) -> float:
    """How much a second: the median of three rounds, after two calls that do not count."""
    seconds_of(call, device)
    times = max(1, int(seconds / _ROUNDS / max(seconds_of(call, device), 1e-5)))
    return per_call * times / statistics.median(seconds_of(call, device, times) for _ in range(_ROUNDS))
