"""How many images a network takes best in one forward pass: by rule, or tried on the machine and remembered.

On a CPU the activations of a pass should stay in a core's own cache, so few images are best: 4 in fp32 and 8 in
half the bytes ran up to 1.5 times as fast as 32, most of all with several threads. Networks that consist of
large linear layers read their weights in every pass, and want more images for that. Which of both weighs more
depends on the network and the machine; trying takes seconds, so it is done for long jobs only, and remembered.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pipeline.machine import cpu_name

CPU_SIZES = (4, 8, 16)
GPU_SIZES = (64, 128, 256)
_GPU_DEFAULT = 128
_NEARLY = 0.97  # of the best rate: the smaller size is as good
# A network that is little else than linear layers of more than this reads them from memory in every pass. AlexNet runs
# 1.3 times as fast with 16 images at a time as with 4; VGG, whose convolutions weigh more, as fast with either.
_LARGE_LINEAR_BYTES, _LARGE_LINEAR_SHARE = 64 << 20, 0.75
_TRIAL_S, _ROUNDS = 0.25, 2
_TOO_SLOW_S = 2.0  # for one pass: a network that large gains nothing from more images
_LONG_S = 300.0
_MACS_PER_CORE_S = 50e9  # what a core does, about: enough to tell minutes from hours


def default_size(device: torch.device, dtype: torch.dtype, network: nn.Module) -> int:
    """Images in one forward pass where nothing was tried.

    Args:
        device: Where.
        dtype: Of the activations.
        network: In float32.
    """
    linear = sum(module.weight.nbytes for module in network.modules() if isinstance(module, nn.Linear))
    large = linear > _LARGE_LINEAR_BYTES and linear > _LARGE_LINEAR_SHARE * sum(p.nbytes for p in network.parameters())
    return CPU_SIZES[-1] if large and device.type == "cpu" else usual_size(device, dtype)


def usual_size(device: torch.device, dtype: torch.dtype) -> int:
    """The same for most networks."""
    if device.type != "cpu":
        return _GPU_DEFAULT
    return 4 if dtype == torch.float32 else 8


def is_long(total_macs: int, num_images: int, num_cores: int) -> bool:
    """Whether trying pays: whether computing would take minutes.

    Args:
        total_macs: Multiplications of all members for one image.
        num_images: How many there are.
        num_cores: Of the machine that computes them.
    """
    return total_macs * num_images > _LONG_S * _MACS_PER_CORE_S * num_cores


def smallest_of_the_best(sizes: Sequence[int], images_per_s: Callable[[int], float]) -> int:
    """The smallest size that is nearly as fast as the fastest: it leaves the most memory.

    Args:
        sizes: Ascending.
        images_per_s: Tries one; 0 for a size that does not work, and then no larger one is tried.
    """
    rates: dict[int, float] = {}
    for size in sizes:
        rates[size] = images_per_s(size)
        if not rates[size]:
            break
    return next(size for size in sizes if rates[size] >= _NEARLY * max(rates.values()))


@dataclass(frozen=True, slots=True)
class Tuning:
    """What labelers know and may try about sizes on a CPU.

    Attributes:
        num_lanes: Threads that run forward passes at the same time.
        trying: Whether what is not remembered may be tried.
        memory: File of what was found on this machine; None keeps nothing. It is a cache: losing it costs seconds.
    """

    num_lanes: int = 1
    trying: bool = False
    memory: Path | None = None

    def size(self, key: str, images_per_s: Callable[[int], float]) -> int | None:
        """The best size as remembered, or as found by trying; None where neither is to be had.

        Args:
            key: Names the network and what it computes in; the machine is added here.
            images_per_s: Tries one of :data:`CPU_SIZES`; see :func:`smallest_of_the_best`.
        """
        remembered = self._remembered()
        key = f"{cpu_name()}, {self.num_lanes} threads, torch {torch.__version__}: {key}"
        size = remembered.get(key)
        if size in CPU_SIZES:
            return size
        if not self.trying:
            return None
        found = smallest_of_the_best(CPU_SIZES, images_per_s)
        self._remember({**remembered, key: found})
        return found

    def _remembered(self) -> dict[str, int]:
        if self.memory is None:
            return {}
        try:
            loaded = json.loads(self.memory.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return loaded if isinstance(loaded, dict) else {}

    def _remember(self, sizes: dict[str, int]) -> None:
        if self.memory is None:
            return
        with contextlib.suppress(OSError):  # a home that cannot be written: it is tried again next time
            self.memory.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.memory.parent, delete=False, encoding="utf-8") as file:
                json.dump(sizes, file, indent=1, sort_keys=True)
            os.replace(file.name, self.memory)


def rate_on_lanes(call: Callable[[], object], images: int, num_lanes: int) -> float:
    """Images per second when so many threads, each with one torch thread, call something over and over.

    Args:
        call: Goes through some images once.
        images: How many.
        num_lanes: Threads.

    Returns:
        The better of two rounds; 0 for what is too slow to be tried.
    """
    rates = [0.0] * num_lanes
    failures: list[BaseException] = []

    def lane(number: int) -> None:
        torch.set_num_threads(1)  # it counts for the thread that calls it
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

    threads = [threading.Thread(target=lane, args=(number,), name="trial") for number in range(num_lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return sum(rates) if all(rates) else 0.0
