"""The command that computes a consensus again. No logic lives here."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.help import examples
from pipeline.cli.jobs import explain_exit, quiet, show_summary
from pipeline.cli.options import (
    Anonymous,
    CalibrationFile,
    Combine,
    Engine,
    Out,
    Overwrite,
    Progress,
    RayAddress,
    S3Endpoint,
    TopK,
    Verbose,
    Workers,
)

COMBINE_EXAMPLES = examples(
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
            help="Member of OUT that is used; repeat it, or give a comma list.  [default: all, as they counted there]",
        ),
    ] = None,
    combine: Combine = None,
    calibration: CalibrationFile = None,
    top_k: TopK = None,
    engine: Engine = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    overwrite: Overwrite = None,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: Anonymous = None,
    progress: Progress = None,
    verbose: Verbose = None,
) -> int:
    """Compute the consensus of an output labelled with --keep-probs again: no images, no networks, no GPU.

    Rule and top-k are those of OUT where they are not given. The same command again goes on where it stopped.
    """
    words = {name: value for name, value in locals().items() if value not in (None, [])}
    from pipeline.commands.combine import run_combine
    from pipeline.config.parse import parse_config
    from pipeline.config.settings import CombineConfig

    if str(words.get("workers", "")).isdigit():
        words["workers"] = int(words["workers"])
    settings = parse_config(CombineConfig, words)
    quiet(verbose=settings.verbose)
    summary = run_combine(settings)
    if settings.progress not in {"json", "none"}:
        show_summary(summary)
    explain_exit(summary)
    return summary.exit_code
