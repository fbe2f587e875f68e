"""The machine: its versions, and what its memory, its bus and its arithmetic carry."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

import torch

from gpu_steps.material import Material
from gpu_steps.timing import rate
from pipeline.machine import num_local_cpus

if TYPE_CHECKING:
    from gpu_steps.worker import Tell

_CHUNK = 256  # images that a labeler copies to a GPU at a time
_MB = 1 << 20
_MATRIX = {"cuda": 8192, "cpu": 256}
_COPIED = {"cuda": 2048 * _MB, "cpu": 16 * _MB}


def describe(material: Material, tell: Tell) -> None:
    """Tell what is here, and its ceilings."""
    device = material.device
    tell.figure(
        "versions",
        {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": version("torchvision"),
            "torchcodec": version("torchcodec"),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version() if material.on_gpu else None,  # type: ignore[no-untyped-call]
        },
    )
    tell.figure("cpus", {"model": _cpu_model(), "cores": num_local_cpus(), "threads": material.threads})
    tell.figure("device", _gpu(device) if material.on_gpu else {"name": "cpu"})
    asked = {name: value for name, value in os.environ.items() if "TF32" in name or name.startswith("PYTORCH_")}
    tell.figure("environment", asked)

    size = _MATRIX[device.type]
    for dtype in (torch.float16, torch.float32) if material.on_gpu else (torch.float32,):
        matrix = torch.randn(size, size, device=device, dtype=dtype)
        product = functools.partial(torch.matmul, matrix, matrix)
        tell.figure(f"{str(dtype).removeprefix('torch.')} TFLOP/s", rate(product, 2e-12 * size**3, device))
    here = torch.empty(_COPIED[device.type], dtype=torch.uint8, device=device)
    there = torch.empty_like(here)
    tell.figure("memory GB/s, read and written", rate(lambda: there.copy_(here), 2e-9 * here.numel(), device))
    crops = torch.empty((_CHUNK, 3, 224, 224), dtype=torch.uint8, pin_memory=material.on_gpu)
    target = torch.empty_like(crops, device=device)
    per_s = rate(lambda: target.copy_(crops, non_blocking=True), _CHUNK, device)
    tell.figure("upload", {"images/s": per_s, "GB/s": 1e-9 * crops[0].numel() * per_s})


def _cpu_model() -> str:
    if sys.platform == "linux":
        with open("/proc/cpuinfo") as lines:
            return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return platform.processor()


def _gpu(device: torch.device) -> dict[str, object]:
    properties = torch.cuda.get_device_properties(device)
    found: dict[str, object] = {
        "name": properties.name,
        "memory_GB": round(properties.total_memory / 1e9, 1),
        "multiprocessors": properties.multi_processor_count,
        "count": torch.cuda.device_count(),
    }
    if shutil.which("nvidia-smi"):
        query = "--query-gpu=driver_version,clocks.max.sm,power.limit,pcie.link.gen.max"
        done = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True, check=False, timeout=10
        )
        found["driver, clock, power, PCIe"] = done.stdout.strip()
    return found
