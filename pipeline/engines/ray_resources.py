"""What a worker gets of a Ray cluster, or of this machine before Ray is started on it. Ray itself is handed in."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.engines.workload import Share
from pipeline.errors import RequestError
from pipeline.machine import available_memory_bytes, num_local_cpus, num_local_gpus, smallest_gpu_bytes

_GPU_PROBE_S = 60.0
NodeResources = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class WorkerSize:
    """What Ray sets aside for one worker, and for how many of them the cluster has room now.

    Attributes:
        num_cpus: CPUs of one worker.
        num_gpus: GPUs of one worker, 0 or 1.
        max_workers: How many fit.
    """

    num_cpus: int
    num_gpus: int
    max_workers: int


def alive_nodes(ray: Any) -> list[NodeResources]:  # noqa: ANN401 - a module
    """The resources of each machine of the cluster."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def worker_size(nodes: Sequence[NodeResources], *, on_gpu: bool, num_workers: int | None) -> WorkerSize:
    """One worker per GPU, or per machine; where more workers are asked for than machines, each takes its part of one.

    Raises:
        RequestError: There is no GPU, or no CPU, for any.
    """
    if on_gpu:
        nodes = [node for node in nodes if node.get("GPU", 0) >= 1]
        fitting = int(sum(node["GPU"] for node in nodes))
        cpus = min((int(node.get("CPU", 1) // node["GPU"]) for node in nodes), default=0)
    else:
        nodes = [node for node in nodes if node.get("CPU", 0) >= 1]
        cpus = min((int(node["CPU"]) for node in nodes), default=0)
        fitting = sum(int(node["CPU"]) // cpus for node in nodes)
    if not nodes:
        raise RequestError(f"the Ray cluster has no {'GPU' if on_gpu else 'CPU'} to label on")
    if num_workers is not None and not on_gpu and num_workers > fitting:
        cpus = max(1, sum(int(node["CPU"]) for node in nodes) // num_workers)
    return WorkerSize(max(1, cpus), 1 if on_gpu else 0, max(1, fitting))


def share_of_cluster(ray: Any, *, on_gpu: bool, num_workers: int | None) -> Share:  # noqa: ANN401 - a module
    """What a worker gets on the smallest machine of a cluster.

    Raises:
        RequestError: The cluster has nothing that a worker could run on.
    """
    nodes = alive_nodes(ray)
    size = worker_size(nodes, on_gpu=on_gpu, num_workers=num_workers)
    if on_gpu:
        return Share(size.num_cpus, _smallest_gpu_bytes(ray, nodes), own_process=True)
    shares = [
        # what Ray found on the machine, before it set a part aside for its object store
        int(node["memory"] + node.get("object_store_memory", 0))
        // max(1, min(int(node["CPU"]) // size.num_cpus, num_workers or sys.maxsize))
        for node in nodes
        if node.get("CPU", 0) >= 1 and "memory" in node
    ]
    return Share(size.num_cpus, min(shares, default=None), own_process=True)


def share_of_this_machine(*, on_gpu: bool, num_workers: int | None) -> Share:
    """What a worker will get from a Ray that is not started yet."""
    num_cpus = num_local_cpus()
    if on_gpu:
        return Share(max(1, num_cpus // num_local_gpus()), smallest_gpu_bytes(), own_process=True)
    sharing = min(num_workers or 1, num_cpus)
    available = available_memory_bytes()
    return Share(num_cpus // sharing, None if available is None else available // sharing, own_process=True)


def _smallest_gpu_bytes(ray: Any, nodes: Sequence[NodeResources]) -> int | None:  # noqa: ANN401 - a module
    """Memory of the smallest kind of GPU in a cluster; None where none is free to be asked for a while."""
    kinds = {name for node in nodes if node.get("GPU", 0) >= 1 for name in node if name.startswith("accelerator_type:")}
    probe = ray.remote(num_cpus=0, num_gpus=1, max_retries=0)(_total_gpu_bytes)
    wanted = [{kind: 0.001} for kind in kinds] or [{}]
    references = [probe.options(resources=resources).remote() for resources in wanted]
    ready, waiting = ray.wait(references, num_returns=len(references), timeout=_GPU_PROBE_S)
    for reference in waiting:
        ray.cancel(reference, force=True)
    with contextlib.suppress(ray.exceptions.RayError):
        return min(ray.get(ready), default=None)
    return None


def _total_gpu_bytes() -> int:
    import torch

    return int(torch.cuda.mem_get_info(0)[1])
