"""The command that makes a labelled dataset. No logic lives here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from pipeline.cli.help import examples
from pipeline.cli.options import Anonymous, Out, S3Endpoint
from pipeline.cli.printing import print_rows, reasons, say, show

EXPORT_EXAMPLES = examples(
    "shardlabel export labels --to dataset --format imagefolder --min-score 0.9",
    "shardlabel export s3://bucket/labels --to s3://bucket/dataset \\\n"
    "    --format webdataset --target-precision 0.98 --truth truth.csv",
)


def export(
    out: Out,
    to: Annotated[str, typer.Option("--to", metavar="URI", help="Where it goes: directory or s3:// prefix.")],
    format: Annotated[
        Literal["webdataset", "imagefolder", "csv", "parquet"],
        typer.Option(
            help="webdataset: tars of image, .cls and .json. imagefolder: CLASS/KEY. csv: no images. "
            "parquet: as Hugging Face datasets loads it."
        ),
    ],
    min_score: Annotated[float | None, typer.Option(help="Accept images of at least this score, 0-1.")] = None,
    min_agreement: Annotated[
        float | None, typer.Option(help="Share of members that agree with the label, 0-1.")
    ] = None,
    max_entropy: Annotated[float | None, typer.Option(help="Of the consensus, in nats.")] = None,
    max_disagreement: Annotated[float | None, typer.Option(help="Mutual information of the members, in nats.")] = None,
    max_ood_score: Annotated[
        float | None,
        typer.Option(help="Out-of-distribution score: minus the members' mean energy; larger is stranger."),
    ] = None,
    target_precision: Annotated[
        float | None,
        typer.Option(
            metavar="F",
            help="Accept from the score on at which this share of labels is right, certified on truth drawn at random; "
            "exports nothing where that cannot be promised.",
        ),
    ] = None,
    delta: Annotated[float | None, typer.Option(help="Risk that the promise does not hold.  [default: 0.1]")] = None,
    truth: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="For --target-precision, as for evaluate.  [default: the samples' .cls]"),
    ] = None,
    max_per_class: Annotated[
        int | None, typer.Option(metavar="N", help="Of each class only the N best by score.")
    ] = None,
    repeat_to: Annotated[
        int | None,
        typer.Option(metavar="N", help="Say in the column copies how often to repeat images until a class has N."),
    ] = None,
    dedupe: Annotated[
        bool | None,
        typer.Option("--dedupe/--no-dedupe", help="Of images with the same bytes only the first.  [default: dedupe]"),
    ] = None,
    license: Annotated[
        str | None, typer.Option(metavar="ID", help="Of the images, for the dataset card.  [default: unknown]")
    ] = None,
    partial: Annotated[bool | None, typer.Option("--partial", help="Export a job that is not finished.")] = None,
    engine: Annotated[
        Literal["ray", "inline"] | None, typer.Option(help="inline: in this process, without Ray.  [default: ray]")
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", envvar="RAY_ADDRESS", help="A running cluster.  [default: Ray on this machine]"
        ),
    ] = None,
    workers: Annotated[str | None, typer.Option(metavar="auto|N", help="Exporters. auto: one per machine.")] = None,
    overwrite: Annotated[bool | None, typer.Option("--overwrite", help="Replace another export.")] = None,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: Anonymous = None,
    progress: Annotated[
        Literal["auto", "bar", "plain", "json", "none"] | None,
        typer.Option(help="auto: a bar on a terminal, plain lines elsewhere. json: JSON lines on stdout."),
    ] = None,
    verbose: Annotated[bool | None, typer.Option("--verbose", "-v", help="Let Ray and the libraries talk.")] = None,
) -> int:
    """Make a labelled dataset of a job's output: original bytes and keys; the same command again goes on."""
    words = {name: value for name, value in locals().items() if value is not None}
    from pipeline.cli.jobs import quiet
    from pipeline.commands.export import run_export
    from pipeline.config.parse import parse_config
    from pipeline.exporting.settings import ExportConfig

    settings = parse_config(ExportConfig, words)
    quiet(verbose=settings.verbose)
    summary = run_export(settings)
    if settings.progress not in {"json", "none"}:
        _show_summary(summary)
    _explain_exit(summary)
    return summary.exit_code


def _show_summary(summary: Any) -> None:  # noqa: ANN401 - exporting.summary.ExportSummary, which costs seconds to import
    rows = [
        ("labelled", f"{summary.labelled:,}"),
        ("rejected", reasons({k: v for k, v in summary.rejected.items() if v})),
    ]
    if summary.promise is not None:
        promise = summary.promise
        before = ", before --max-per-class" if "max_per_class" in summary.rejected else ""
        rows.append(
            (
                "promise",
                f"{100 * promise.target:.6g} % of the labels are right{before}; risk {100 * promise.delta:.6g} %",
            )
        )
        seen = f"{promise.right:,} of {promise.accepted:,} certifying truths from there on were right"
        rows.append(("threshold", f"{promise.threshold:.4f} ({seen})"))
    fewest, most = min(row.images for row in summary.classes), max(row.images for row in summary.classes)
    rows.append(("classes", f"{len(summary.classes):,} of {summary.num_classes:,}, {fewest:,} to {most:,} images each"))
    copies = sum(row.copies for row in summary.classes)
    if copies != summary.selected:
        rows.append(("copies", f"{copies:,} images, repeated as the column says"))
    if summary.omitted:
        rows.append(("omitted", f"{reasons(summary.omitted)}: no longer what was labelled"))
    rows.append(("exported", f"{summary.exported:,} of {summary.selected:,} selected, as {summary.format}"))
    if summary.images:
        rows.append(
            ("this run", f"{summary.images:,} images, {summary.seconds:,.1f} s, {summary.images_per_s:,.1f} images/s")
        )
    print_rows(summary.to, rows)
    if not summary.calibrated:
        more = "; the promise holds all the same" if summary.promise is not None else ""
        show(f"scores are uncalibrated: they order images, and promise nothing{more}")
    if not summary.complete:
        show("the job was not finished: this is a part of it")


def _explain_exit(summary: Any) -> None:  # noqa: ANN401 - likewise
    for failed in summary.failures:
        say(f"not read: {failed.uri}: {failed.message}")
    if summary.failed_units_exceeded:
        say("shardlabel: stopped: too many units could not be read; the same command goes on when that is mended")
    elif summary.interrupted:
        say("shardlabel: stopped; run the same command again to go on from here")
    elif summary.failures:
        say(f"shardlabel: {len(summary.failures)} units could not be read; run the same command to try them again")
