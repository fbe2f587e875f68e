"""Whether the members fit a worker's memory together, and with how many images in one forward pass.

What a worker needs is its members' weights, the activations of the largest member for each image that is
under way, and on a CPU what loading takes and does not give back. On a CPU the sum was 0.8 to 1.4 times what
processes were seen to take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from pipeline.errors import ModelError
from pipeline.models.classifier import Precision
from pipeline.models.cost import of_member
from pipeline.models.tuning import CPU_SIZES, usual_size
from pipeline.models.weights import ResolvedMember

_USABLE_SHARE = 0.9  # the rest is for fragments, and for whatever else runs there
# Low-precision copies of the weights, beside those in fp32 that settle near ties.
_LOW_PRECISION_WEIGHTS = 1.5
_GPU_LIBRARIES_BYTES = 1 << 30  # the driver's context, cuDNN's and cuBLAS's workspaces
_PROCESS_BYTES = 600 << 20  # a process that has imported torch, torchvision, timm and Ray: 0.5 GB of its own
_THREAD_BYTES = 64 << 20  # a chunk of encoded images, and a decoded one of 12 megapixels
_GPU_GRAIN = 8


@dataclass(frozen=True, slots=True)
class Place:
    """Where members will run.

    Attributes:
        device: ``cpu`` or ``cuda``.
        memory_bytes: What a worker has there.
        num_threads: How many forward passes run at a time; on a GPU it is one, whatever this says.
        own_process: Whether a worker loads its libraries and its copy of the checkpoints anew.
    """

    device: str
    memory_bytes: int
    num_threads: int
    own_process: bool

    @property
    def on_gpu(self) -> bool:
        """Whether that is a GPU's memory."""
        return self.device == "cuda"


@dataclass(frozen=True, slots=True)
class Fit:
    """How a request fits.

    Attributes:
        batch_size: Images in one forward pass at most, or None for what suits the device.
        note: What is not as it was asked for, in one line, or None.
    """

    batch_size: int | None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Need:
    """What an ensemble needs of a worker's memory.

    Attributes:
        weights: For each member its alias and the bytes of its weights in fp32.
        fixed_bytes: What does not depend on how many images are under way.
        image_bytes: For each image in a forward pass.
        num_lanes: Forward passes at a time.
    """

    weights: tuple[tuple[str, int], ...]
    fixed_bytes: int
    image_bytes: int
    num_lanes: int

    def total_bytes(self, batch_size: int) -> int:
        """With so many images in each forward pass."""
        return self.fixed_bytes + self.num_lanes * batch_size * self.image_bytes


def need(members: Sequence[ResolvedMember], precision: Precision, place: Place) -> Need:
    """Add up what members need.

    Activations are counted in fp32 whatever the precision: near ties, in the worst case all images, are
    computed again. torch.compile changes little and is not counted. A member that cannot be measured is
    counted with its weights alone.
    """
    weights = tuple((member.spec.alias, len(member.blob)) for member in members)
    sizes = [size for _, size in weights]
    fixed = int(sum(sizes) * (1.0 if precision == "fp32" else _LOW_PRECISION_WEIGHTS))
    if place.on_gpu:
        fixed += _GPU_LIBRARIES_BYTES
    else:
        # each member is copied while its batch norms are folded, and little of that goes back to the system
        fixed += max(sizes) + place.num_threads * _THREAD_BYTES
        if place.own_process:
            fixed += _PROCESS_BYTES + 2 * sum(sizes)  # the checkpoints: in the object store, and as they arrive
    geometries = {member.spec.recipe.geometry for member in members}
    crops = sum(3 * geometry.crop_px**2 for geometry in geometries)
    activations = max(_activation_bytes(member) for member in members)
    return Need(weights, fixed, activations + crops, 1 if place.on_gpu else place.num_threads)


def _activation_bytes(member: ResolvedMember) -> int:
    cost = of_member(member.spec)
    return 0 if cost is None else cost.peak_activation_bytes


def fit(members: Sequence[ResolvedMember], precision: Precision, place: Place, batch_size: int | None) -> Fit:
    """Find the batch size that fits: the one asked for, or the largest below it.

    Args:
        members: The ensemble.
        precision: Of its forward passes.
        place: Where it will run.
        batch_size: As asked for; None for what suits the device.

    Raises:
        ModelError: Not even one image at a time fits; the message gives the sizes.
    """
    needed = need(members, precision, place)
    usable = int(place.memory_bytes * _USABLE_SHARE)
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    wanted = batch_size or usual_size(torch.device(place.device), dtype)
    if needed.total_bytes(wanted) <= usable:
        # a CPU's members may each take as many as suit them, unless that does not fit
        freely = place.on_gpu or batch_size is not None or needed.total_bytes(max(CPU_SIZES)) <= usable
        return Fit(batch_size if freely else wanted)
    if needed.total_bytes(1) > usable:
        raise ModelError(_refusal(needed, place, usable, _ways_out(members, precision, place, usable)))
    fitting = (usable - needed.fixed_bytes) // (needed.num_lanes * needed.image_bytes)
    if place.on_gpu and fitting > _GPU_GRAIN:
        fitting -= fitting % _GPU_GRAIN
    note = (
        f"memory: {fitting} {'image' if fitting == 1 else 'images'} in a forward pass instead of {wanted}, which would "
        f"take {_size(needed.total_bytes(wanted))} of the {_where(place, usable)}"
    )
    return Fit(fitting, note)


def _ways_out(members: Sequence[ResolvedMember], precision: Precision, place: Place, usable: int) -> list[str]:
    """What would help; only what is known to help, beside more memory."""

    def fits(some: Sequence[ResolvedMember], where: Place) -> bool:
        return need(some, precision, where).total_bytes(1) <= usable

    ways = []
    if fits(members, replace(place, num_threads=1)):
        ways.append("take fewer --decode-threads")
    if len(members) > 1 and any(fits([member], place) for member in members):
        ways.append("leave members out, or label with some of them at a time, each into its own --out")
    if place.on_gpu:
        return [*ways, "take a larger GPU"]
    return [*ways, f"take {'fewer --workers or ' if place.own_process else ''}a larger machine"]


def _refusal(needed: Need, place: Place, usable: int, ways: list[str]) -> str:
    listed = ", ".join(f"{alias} {_size(size)}" for alias, size in needed.weights)
    many = len(needed.weights) > 1
    total = f", {_size(sum(size for _, size in needed.weights))} together" if many else ""
    lanes = f" in each of {needed.num_lanes} threads" if needed.num_lanes > 1 else ""
    return (
        f"the {'members do' if many else 'network does'} not fit in memory: weights of {listed}{total}; with one image "
        f"at a time{lanes} a worker needs {_size(needed.total_bytes(1))} of the {_where(place, usable)}; "
        f"{'; or '.join(ways)}"
    )


def _where(place: Place, usable: int) -> str:
    what = "GPU memory" if place.on_gpu else "memory"
    return f"{_size(usable)} ({_USABLE_SHARE:.0%} of the {what}) that it may use"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.0f} MB"
