"""The command ``bench``."""

from __future__ import annotations

from typing import Annotated

import typer

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
    OwnClasses,
    Precision,
    RequestPayer,
    S3Endpoint,
    StepProgress,
    TopK,
    WeightsDir,
    given_options,
)
from pipeline.cli.printing import print_result

EXAMPLES = examples(
    "shardlabel bench    # the sample data and networks",
    "shardlabel bench photos/ -m resnet50,densenet121 --precision mixed",
)


def bench(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT", help="As for `label`; none: the sample data.", show_default=False),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(metavar="S", help="Approximate time for measuring.  [default: 60]")
    ] = None,
    model: Model = None,
    weights_dir: WeightsDir = None,
    labels: Labels = None,
    combine: Combine = None,
    classes: OwnClasses = None,
    top_k: TopK = None,
    device: Device = None,
    precision: Precision = None,
    compile: Compile = None,
    batch_size: BatchSize = None,
    decode: Decode = None,
    decode_threads: DecodeThreads = None,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: NoSignRequest = None,
    request_payer: RequestPayer = None,
    progress: StepProgress = "auto",
    json_: AsJson = False,
) -> int:
    """Measure each stage on this machine: the limit of a job, how close it comes, and its bottleneck."""
    options = given_options(locals())
    from pipeline.cli.speed_tables import print_benchmark
    from pipeline.commands.bench import bench as run_bench

    found = run_bench(options.pop("inputs", ()), **options)
    return print_result(found, print_benchmark, as_json=json_)
