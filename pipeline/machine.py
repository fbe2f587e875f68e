"""CPUs, GPUs and memory of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
_UNLIMITED_BYTES = 1 << 60  # cgroup v1 reports "no limit" as a number near 2^63


def num_local_cpus() -> int:
    """Number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def has_bfloat16(root: Path = Path("/")) -> bool:
    """Whether this CPU computes in bfloat16 (AVX-512 BF16, AMX, or Arm's BF16).

    Args:
        root: Directory that holds ``proc``.
    """
    for line in _lines(root / "proc/cpuinfo"):
        name, _, value = line.partition(":")
        if name.strip() in {"flags", "Features"}:
            return not _BFLOAT16_FLAGS.isdisjoint(value.split())
    return False


def cpu_name(root: Path = Path("/")) -> str:
    """Model name of this CPU, on Arm its implementer and part; empty where the system does not report it.

    Args:
        root: Directory that holds ``proc``.
    """
    entries = [line.partition(":") for line in _lines(root / "proc/cpuinfo")]
    found = {name.strip(): value.strip() for name, _, value in reversed(entries)}  # of the first core
    arm = [found[name] for name in ("CPU implementer", "CPU part") if name in found]
    return found.get("model name") or " ".join(arm)


def cache_folder() -> Path:
    """This user's cache directory. Deleting it costs time only."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shardlabel"


def num_local_gpus() -> int:
    """Number of GPUs that this process may use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def start_python(module: str, *arguments: str, pass_fds: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
    """Start a new interpreter on this machine that can import what this one can, and whose output goes nowhere.

    Ctrl-C goes to this process only.

    Args:
        module: What it runs, as with ``python -m``.
        arguments: Of the module.
        pass_fds: Descriptors that it inherits.

    Raises:
        OSError: No process can be started.
    """
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=pass_fds,
        start_new_session=True,
    )


def process_started_at(root: Path = Path("/")) -> float:
    """When this process was started, Unix seconds; the time of this call where the system does not report it.

    Args:
        root: Directory that holds ``proc``.
    """
    now = time.time()
    for line in _lines(root / "proc/self/stat"):
        ticks = int(line.rpartition(")")[2].split()[19])  # the name before it may hold anything
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        return now - max(0.0, age_s)
    return now


def smallest_gpu_bytes() -> int:
    """Total memory of the smallest GPU, bytes. Asking allocates none of it."""
    import torch

    return min(torch.cuda.get_device_properties(gpu).total_memory for gpu in range(torch.cuda.device_count()))


def device_memory_bytes() -> tuple[int, int]:
    """Memory of torch's current GPU, bytes: in use by all processes, and total."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return total - free, total


def process_cpu_s(pid: int, root: Path = Path("/")) -> float:
    """CPU time that a process has taken, user and system, seconds; 0 where the system does not report it.

    Args:
        pid: Its number.
        root: Directory that holds ``proc``.
    """
    for line in _lines(root / f"proc/{pid}/stat"):
        fields = line.rpartition(")")[2].split()  # the name before it may hold anything
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def process_memory_bytes(root: Path = Path("/")) -> int | None:
    """Resident memory of this process, bytes; None where the system does not report it.

    Args:
        root: Directory that holds ``proc``.
    """
    for line in _lines(root / "proc/self/statm"):
        return int(line.split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None


def available_memory_bytes(root: Path = Path("/")) -> int | None:
    """Memory that this process can still allocate without swapping, bytes; None where the system does not report it.

    It is the kernel's ``MemAvailable``, or less where a control group (a container, a batch system) sets a limit.
    Cached file contents count as free in both.

    Args:
        root: Directory that holds ``proc`` and ``sys``.
    """
    limits = [*_meminfo_available(root), *_cgroups_available(root)]
    return max(0, min(limits)) if limits else None


def _meminfo_available(root: Path) -> Iterator[int]:
    for line in _lines(root / "proc/meminfo"):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            yield int(value.split()[0]) << 10


def _cgroups_available(root: Path) -> Iterator[int]:
    """Yield the bytes left in each limited control group of this process.

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
        for folder in (path, *path.parents):  # in a container only the root of the group may be mounted
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
    """The number in a file; None if there is no such file, or it says ``max``."""
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdigit() else None
