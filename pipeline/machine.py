"""What this machine has to offer: CPUs, GPUs, memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
_UNLIMITED_BYTES = 1 << 60  # version 1 of control groups writes no limit as a number near 2^63


def num_local_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def has_bfloat16(root: Path = Path("/")) -> bool:
    """Whether this CPU multiplies bfloat16 numbers itself (AVX-512 BF16, AMX, or Arm's BF16).

    Args:
        root: Where ``proc`` is found.
    """
    for line in _lines(root / "proc/cpuinfo"):
        name, _, value = line.partition(":")
        if name.strip() in {"flags", "Features"}:
            return not _BFLOAT16_FLAGS.isdisjoint(value.split())
    return False


def cpu_name(root: Path = Path("/")) -> str:
    """What this CPU is called; empty where nobody says so.

    Args:
        root: Where ``proc`` is found.
    """
    for line in _lines(root / "proc/cpuinfo"):
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return ""


def cache_folder() -> Path:
    """Where this user's caches are; losing what is in it costs time, nothing else."""
    return Path.home() / ".cache" / "shardlabel"


def num_local_gpus() -> int:
    """GPUs that this process may use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def smallest_gpu_bytes() -> int:
    """Memory of the smallest GPU, in use or not; it takes none of it."""
    import torch

    return min(torch.cuda.get_device_properties(gpu).total_memory for gpu in range(torch.cuda.device_count()))


def device_memory_bytes() -> tuple[int, int]:
    """Memory of torch's current GPU: in use by whomever, and all of it."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return total - free, total


def process_memory_bytes(root: Path = Path("/")) -> int | None:
    """Resident memory of this process; None where nobody says so.

    Args:
        root: Where ``proc`` is found.
    """
    for line in _lines(root / "proc/self/statm"):
        return int(line.split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None


def available_memory_bytes(root: Path = Path("/")) -> int | None:
    """Memory that this process could still take without pushing anything out; None where nobody says so.

    It is what the kernel calls available, or less where a control group (a container, a batch system) sets a
    limit. File contents that are cached count as free in both.

    Args:
        root: Where ``proc`` and ``sys`` are found.
    """
    figures = [*_kernel_figures(root), *_control_group_figures(root)]
    return max(0, min(figures)) if figures else None


def _kernel_figures(root: Path) -> Iterator[int]:
    for line in _lines(root / "proc/meminfo"):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            yield int(value.split()[0]) << 10


def _control_group_figures(root: Path) -> Iterator[int]:
    """What each limited group above this process still has.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html and cgroup-v1/memory.html
    """
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            mount, limit, usage, cache = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            mount, limit = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
            usage, cache = "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        path = Path(group.lstrip("/"))
        for folder in (path, *path.parents):  # in a container the group's own path may not be there, its root is
            most, used = _number(root / mount / folder / limit), _number(root / mount / folder / usage)
            if most is None or used is None or most >= _UNLIMITED_BYTES:
                continue
            stats = dict(entry.split(" ", 1) for entry in _lines(root / mount / folder / "memory.stat"))
            yield most - used + int(stats.get(cache, 0))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    """A file's only number; None if there is no such file, or it says ``max``."""
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdigit() else None
