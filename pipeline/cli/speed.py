"""The commands ``plan`` and ``bench``. No logic lives here."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipeline.cli.completion import complete_auto
from pipeline.cli.help import examples
from pipeline.cli.options import (
    AsJson,
    BatchSize,
    Combine,
    Compile,
    Decode,
    DecodeThreads,
    Device,
    Labels,
    Model,
    NoSignRequest,
    Precision,
    S3Endpoint,
    StepProgress,
    TopK,
    WeightsDir,
)
from pipeline.cli.printing import print_result

PLAN_EXAMPLES = examples(
    "shardlabel plan 's3://bucket/{000..127}.tar' \\\n    --workers 8 --price-per-hour 2.5",
    "shardlabel plan photos/ --no-measure",
    "shardlabel plan photos/ -m resnet50 --json > plan.json  # for status --plan",
)
BENCH_EXAMPLES = examples(
    "shardlabel bench    # the sample data and networks",
    "shardlabel bench photos/ -m resnet50,densenet121 --precision mixed",
)
_INPUT = "As for `label`: tar, directory, glob, brace range, s3:// key or prefix, or @list.txt."


def plan(
    inputs: Annotated[list[str] | None, typer.Argument(metavar="INPUT", help=_INPUT, show_default=False)] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            metavar="auto|N",
            help="Workers like this one to assume. auto: the GPUs of this machine, or the machine.  [default: auto]",
            autocompletion=complete_auto,
        ),
    ] = None,
    price_per_hour: Annotated[
        float | None, typer.Option(metavar="PRICE", help="Of one worker, in any currency.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="no-measure: count only; needs no weights.")
    ] = True,
    seconds: Annotated[
        float | None, typer.Option(metavar="S", help="Approximate time for measuring.  [default: 15]")
    ] = None,
    model: Model = None,
    weights_dir: WeightsDir = None,
    labels: Labels = None,
    combine: Combine = None,
    top_k: TopK = None,
    device: Device = None,
    precision: Precision = None,
    compile: Compile = None,
    batch_size: BatchSize = None,
    decode: Decode = None,
    decode_threads: DecodeThreads = None,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: NoSignRequest = None,
    progress: StepProgress = "auto",
    json_: AsJson = False,
) -> int:
    """Estimate the work, time and cost of a job. Writes nothing."""
    options = _given_options(locals())
    from pipeline.cli.speed_tables import print_plan
    from pipeline.commands.plan import plan as run_plan

    found = run_plan(options.pop("inputs", ()), **options)
    return print_result(found, print_plan, as_json=json_)


def bench(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT", help=f"{_INPUT} None: the sample data.", show_default=False),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(metavar="S", help="Approximate time for measuring.  [default: 60]")
    ] = None,
    model: Model = None,
    weights_dir: WeightsDir = None,
    labels: Labels = None,
    combine: Combine = None,
    top_k: TopK = None,
    device: Device = None,
    precision: Precision = None,
    compile: Compile = None,
    batch_size: BatchSize = None,
    decode: Decode = None,
    decode_threads: DecodeThreads = None,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: NoSignRequest = None,
    progress: StepProgress = "auto",
    json_: AsJson = False,
) -> int:
    """Measure each stage on this machine: the limit of a job, how close it comes, and its bottleneck."""
    options = _given_options(locals())
    from pipeline.cli.speed_tables import print_benchmark
    from pipeline.commands.bench import bench as run_bench

    found = run_bench(options.pop("inputs", ()), **options)
    return print_result(found, print_benchmark, as_json=json_)


def _given_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, without ``--json``."""
    return {name: value for name, value in options.items() if name != "json_" and value not in (None, [])}
