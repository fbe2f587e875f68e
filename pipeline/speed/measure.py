"""Measurement: run every stage of a labeler in rounds, and take the medians.

Every round runs all stages, every other round in reverse order, so other load on the machine slows all of them alike.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from pipeline.labeler.config import LabelerConfig
from pipeline.machine import num_local_cpus
from pipeline.speed.input_sample import InputSample
from pipeline.speed.rates import Rates, StageRate
from pipeline.speed.stage_bench import Stage, StageBench

_MAX_ROUNDS, _MIN_ROUNDS, _MIN_ROUNDS_PLAIN = 5, 3, 2
_LEAST_S = 1.0  # of all rounds together, whatever is asked for: shorter ones say little
_MIN_RELATIVE_RATE = 0.5  # an alternative below this share of the configured rate is measured once only
_TIME_WEIGHTS = {"job": 3.0, "limit": 3.0, "ensemble": 2.0}
_TIME_WEIGHTS_GPU = {"job": 8.0, "ensemble": 2.0}  # a long job: its start and end are no part of the device's limit

StepCallback = Callable[[int, int, str], None]


def measure(
    config: LabelerConfig,
    blobs: Mapping[str, bytes],
    sample: InputSample,
    *,
    seconds: float,
    alternatives: bool,
    on_step: StepCallback,
) -> Rates:
    """Measure every stage of a labeler on some samples.

    Args:
        config: The labeler; its ``out`` is a scratch directory.
        blobs: The members' tensors.
        sample: The samples.
        seconds: Approximate duration; at least three rounds run, two without alternatives.
        alternatives: Whether to measure other precisions, batch sizes and decoders as well.
        on_step: Called before each step with the steps done, their total, and the name of the step.

    Raises:
        InputError: None of the samples can be decoded.
    """
    with StageBench(config, blobs, sample) as stage_bench:
        stages = stage_bench.stages(alternatives=alternatives)
        deadline = time.monotonic() + seconds
        total = len(stages) * (1 + _MAX_ROUNDS)
        done = itertools.count()
        for stage in stages:
            on_step(next(done), total, f"warming up: {_title(stage.rate)}")
            stage.per_run = stage.step
            stage.rate = dataclasses.replace(stage.rate, rounds=(_time_stage(stage),))
        measured = _drop_slow_alternatives(stages)
        least = _MIN_ROUNDS if alternatives else _MIN_ROUNDS_PLAIN
        rounds = max(least, _allot_images(measured, max(_LEAST_S, deadline - time.monotonic())))
        total = len(stages) + rounds * len(measured)
        taken: dict[int, list[float]] = {id(stage): [] for stage in measured}
        for number in range(1, rounds + 1):
            for stage in measured if number % 2 else reversed(measured):  # drift of the machine cancels out
                on_step(next(done), total, f"round {number} of {rounds}: {_title(stage.rate)}")
                taken[id(stage)].append(_time_stage(stage))
        on_step(total, total, "done")
        rates = tuple(_summarize(stage, taken.get(id(stage)) or list(stage.rate.rounds)) for stage in stages)
        row_bytes, part_bytes = stage_bench.write_bench.sizes()
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


def _time_stage(stage: Stage) -> float:
    begun = time.perf_counter()
    number = stage.run(stage.per_run)
    return number / max(1e-9, time.perf_counter() - begun)


def _drop_slow_alternatives(stages: Sequence[Stage]) -> list[Stage]:
    """The stages without alternatives that are much slower than the configured way."""
    configured = {(s.rate.stage, s.rate.member): s.rate.rounds[0] for s in stages if s.rate.configured}
    return [
        stage
        for stage in stages
        if stage.rate.configured
        or stage.rate.rounds[0] > _MIN_RELATIVE_RATE * configured[stage.rate.stage, stage.rate.member]
    ]


def _allot_images(stages: Sequence[Stage], seconds: float) -> int:
    """Set the images per run of each stage so that all rounds fit into the time.

    Returns:
        Rounds that fit into the time.
    """
    weights = _TIME_WEIGHTS if any(stage.rate.stage == "limit" for stage in stages) else _TIME_WEIGHTS_GPU
    shares = sum(weights.get(stage.rate.stage, 1.0) for stage in stages)
    for stage in stages:
        slot_s = seconds / _MAX_ROUNDS * weights.get(stage.rate.stage, 1.0) / shares
        steps = max(1, int(stage.rate.rounds[0] * slot_s / stage.step))
        stage.per_run = max(stage.step, min(steps * stage.step, stage.most))
    # the job and the limit process the same number of images, so the cost of their start and end is the same
    ends = [stage for stage in stages if stage.rate.stage in {"job", "limit"}]
    for stage in ends:
        stage.per_run = min(other.per_run for other in ends)
    round_s = sum(stage.per_run / stage.rate.rounds[0] for stage in stages)
    return min(_MAX_ROUNDS, round(seconds / round_s))


def _summarize(stage: Stage, rounds: list[float]) -> StageRate:
    middle = statistics.median(rounds)
    return dataclasses.replace(
        stage.rate,
        images_per_s=middle,
        spread=(max(rounds) - min(rounds)) / 2 / middle,
        ms_per_image=1000 * stage.cores / middle,
        rounds=tuple(rounds),
    )
