"""How many samples a part holds where nobody said: few while a job is small or slow, so that a stop loses little.

The size is chosen once for a unit, when it is planned, and recorded in the plan. So it may depend on the machine that
planned, and parts are the same all the same, whoever labels the unit, and however often.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.config.option_types import Images
from pipeline.engines.workload import Share
from pipeline.inputs.plan import Plan
from pipeline.inputs.units import count_samples
from pipeline.job.job_size import USUAL_IMAGE_BYTES
from pipeline.models.cost import member_cost
from pipeline.models.weights import MemberSpec
from pipeline.records import Unit
from pipeline.storage import Storage

# How long a part takes, as estimated: a thousandth of the job, within these bounds. On a machine that is five times
# slower than thought, or as busy, 20 s are 100 s.
_PART_S, _LONG_PART_S, _PARTS_OF_LONG_JOBS = 20.0, 60.0, 1_000
_SMALLEST = 32  # fewer rows cost more in files than a stop could lose
_PARTS_OF_SMALL_JOBS = 16  # at least, where the smallest size allows it
# Rough rates, enough to tell seconds from minutes: low, because what is slower than thought loses more.
_MACS_PER_CORE_S, _MACS_PER_GPU_S = 25e9, 15e12
_DECODE_S = 0.005  # of a core, for one image
_UNKNOWN_MACS = 4e9  # of a network that cannot be measured
_COUNT_BUDGET_S = 2.0


def estimate_image_s(members: Sequence[MemberSpec], share: Share, *, on_gpu: bool) -> float:
    """Seconds that a labeler takes for an image, roughly, by what its members compute.

    Args:
        members: The members.
        share: What a labeler gets.
        on_gpu: Whether it runs on a GPU.
    """
    costs = [member_cost(member) for member in members]
    macs = sum(_UNKNOWN_MACS if cost is None else cost.macs for cost in costs)
    if on_gpu:
        return max(macs / _MACS_PER_GPU_S, _DECODE_S / share.num_cpus)
    return (macs / _MACS_PER_CORE_S + _DECODE_S) / share.num_cpus


def rows_by_rate(image_s: float, num_images: int) -> int:
    """Samples in a part for a rate: a power of two, for which a labeler takes 10 to 20 s, in long jobs up to 60 s."""
    part_s = min(max(_PART_S, num_images * image_s / _PARTS_OF_LONG_JOBS), _LONG_PART_S)
    return _power_of_two_below(part_s / image_s)


def rows_by_total(num_images: int) -> int:
    """Samples in a part with which a small job has at least some parts: a power of two."""
    size = _SMALLEST
    while size * _PARTS_OF_SMALL_JOBS < num_images:
        size *= 2
    return size


@dataclass(frozen=True, slots=True)
class PartSizes:
    """Chooses the size of parts for new units of a plan.

    Attributes:
        image_s: Seconds that a labeler is expected to take for an image.
        at_most: Samples in a part of the job at most.
        older: Sizes that units have in an output whose predictions are reused: parts are cut as there.
        counts: Samples of units, by id, as far as they were counted on the way.
    """

    image_s: float
    at_most: int
    older: Mapping[str, int | None] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def choose(self, plan: Plan, storage: Storage, images: Images) -> None:
        """Choose sizes for the units of a plan that are new, by what all its units hold."""
        if not (new := plan.new_units()):
            return
        total, apart = self._total(plan.units), set[str]()
        if rows_by_total(total) < rows_by_rate(self.image_s, total):  # it seems to be a small job
            self.counts.update(count_samples(new, storage, _COUNT_BUDGET_S, images, apart=apart))
            total = self._total(plan.units)
        rows = min(rows_by_rate(self.image_s, total), rows_by_total(total))
        chosen = rows if rows < self.at_most else None
        # an unsorted shard shows itself only while its first part is not published
        plan.cut_parts(lambda unit: self.older.get(unit.id, None if unit.id in apart else chosen))

    def _total(self, units: Iterable[Unit]) -> int:
        """Samples of units: counted, or estimated from their bytes."""
        known = ((unit, self.counts.get(unit.id, unit.num_samples)) for unit in units)
        return sum(max(0, unit.size_bytes) // USUAL_IMAGE_BYTES if count is None else count for unit, count in known)


def _power_of_two_below(rows: float) -> int:
    size = _SMALLEST
    while 2 * size <= rows:
        size *= 2
    return size
