"""Bench: measure every stage of a job in one run, the limit that they set, and how close the job comes to it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from pipeline.config.call_options import BenchOptions
from pipeline.config.parse import parse_config
from pipeline.config.settings import BenchConfig
from pipeline.config.signatures import takes_options
from pipeline.inputs.find import find_inputs
from pipeline.job.progress import default_progress
from pipeline.sample_data import sample_data, sample_members
from pipeline.speed.bottleneck import BottleneckAnalysis, find_bottleneck
from pipeline.speed.input_sample import count_loose, draw_sample
from pipeline.speed.measured_job import MeasuredJob
from pipeline.speed.progress import make_step_reporter
from pipeline.speed.rates import Rates
from pipeline.storage import Storage
from pipeline.text.result import Result


@dataclass(frozen=True, slots=True, repr=False)
class Benchmark(Result):
    """The rates of this machine.

    Attributes:
        inputs: Where the images came from.
        rates: The rate of every stage.
        verdict: The bottleneck.
        notes: Messages about the inputs, one line each.
    """

    inputs: tuple[str, ...]
    rates: Rates
    verdict: BottleneckAnalysis
    notes: tuple[str, ...]


@takes_options(BenchOptions, BenchConfig, progress="none")
def bench(
    inputs: str | os.PathLike[str] | Sequence[str] = (),
    **options: Unpack[BenchOptions],
) -> Benchmark:
    """Measure a job on these inputs on this machine; options are those of ``shardlabel bench``.

    Args:
        inputs: One INPUT or several; none for the sample data that ships with the project. Then, without
            ``model``, the sample networks are measured.
        **options: See ``shardlabel bench --help``.

    Raises:
        RequestError: The request is wrong.
        Interrupted: It was stopped.
    """
    options.setdefault("progress", default_progress())
    chosen: dict[str, Any] = {}
    if not inputs:
        inputs = str(sample_data())
        if "model" not in options:
            chosen = sample_members()
    config = parse_config(BenchConfig, {"inputs": inputs, **chosen, **options}, called=True)
    storage = Storage(config.storage)
    found = find_inputs(config.inputs, storage)
    measured_job = MeasuredJob(config, config.inputs, storage)
    max_images, max_bytes = measured_job.sample_limits
    drawn = draw_sample(list(found.tars.values()), count_loose(found, max_images), storage, max_images, max_bytes)
    with make_step_reporter(config.progress) as on_step:
        rates = measured_job.run(drawn, seconds=config.seconds, alternatives=True, on_step=on_step)
    return Benchmark(config.inputs, rates, find_bottleneck(rates), tuple(found.notes))
