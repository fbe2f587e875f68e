"""Rates: what was measured of each stage of a labeler. Inert data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StageRate:
    """One stage, measured alone.

    Attributes:
        stage: ``read hash decode resize prepare forward ensemble write limit job``.
        what: Which of several: a geometry, ``exact`` or ``fast``; for a forward its choice.
        member: Alias, for a forward.
        images_per_s: Median of the rounds.
        spread: Half of (best - worst) over the median.
        ms_per_image: Milliseconds of one core (of the GPU, where it runs there) for one image.
        rounds: Images per second in each round.
        configured: Whether the job as asked for does it this way.
    """

    stage: str
    what: str
    member: str
    images_per_s: float
    spread: float
    ms_per_image: float
    rounds: tuple[float, ...]
    configured: bool


@dataclass(frozen=True, slots=True)
class Rates:
    """What was measured.

    Attributes:
        device, precision, compiled, fast_decode: As the job would use them.
        num_threads: Worker threads of the labeler.
        num_cpus: CPUs that this process may use.
        members: Aliases.
        num_geometries: Distinct resizes; members with the same recipe share one.
        images: Samples held in memory.
        bytes_per_image: Mean size of an encoded image.
        row_bytes, part_bytes: Size of a part is ``part_bytes + rows * row_bytes``.
        stages: One entry per stage.
    """

    device: str
    precision: str
    compiled: bool
    fast_decode: bool
    num_threads: int
    num_cpus: int
    members: tuple[str, ...]
    num_geometries: int
    images: int
    bytes_per_image: float
    row_bytes: float
    part_bytes: float
    stages: tuple[StageRate, ...]

    def all_of(self, stage: str) -> list[StageRate]:
        """The entries of a stage, the way the job does it."""
        return [rate for rate in self.stages if rate.stage == stage and rate.configured]

    def one(self, stage: str) -> StageRate:
        """The one entry of a stage, the way the job does it."""
        return self.all_of(stage)[0]
