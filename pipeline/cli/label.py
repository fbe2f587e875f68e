"""The command ``label``."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from pipeline.cli.completion import complete_auto
from pipeline.cli.help import BUDGETS, NETWORKS, ROWS, examples
from pipeline.cli.loading import load, loading_if_slow
from pipeline.cli.next_steps import after_label, print_next
from pipeline.cli.options import (
    BatchSize,
    CalibrationFile,
    Combine,
    Compile,
    Decode,
    DecodeThreads,
    Device,
    Engine,
    Labels,
    Model,
    NoSignRequest,
    Overwrite,
    OwnClasses,
    Precision,
    Progress,
    Prune,
    RayAddress,
    RequestPayer,
    S3Endpoint,
    TopK,
    Verbose,
    WeightsDir,
    WhichImages,
    Workers,
)
from pipeline.cli.summaries import configure_logging, print_failures, print_summary
from pipeline.text.commands import store_words

EXAMPLES = examples(
    "shardlabel label photos/ --out labels -m resnet50",
    "shardlabel label 's3://bucket/{000..127}.tar' --out s3://bucket/labels \\\n"
    "    -m resnet50,densenet121 -m half:vit_b_16*0.5",
    "shardlabel label --config job.yaml --limit 1000",
)


def label(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT",
            help="Tar, directory, glob, brace range (shard-{000..127}.tar), s3:// key or prefix, or @list.txt. "
            "Tars in a folder are WebDataset shards, images beside them loose images.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[str | None, typer.Option("--out", "-o", metavar="OUT", help="Directory or s3:// prefix.")] = None,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="YAML with these options, as `config init` writes it; the command line wins.",
        ),
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
    engine: Engine = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    decode_threads: DecodeThreads = None,
    rows_per_part: Annotated[
        str | None,
        typer.Option(
            metavar="auto|N",
            help="Samples in a part at most: a stop loses the part in flight. auto: a part takes 10 to 60 s as "
            "estimated, 10000 at most; small jobs have some. Fixed for the life of OUT.  [default: auto]",
            rich_help_panel=ROWS,
            autocompletion=complete_auto,
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES", help="Fields of the samples (json, txt, ...) kept as columns.", rich_help_panel=ROWS
        ),
    ] = None,
    images: WhichImages = None,
    calibration: CalibrationFile = None,
    classes: OwnClasses = None,
    keep_probs: Annotated[
        bool | None,
        typer.Option(
            "--keep-probs",
            help="Store each member's full probabilities too (2 bytes a class): for `combine`, --reuse, `calibrate`.",
            rich_help_panel=ROWS,
        ),
    ] = None,
    reuse: Annotated[
        str | None,
        typer.Option(
            metavar="OUT",
            help="An output labelled with --keep-probs: its members are taken from there, only other members run.",
            rich_help_panel=NETWORKS,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Label only the first N samples.", rich_help_panel=ROWS)
    ] = None,
    max_bad_rate: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            help="Stop when more of at least 1,000 samples are quarantined.  [default: 0.5]",
            rich_help_panel=BUDGETS,
        ),
    ] = None,
    max_failed_units: Annotated[
        str | None,
        typer.Option(
            metavar="auto|N",
            help="Stop when more units than this cannot be read. auto: 1 % of all, at least 100.  [default: auto]",
            rich_help_panel=BUDGETS,
            autocompletion=complete_auto,
        ),
    ] = None,
    retry: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REASONS",
            help="Label again what was quarantined for these reasons (unsupported_format, ...): after a decoder was "
            "installed, or an update.",
            rich_help_panel=ROWS,
        ),
    ] = None,
    overwrite: Overwrite = None,
    prune: Prune = None,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: NoSignRequest = None,
    request_payer: RequestPayer = None,
    progress: Progress = None,
    verbose: Verbose = None,
) -> int:
    """Label images; the same command again goes on where it stopped."""
    options = {name: value for name, value in locals().items() if name != "config" and value not in (None, [])}
    from pipeline.config.parse import parse_label_config

    for name in ("batch_size", "workers", "decode_threads", "max_failed_units", "rows_per_part"):
        if str(options.get(name, "")).isdigit():
            options[name] = int(options[name])
    settings = parse_label_config(options, config)
    from pipeline.job.progress import make_reporter
    from pipeline.job.request import open_request
    from pipeline.machine import process_started_at

    configure_logging(verbose=settings.verbose)
    with contextlib.closing(make_reporter(settings.progress)) as shown:
        with loading_if_slow("pipeline.commands.label", shown.note, "looking at INPUT and OUT"):
            request = open_request(settings)
        shown.note("loading PyTorch")
        load("pipeline.commands.label")
        from pipeline.commands.label import run_label  # only now: a wrong request does not wait for torch

        summary = run_label(settings, shown, request, begun_at=process_started_at())
    if settings.progress not in {"json", "none"}:
        print_summary(summary)
        may_store = len(settings.members) > 1 and not (settings.keep_probs or request.other_classes)
        steps = after_label(summary, may_store=may_store)
        print_next(
            *steps,
            store=store_words(settings.s3_endpoint, settings.no_sign_request, settings.request_payer),
        )
    print_failures(summary)
    return summary.exit_code
