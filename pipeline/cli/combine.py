"""The command ``combine``. No logic lives here."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.help import examples
from pipeline.cli.next_steps import after_combine, print_next
from pipeline.cli.options import (
    CalibrationFile,
    Combine,
    Engine,
    NoSignRequest,
    Out,
    Overwrite,
    OwnClasses,
    Progress,
    RayAddress,
    RequestPayer,
    S3Endpoint,
    TopK,
    Verbose,
    Workers,
)
from pipeline.cli.summaries import configure_logging, print_failures, print_summary
from pipeline.text.commands import store_words

EXAMPLES = examples(
    "shardlabel combine labels --out fewer -m resnet50 -m densenet121*0.5",
    "shardlabel combine labels --out calibrated --calibration cal.json",
)


def combine(
    source: Out,
    out: Annotated[str, typer.Option("--out", "-o", metavar="OUT2", help="Where the new output goes.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="ALIAS[*FACTOR]",
            help="Member of OUT to use; repeat it, or give a comma list.  [default: all, with their factors there]",
        ),
    ] = None,
    combine: Combine = None,
    calibration: CalibrationFile = None,
    classes: OwnClasses = None,
    top_k: TopK = None,
    engine: Engine = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    overwrite: Overwrite = None,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: NoSignRequest = None,
    request_payer: RequestPayer = None,
    progress: Progress = None,
    verbose: Verbose = None,
) -> int:
    """Compute the consensus of an output labelled with --keep-probs again: no images, no networks, no GPU.

    Without --keep-probs: only --calibration FILE, if that is one temperature.

    Rule and top-k are those of OUT unless given. The same command again goes on where it stopped.
    """
    options = {name: value for name, value in locals().items() if value not in (None, [])}
    from pipeline.commands.combine import run_combine
    from pipeline.config.parse import parse_config
    from pipeline.config.settings import CombineConfig

    if str(options.get("workers", "")).isdigit():
        options["workers"] = int(options["workers"])
    settings = parse_config(CombineConfig, options)
    configure_logging(verbose=settings.verbose)
    summary = run_combine(settings)
    if settings.progress not in {"json", "none"}:
        print_summary(summary)
        store = store_words(s3_endpoint, no_sign_request, request_payer)
        print_next(*after_combine(summary), store=store)
    print_failures(summary)
    return summary.exit_code
