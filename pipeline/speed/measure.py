"""Measure: run every stage of a labeler in rounds, and take the medians.

The stages run one after another in each round, there and back, so that whatever else the machine does hits
all of them alike.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from pipeline.labeler.config import LabelerConfig
from pipeline.machine import num_local_cpus
from pipeline.speed.rates import Rates, StageRate
from pipeline.speed.sampling import Drawn
from pipeline.speed.stage_bench import Stage, StageBench

_MAX_ROUNDS, _MIN_ROUNDS, _MIN_ROUNDS_PLAIN = 5, 3, 2
_HOPELESS = 0.5  # a choice that warms up at less than this share of the configured rate is not measured further
_SPEND = {"job": 3.0, "limit": 3.0, "ensemble": 2.0}
_SPEND_GPU = {"job": 8.0, "ensemble": 2.0}  # its job has a beginning and an end that the limit, the device's, has not

Watch = Callable[[int, int, str], None]


def measure(
    config: LabelerConfig,
    blobs: Mapping[str, bytes],
    drawn: Drawn,
    *,
    seconds: float,
    choices: bool,
    watch: Watch,
) -> Rates:
    """Measure every stage of a labeler on some samples.

    Args:
        config: The labeler; its ``out`` is a scratch directory.
        blobs: The members' tensors.
        drawn: The samples.
        seconds: What it may take, about; at least three rounds are run, two where there are no choices.
        choices: Whether to try other precisions, batch sizes and ways of decoding as well.
        watch: Told after each step how many of how many are done, and what comes next.

    Raises:
        InputError: None of the samples can be decoded.
    """
    with StageBench(config, blobs, drawn) as stage_bench:
        stages = stage_bench.stages(choices=choices)
        deadline = time.monotonic() + seconds
        total = len(stages) * (1 + _MAX_ROUNDS)
        done = itertools.count()
        for stage in stages:
            watch(next(done), total, f"warming up: {_title(stage.rate)}")
            stage.per_run = stage.step
            stage.rate = dataclasses.replace(stage.rate, rounds=(_timed(stage),))
        measured = _worth_it(stages)
        least = _MIN_ROUNDS if choices else _MIN_ROUNDS_PLAIN
        rounds = max(least, _share_out(measured, max(1.0, deadline - time.monotonic())))
        total = len(stages) + rounds * len(measured)
        taken: dict[int, list[float]] = {id(stage): [] for stage in measured}
        for number in range(1, rounds + 1):
            for stage in measured if number % 2 else reversed(measured):  # there and back: what drifts cancels out
                watch(next(done), total, f"round {number} of {rounds}: {_title(stage.rate)}")
                taken[id(stage)].append(_timed(stage))
        watch(total, total, "done")
        rates = tuple(_summed_up(stage, taken.get(id(stage)) or list(stage.rate.rounds)) for stage in stages)
        row_bytes, part_bytes = stage_bench.writing.sizes()
        return Rates(
            device=config.device,
            precision=config.precision,
            compiled=config.compiled,
            fast_decode=config.decode == "fast",
            num_threads=config.num_threads,
            num_cpus=num_local_cpus(),
            members=tuple(spec.alias for spec in config.members),
            num_geometries=len(stage_bench.ensemble.geometries),
            images=len(stage_bench.images),
            bytes_per_image=statistics.fmean(len(image) for image in stage_bench.images),
            row_bytes=row_bytes,
            part_bytes=part_bytes,
            stages=rates,
        )


def _title(rate: StageRate) -> str:
    return " ".join(word for word in (rate.stage, rate.member, rate.what) if word)


def _timed(stage: Stage) -> float:
    begun = time.perf_counter()
    number = stage.run(stage.per_run)
    return number / max(1e-9, time.perf_counter() - begun)


def _worth_it(stages: Sequence[Stage]) -> list[Stage]:
    """The stages without those choices that are much slower than what is configured."""
    usual = {(s.rate.stage, s.rate.member): s.rate.rounds[0] for s in stages if s.rate.configured}
    return [
        stage
        for stage in stages
        if stage.rate.configured or stage.rate.rounds[0] > _HOPELESS * usual[stage.rate.stage, stage.rate.member]
    ]


def _share_out(stages: Sequence[Stage], seconds: float) -> int:
    """Give each stage so many images a run that all rounds take the time there is.

    Returns:
        How many rounds that time suffices for.
    """
    spend = _SPEND if any(stage.rate.stage == "limit" for stage in stages) else _SPEND_GPU
    shares = sum(spend.get(stage.rate.stage, 1.0) for stage in stages)
    for stage in stages:
        slot_s = seconds / _MAX_ROUNDS * spend.get(stage.rate.stage, 1.0) / shares
        steps = max(1, int(stage.rate.rounds[0] * slot_s / stage.step))
        stage.per_run = max(stage.step, min(steps * stage.step, stage.most))
    # the job and the limit go through the same number of images: what their ends cost is then the same
    ends = [stage for stage in stages if stage.rate.stage in {"job", "limit"}]
    for stage in ends:
        stage.per_run = min(other.per_run for other in ends)
    round_s = sum(stage.per_run / stage.rate.rounds[0] for stage in stages)
    return min(_MAX_ROUNDS, round(seconds / round_s))


def _summed_up(stage: Stage, rounds: list[float]) -> StageRate:
    middle = statistics.median(rounds)
    return dataclasses.replace(
        stage.rate,
        images_per_s=middle,
        spread=(max(rounds) - min(rounds)) / 2 / middle,
        ms_per_image=1000 * stage.cores / middle,
        rounds=tuple(rounds),
    )
