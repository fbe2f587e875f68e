"""Choosing an engine where none is named: Ray where it pays, this process elsewhere.

On one machine Ray runs the same labeler, in as many threads, after a start of ten seconds or more. So it pays only
where there is more than one labeler: several GPUs, a cluster, or so many cores that the interpreter lock of one process
would bind.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pipeline.engines.on_ray import ray_runs_here
from pipeline.machine import num_local_cpus
from pipeline.text import fmt

# One process passed 630 to 840 images/s through its Python code, whatever the number of cores behind it. A core labels
# 15 to 300 images/s, so with small networks 16 cores come near that, and with usual ones they do not.
CORES_OF_A_LABELER = 16
SMALL_JOB_IMAGES = 2000  # labelled on many cores before Ray would have started


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """An engine, and why.

    Attributes:
        engine: Its name.
        reason: In a few words.
        address: Of the cluster; None for this machine.
        num_workers: How many workers; None for what was requested, or as many as fit.
    """

    engine: Literal["ray", "inline"]
    reason: str
    address: str | None = None
    num_workers: int | None = None

    def describe(self) -> str:
        """The choice and its reason in one line."""
        return f"engine {self.engine}: {self.reason}"


def unused_gpus_note(engine: str, device: str, num_gpus: Callable[[], int]) -> str:
    """One line where a job leaves GPUs idle, because one process uses one; else none."""
    if engine != "inline" or device != "cuda" or (found := num_gpus()) < 2:
        return ""
    return f"--engine inline uses one of {found} GPUs; --engine ray uses all of them"


def choose_engine(
    address: str | None,
    num_workers: int | None,
    *,
    num_gpus: Callable[[], int],
    is_small: Callable[[], bool] = lambda: False,
) -> EngineChoice:
    """Choose an engine for a job.

    Args:
        address: Of a running cluster, as it was given; None looks for Ray's own variable.
        num_workers: How many workers were requested; None for as many as fit.
        num_gpus: Counts the GPUs of this machine that the job would use.
        is_small: Whether the job is done before Ray would have started.
    """
    if address is not None:
        return EngineChoice("ray", f"the cluster at {address}", address)
    if ray_runs_here():
        return EngineChoice("ray", "Ray runs in this process already")
    if address := os.environ.get("RAY_ADDRESS"):
        return EngineChoice("ray", f"the cluster at {address}, from RAY_ADDRESS", address)
    if num_workers is not None and num_workers > 1:
        return EngineChoice("ray", f"{fmt.plural(num_workers, 'worker is', 'workers are')} asked for")
    num_cpus, gpus = num_local_cpus(), num_gpus()
    if gpus > 1:
        return EngineChoice("ray", f"one machine with {gpus} GPUs")
    machine = f"one machine, {num_cpus} core{'s' * (num_cpus != 1)}, {'one GPU' if gpus else 'no GPU'}"
    labelers = num_cpus // CORES_OF_A_LABELER
    if gpus or num_workers is not None or labelers < 2:
        return EngineChoice("inline", machine)
    if is_small():
        return EngineChoice("inline", f"{machine}, few images")
    return EngineChoice("ray", f"{machine}, for {fmt.plural(labelers, 'labeler')}", None, labelers)
