"""Memory of a worker: whether all members fit in it, and with how many images in one forward pass.

A worker needs the weights of its members, the activations of the largest member for each image in a forward pass, and
on a CPU the memory that loading takes and does not return. On a CPU the estimate was 0.8 to 1.4 times the memory that
processes took. On a GPU activations count twice: all CUDA graphs share the memory of the largest, and a pass that is
not captured, or is about to be, runs beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from pipeline.errors import ModelError
from pipeline.models.cost import member_cost
from pipeline.models.number_formats import Precision
from pipeline.models.tuning import CPU_BATCH_SIZES, usual_batch_size
from pipeline.models.weights import ResolvedMember

_USABLE_SHARE = 0.9  # the rest is for fragmentation and for other processes
# Weights in low precision, besides those in fp32 for near ties.
_LOW_PRECISION_WEIGHTS = 1.5
_GPU_LIBRARIES_BYTES = 1 << 30  # the driver's context, cuDNN's and cuBLAS's workspaces
_PROCESS_BYTES = 600 << 20  # a process that has imported torch, torchvision, timm and Ray takes 0.5 GB
_THREAD_BYTES = 64 << 20  # a chunk of encoded images, and a decoded one of 12 megapixels
_GPU_MULTIPLE = 8
_GPU_ACTIVATIONS, _GPU_INPUTS = 2, 2  # copies of each: in the graphs and beside them
_FLOAT_BYTES = 4
_CROPS_ON_GPU = 8  # for each image in a pass: four chunks of two passes


@dataclass(frozen=True, slots=True)
class WorkerMemory:
    """The memory of a worker, and how the worker uses it.

    Attributes:
        device: ``cpu`` or ``cuda``.
        memory_bytes: Memory of the worker on that device.
        num_threads: Number of forward passes at a time on a CPU; on a GPU it is always one.
        own_process: Whether the worker is a process that loads its own libraries and checkpoints.
        decoding_bytes: GPU memory that decoding takes.
    """

    device: str
    memory_bytes: int
    num_threads: int
    own_process: bool
    decoding_bytes: int = 0

    @property
    def on_gpu(self) -> bool:
        """Whether the memory is a GPU's."""
        return self.device == "cuda"


@dataclass(frozen=True, slots=True)
class FittedBatch:
    """A batch size that fits the memory.

    Attributes:
        batch_size: Images in one forward pass at most; None for what suits the device.
        note: What differs from the request, in one line; None if nothing does.
    """

    batch_size: int | None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """The memory that an ensemble needs in a worker.

    Attributes:
        weights: Alias and size of the fp32 weights of each member, bytes.
        fixed_bytes: Memory that does not depend on the number of images.
        image_bytes: Memory for each image in a forward pass.
        num_passes: Number of forward passes at a time.
    """

    weights: tuple[tuple[str, int], ...]
    fixed_bytes: int
    image_bytes: int
    num_passes: int

    def total_bytes(self, batch_size: int) -> int:
        """Memory with a number of images in each forward pass."""
        return self.fixed_bytes + self.num_passes * batch_size * self.image_bytes


def estimate_memory(members: Sequence[ResolvedMember], precision: Precision, worker: WorkerMemory) -> MemoryNeed:
    """Estimate the memory that members need.

    Activations are counted in fp32 at any precision, because near ties, in the worst case all images, are computed
    again in fp32. torch.compile changes little and is not counted. For a member that cannot be measured, only its
    weights are counted.
    """
    weights = tuple((member.spec.alias, len(member.blob)) for member in members)
    sizes = [size for _, size in weights]
    fixed = int(sum(sizes) * (1.0 if precision == "fp32" else _LOW_PRECISION_WEIGHTS))
    if worker.on_gpu:
        fixed += _GPU_LIBRARIES_BYTES + worker.decoding_bytes
    else:
        # each member is copied while its batch norms are folded, and little of that memory is returned
        fixed += max(sizes) + worker.num_threads * _THREAD_BYTES
        if worker.own_process:
            fixed += _PROCESS_BYTES + 2 * sum(sizes)  # the checkpoints: in the object store, and as received
    geometries = {member.spec.recipe.geometry for member in members}
    crops = [3 * geometry.crop_px**2 for geometry in geometries]
    activations = max(_activation_bytes(member) for member in members)
    if worker.on_gpu:
        inputs = _GPU_INPUTS * _FLOAT_BYTES * max(crops)
        return MemoryNeed(weights, fixed, _GPU_ACTIVATIONS * activations + inputs + _CROPS_ON_GPU * sum(crops), 1)
    return MemoryNeed(weights, fixed, activations + sum(crops), worker.num_threads)


def _activation_bytes(member: ResolvedMember) -> int:
    cost = member_cost(member.spec)
    return 0 if cost is None else cost.peak_activation_bytes


def fit_batch_size(
    members: Sequence[ResolvedMember], precision: Precision, worker: WorkerMemory, batch_size: int | None
) -> FittedBatch:
    """Find the batch size that fits: the requested one, or the largest below it.

    Args:
        members: The members of the ensemble.
        precision: Precision of the forward passes.
        worker: The memory it will run in.
        batch_size: The requested one; None for what suits the device.

    Raises:
        ModelError: Not even one image at a time fits; the message gives the sizes.
    """
    needed = estimate_memory(members, precision, worker)
    usable = int(worker.memory_bytes * _USABLE_SHARE)
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    wanted = batch_size or usual_batch_size(torch.device(worker.device), dtype)
    if needed.total_bytes(wanted) <= usable:
        # on a CPU each member may choose its own batch size, if the largest one fits
        freely = worker.on_gpu or batch_size is not None or needed.total_bytes(max(CPU_BATCH_SIZES)) <= usable
        return FittedBatch(batch_size if freely else wanted)
    if needed.total_bytes(1) > usable:
        raise ModelError(_refusal_message(needed, worker, usable, _suggest_fixes(members, precision, worker, usable)))
    fitting = (usable - needed.fixed_bytes) // (needed.num_passes * needed.image_bytes)
    if worker.on_gpu and fitting > _GPU_MULTIPLE:
        fitting -= fitting % _GPU_MULTIPLE
    note = (
        f"memory: {fitting} {'image' if fitting == 1 else 'images'} in a forward pass instead of {wanted}, which would "
        f"take {_size(needed.total_bytes(wanted))} of the {_describe_limit(worker, usable)}"
    )
    return FittedBatch(fitting, note)


def _suggest_fixes(
    members: Sequence[ResolvedMember], precision: Precision, worker: WorkerMemory, usable: int
) -> list[str]:
    """Suggest what would make the ensemble fit: changes that are checked to help, and more memory."""

    def fits(some: Sequence[ResolvedMember], where: WorkerMemory) -> bool:
        return estimate_memory(some, precision, where).total_bytes(1) <= usable

    fixes = []
    if fits(members, replace(worker, num_threads=1)):
        fixes.append("take fewer --decode-threads")
    if worker.decoding_bytes and fits(members, replace(worker, decoding_bytes=0)):
        fixes.append("leave --decode gpu out")
    if len(members) > 1 and any(fits([member], worker) for member in members):
        fixes.append("leave members out, or label with some of them at a time, each into its own --out")
    if worker.on_gpu:
        return [*fixes, "take a larger GPU"]
    return [*fixes, f"take {'fewer --workers or ' if worker.own_process else ''}a larger machine"]


def _refusal_message(needed: MemoryNeed, worker: WorkerMemory, usable: int, fixes: list[str]) -> str:
    listed = ", ".join(f"{alias} {_size(size)}" for alias, size in needed.weights)
    many = len(needed.weights) > 1
    total = f", {_size(sum(size for _, size in needed.weights))} together" if many else ""
    threads = f" in each of {needed.num_passes} threads" if needed.num_passes > 1 else ""
    return (
        f"the {'members do' if many else 'network does'} not fit in memory: weights of {listed}{total}; with one image "
        f"at a time{threads} a worker needs {_size(needed.total_bytes(1))} of the {_describe_limit(worker, usable)}; "
        f"{'; or '.join(fixes)}"
    )


def _describe_limit(worker: WorkerMemory, usable: int) -> str:
    what = "GPU memory" if worker.on_gpu else "memory"
    return f"{_size(usable)} ({_USABLE_SHARE:.0%} of the {what}) that it may use"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.0f} MB"
