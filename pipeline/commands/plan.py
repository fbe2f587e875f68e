"""Plan: how many units and images a job has, how long it takes and what it costs. Nothing is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Unpack

from pipeline.config.call_options import PlanOptions
from pipeline.config.parse import parse_config
from pipeline.config.settings import PlanConfig
from pipeline.config.signatures import takes_options
from pipeline.inputs.find import find_inputs
from pipeline.job.progress import default_progress
from pipeline.job.request import check_names, check_weights
from pipeline.records import Omitted
from pipeline.speed.bottleneck import BottleneckAnalysis, find_bottleneck
from pipeline.speed.input_sample import count_loose, count_tars, draw_sample
from pipeline.speed.progress import make_step_reporter
from pipeline.speed.rates import Rates
from pipeline.storage import Storage
from pipeline.text import fmt
from pipeline.text.result import Result

_COUNT_BUDGET_S = 5.0
_COUNTING_IMAGES, _COUNTING_BYTES = 256, 16 << 20  # sample that is read if nothing is measured


@dataclass(frozen=True, slots=True)
class Expected:
    """Expected time and cost of a job.

    Attributes:
        workers: Number of workers: GPUs, or machines without a GPU.
        images_per_s: Rate of all workers together.
        seconds: Time of the whole job.
        worker_hours: Time of all workers together.
        cost: Cost of all workers for that time, in the currency of the price; None without a price.
        output_bytes: Size of the predictions.
        verdict: The bottleneck of one worker.
        assumptions: Assumptions of this estimate, one line each.
    """

    workers: int
    images_per_s: float
    seconds: float
    worker_hours: float
    cost: float | None
    output_bytes: int
    verdict: BottleneckAnalysis
    assumptions: tuple[str, ...]


@dataclass(frozen=True, slots=True, repr=False)
class Forecast(Result):
    """The plan of a job.

    Attributes:
        inputs: INPUTs.
        shards: Number of tars.
        unreadable: Number of tars that are missing or forbidden, and of folders and links that lead nowhere.
        loose_images: Number of loose images.
        unreadable_images: Number of loose images that are missing or forbidden, not among these.
        units: Number of units: tars, and slices of loose images.
        size_bytes: Size of all inputs.
        images: Number of samples.
        images_standard_error: Standard error of that number; 0 if they were counted; None if unknown.
        notes: Messages about the inputs, one line each.
        left_out: Files that are left out for their names: their number by extension.
        time: Expected time and cost; None if nothing was measured.
        rates: The measured rates; None if nothing was measured.
        other_images, other_images_example, separate_images, passed_over, passed_over_example, repeated_keys,
            repeated_keys_example: See :class:`pipeline.records.Omitted`, of the shards that were counted header by
            header.
    """

    inputs: tuple[str, ...]
    shards: int
    unreadable: int
    loose_images: int
    units: int
    size_bytes: int
    images: int
    images_standard_error: float | None
    notes: tuple[str, ...]
    unreadable_images: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    time: Expected | None = None
    rates: Rates | None = None
    other_images: int = 0
    other_images_example: str = ""
    separate_images: int = 0
    passed_over: int = 0
    passed_over_example: str = ""
    repeated_keys: int = 0
    repeated_keys_example: str = ""


@takes_options(PlanOptions, PlanConfig, progress="none")
def plan(
    inputs: str | os.PathLike[str] | Sequence[str],
    **options: Unpack[PlanOptions],
) -> Forecast:
    """Plan a job: list its inputs, and measure a few samples; options are those of ``shardlabel plan``.

    Args:
        inputs: One INPUT or several.
        **options: See ``shardlabel plan --help``.

    Raises:
        RequestError: The request is wrong.
        Interrupted: It was stopped.
    """
    options.setdefault("progress", default_progress())
    config = parse_config(PlanConfig, {"inputs": inputs, **options}, called=True)
    storage = Storage(config.storage)
    if config.measure:
        check_names(config)
    found = find_inputs(config.inputs, storage)
    measured_job = None
    if config.measure:
        check_weights(config, storage)
        from pipeline.speed.measured_job import MeasuredJob  # only now: counting does not wait for torch

        measured_job = MeasuredJob(config, config.inputs, storage)
    max_images, max_bytes = measured_job.sample_limits if measured_job else (_COUNTING_IMAGES, _COUNTING_BYTES)
    tars = list(found.tars.values())
    loose = count_loose(found, max_images)
    drawn = draw_sample(tars, loose, storage, max_images, max_bytes, config.images)
    omitted = Omitted()
    counted = count_tars(tars, drawn.clusters, storage, _COUNT_BUDGET_S, config.images, omitted).plus(loose.num_images)
    units = len(tars) + loose.num_slices
    known: dict[str, Any] = {
        "inputs": config.inputs,
        "shards": len(tars),
        "unreadable": sum(entry.size_bytes < 0 for entry in tars),
        "loose_images": loose.num_images,
        "units": units,
        "size_bytes": sum(max(0, entry.size_bytes) for entry in tars) + loose.num_bytes,
        "images": counted.images,
        "images_standard_error": counted.standard_error,
        "notes": tuple(found.notes),
        "unreadable_images": loose.num_unreadable,
        "left_out": dict(found.left_out),
        **omitted.to_dict(),
    }
    if measured_job is None:
        return Forecast(**known)
    with make_step_reporter(config.progress) as on_step:
        rates = measured_job.run(drawn, seconds=config.seconds, alternatives=False, on_step=on_step)
    workers = max(1, measured_job.num_gpus) if config.workers == "auto" else config.workers
    known["time"] = estimate_job(
        rates, counted.images, units, measured_job.job.rows_per_part, workers, config.price_per_hour
    )
    return Forecast(**known, rates=rates)


def estimate_job(
    rates: Rates, images: int, units: int, rows_per_part: int, workers: int, price_per_hour: float | None
) -> Expected:
    """Estimate time and cost of a job from measured rates.

    Args:
        rates: Rates of one worker.
        images: Number of samples.
        units: Number of units; further workers are idle.
        rows_per_part: Most samples in a part.
        workers: Number of workers, each like the measured one.
        price_per_hour: Price of one worker; None if unknown.
    """
    verdict = find_bottleneck(rates)
    busy = max(1, min(workers, units))
    rate = verdict.job_images_per_s * busy
    seconds = images / rate
    worker_hours = workers * seconds / 3600
    parts = max(units, -(-images // rows_per_part))
    what = "one GPU and its share of the cores" if rates.device == "cuda" else "one machine"
    assumptions = [
        f"each worker is like this one ({what}: {rates.num_threads} threads) and reads as fast beside the others",
        "starting up (less than a minute) is not counted",
    ]
    if busy < workers:
        there = f"there {'is' if units == 1 else 'are'} only {fmt.plural(units, 'unit')}"
        assumptions.append(f"{workers - busy} of the {workers} workers stay idle: {there}")
    return Expected(
        workers=workers,
        images_per_s=rate,
        seconds=seconds,
        worker_hours=worker_hours,
        cost=None if price_per_hour is None else worker_hours * price_per_hour,
        output_bytes=round(images * rates.row_bytes + parts * rates.part_bytes),
        verdict=verdict,
        assumptions=tuple(assumptions),
    )
