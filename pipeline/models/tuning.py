"""The best batch size of a network: by rule, or on a CPU measured on the machine and cached.

On a CPU the activations of a forward pass should stay in a core's own cache, so small batches are best: 4 images in
fp32 and 8 in bf16 ran up to 1.5 times as fast as 32, above all with several threads. Networks of large linear layers
read their weights in every pass, so larger batches are best. Which effect is stronger depends on the network and the
machine. Measuring takes seconds, so it is done for long jobs only, and the result is cached.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pipeline.machine import cpu_name
from pipeline.models.cached import MeasurementCache

CPU_BATCH_SIZES = (4, 8, 16)
_GPU_BATCH_SIZE = 128  # by rule: a stopwatch would choose another one now and then, which rounds in another way
_NEARLY_BEST = 0.97  # share of the best rate at which the smaller size is chosen
# A network whose weights are mostly linear layers, larger than this, reads them from memory in every pass. AlexNet runs
# 1.3 times as fast with 16 images at a time as with 4; VGG, whose convolutions count more, as fast with either.
_LARGE_LINEAR_BYTES, _LARGE_LINEAR_SHARE = 64 << 20, 0.75
_TRIAL_S, _ROUNDS = 0.25, 2
_TOO_SLOW_S = 2.0  # for one pass: so large a network gains nothing from more images
_LONG_S = 300.0
_MACS_PER_CORE_S = 50e9  # a rough rate, enough to tell minutes from hours


def default_batch_size(device: torch.device, dtype: torch.dtype, network: nn.Module) -> int:
    """Choose a batch size by rule.

    Args:
        device: The device.
        dtype: Type of the activations.
        network: The network, in float32.
    """
    linear = sum(module.weight.nbytes for module in network.modules() if isinstance(module, nn.Linear))
    large = linear > _LARGE_LINEAR_BYTES and linear > _LARGE_LINEAR_SHARE * sum(p.nbytes for p in network.parameters())
    return CPU_BATCH_SIZES[-1] if large and device.type == "cpu" else usual_batch_size(device, dtype)


def usual_batch_size(device: torch.device, dtype: torch.dtype) -> int:
    """Choose a batch size by rule, for networks without large linear layers."""
    if device.type != "cpu":
        return _GPU_BATCH_SIZE
    return 4 if dtype == torch.float32 else 8


def is_worth_tuning(total_macs: int, num_images: int, num_cores: int) -> bool:
    """Whether measuring batch sizes pays, because the job takes minutes.

    Args:
        total_macs: Multiply-accumulates of all members for one image.
        num_images: Number of images.
        num_cores: Cores of the machine.
    """
    return total_macs * num_images > _LONG_S * _MACS_PER_CORE_S * num_cores


def pick_batch_size(sizes: Sequence[int], images_per_s: Callable[[int], float]) -> int:
    """Pick the smallest batch size that is nearly as fast as the fastest, because it needs the least memory.

    Args:
        sizes: Batch sizes, ascending.
        images_per_s: Measures one; 0 for a size that does not work, and then no larger one is measured.
    """
    rates: dict[int, float] = {}
    for size in sizes:
        rates[size] = images_per_s(size)
        if not rates[size]:
            break
    return next(size for size in sizes if rates[size] >= _NEARLY_BEST * max(rates.values()))


@dataclass(frozen=True, slots=True)
class Tuning:
    """Finds batch sizes on a CPU: cached, or measured.

    Attributes:
        num_threads: Threads that run forward passes at the same time.
        may_measure: Whether to measure batch sizes that are not cached.
        cache_file: File of the sizes found on this machine; None for no cache. Losing it costs seconds.
    """

    num_threads: int = 1
    may_measure: bool = False
    cache_file: Path | None = None

    def best_batch_size(self, key: str, images_per_s: Callable[[int], float]) -> int | None:
        """Look up the best batch size, or measure it; None if it is not cached and may not be measured.

        Args:
            key: Network and number format; the machine is added here.
            images_per_s: Measures one of :data:`CPU_BATCH_SIZES`; see :func:`pick_batch_size`.
        """
        cache = MeasurementCache(self.cache_file)
        key = f"{cpu_name()}, {self.num_threads} threads, torch {torch.__version__}: {key}"
        cached = cache.get(key)
        if cached in CPU_BATCH_SIZES:
            return int(cached)
        if not self.may_measure:
            return None
        found = pick_batch_size(CPU_BATCH_SIZES, images_per_s)
        cache.put(key, found)
        return found


def measure_rate(call: Callable[[], object], images: int, num_threads: int) -> float:
    """Measure images per second of several threads, each with one torch thread.

    Args:
        call: Computes a batch of images once.
        images: Number of images in the batch.
        num_threads: Number of threads that call it again and again.

    Returns:
        The better of two rounds; 0 if it is too slow to be measured.
    """
    rates = [0.0] * num_threads
    failures: list[BaseException] = []

    def run(number: int) -> None:
        torch.set_num_threads(1)  # the setting is per thread
        try:
            begun = time.perf_counter()
            call()
            if time.perf_counter() - begun > _TOO_SLOW_S:
                return
            for _ in range(_ROUNDS):
                begun, calls = time.perf_counter(), 0
                while time.perf_counter() - begun < _TRIAL_S:
                    call()
                    calls += 1
                rates[number] = max(rates[number], calls * images / (time.perf_counter() - begun))
        except BaseException as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,), name="trial") for number in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return sum(rates) if all(rates) else 0.0
