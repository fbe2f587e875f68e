"""The commands that measure and forecast: words become a call and a table. No logic lives here."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipeline.cli.completion import auto
from pipeline.cli.help import examples
from pipeline.cli.options import (
    Anonymous,
    AsJson,
    BatchSize,
    Combine,
    Compile,
    Decode,
    DecodeThreads,
    Device,
    Labels,
    Model,
    Precision,
    S3Endpoint,
    Steps,
    TopK,
    WeightsDir,
)
from pipeline.cli.printing import print_json

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
            help="Workers like this one to reckon with. auto: the GPUs of this machine, or the machine.  "
            "[default: auto]",
            autocompletion=auto,
        ),
    ] = None,
    price_per_hour: Annotated[float | None, typer.Option(metavar="PRICE", help="Of one worker, in any money.")] = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="no-measure: count only; needs no weights.")
    ] = True,
    seconds: Annotated[
        float | None, typer.Option(metavar="S", help="What measuring may take, about.  [default: 15]")
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
    no_sign_request: Anonymous = None,
    progress: Steps = "auto",
    json_: AsJson = False,
) -> int:
    """What a job would do, how long it would take and what it would cost. Writes nothing."""
    words = _given(locals())
    from pipeline.cli.speed_tables import print_forecast
    from pipeline.commands.plan import plan as foretell

    found = foretell(words.pop("inputs", ()), **words)
    if json_:
        print_json(found)
    else:
        print_forecast(found)
    return 0


def bench(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT", help=f"{_INPUT} None: the sample data.", show_default=False),
    ] = None,
    seconds: Annotated[float | None, typer.Option(metavar="S", help="What it may take, about.  [default: 60]")] = None,
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
    no_sign_request: Anonymous = None,
    progress: Steps = "auto",
    json_: AsJson = False,
) -> int:
    """Rates of this machine, stage by stage: the limit of a job, how close it comes, and what binds it."""
    words = _given(locals())
    from pipeline.cli.speed_tables import print_benchmark
    from pipeline.commands.bench import bench as run_bench

    found = run_bench(words.pop("inputs", ()), **words)
    if json_:
        print_json(found)
    else:
        print_benchmark(found)
    return 0


def _given(words: dict[str, Any]) -> dict[str, Any]:
    """The words that were given, without what is for the command line alone."""
    return {name: value for name, value in words.items() if name != "json_" and value not in (None, [])}
