"""Measured rates of the stages of a labeler. Plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StageRate:
    """One stage, measured alone.

    Attributes:
        stage: ``read hash decode resize prepare forward ensemble write host limit job``; ``host`` is a labeler without
            decoding, resizing and members.
        what: Variant of the stage: a geometry, ``exact`` or ``fast``; for ``forward`` the precision.
        member: Alias, for ``forward``.
        images_per_s: Median of the rounds.
        spread: Half of (best - worst) over the median.
        ms_per_image: Milliseconds per image of one core, or of the GPU where the stage runs there.
        rounds: Images per second of each round.
        configured: Whether the requested job does it this way.
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
    """All measured rates.

    Attributes:
        device, precision, compiled, fast_decode: Settings of the job.
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
        """The configured entries of a stage."""
        return [rate for rate in self.stages if rate.stage == stage and rate.configured]

    def one(self, stage: str) -> StageRate:
        """The configured entry of a stage that has only one."""
        return self.all_of(stage)[0]
