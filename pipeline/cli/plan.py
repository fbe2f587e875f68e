"""The command ``plan``."""

from __future__ import annotations

from typing import Annotated

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
    InputList,
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
    WhichImages,
    given_options,
)
from pipeline.cli.printing import print_result

EXAMPLES = examples(
    "shardlabel plan 's3://bucket/{000..127}.tar' \\\n    --workers 8 --price-per-hour 2.5",
    "shardlabel plan photos/ --no-measure",
    "shardlabel plan photos/ -m resnet50 --json > plan.json  # for status --plan",
)


def plan(
    inputs: InputList = None,
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
    images: WhichImages = None,
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
    """Estimate the work, time and cost of a job. Writes nothing."""
    options = given_options(locals())
    from pipeline.cli.speed_tables import print_plan
    from pipeline.commands.plan import plan as run_plan

    found = run_plan(options.pop("inputs", ()), **options)
    return print_result(found, print_plan, as_json=json_)
