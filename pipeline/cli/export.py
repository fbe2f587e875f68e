"""The command ``export``. No logic lives here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from pipeline.cli.help import examples
from pipeline.cli.next_steps import after_export, print_next
from pipeline.cli.options import ENGINE_HELP, ClassesOfOutput, NoSignRequest, Out, RequestPayer, S3Endpoint
from pipeline.cli.printing import format_counts, print_line, print_rows, print_stderr
from pipeline.cli.summaries import configure_logging
from pipeline.text import fmt
from pipeline.text.commands import store_words

EXAMPLES = examples(
    "shardlabel export labels --to dataset --format imagefolder --min-score 0.9",
    "shardlabel export labels --to dataset --format parquet \\\n"
    "    --classes wordnet --back-off --target-precision 0.95 --truth truth.csv",
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
        typer.Option(
            help="Out-of-distribution score: minus the members' mean energy; larger is less like the training images."
        ),
    ] = None,
    target_precision: Annotated[
        float | None,
        typer.Option(
            metavar="F",
            help="Accept images from the lowest score at which this share of labels is right, certified on truth drawn "
            "at random; exports nothing where that cannot be promised.",
        ),
    ] = None,
    delta: Annotated[float | None, typer.Option(help="Risk that the promise does not hold.  [default: 0.1]")] = None,
    truth: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="For --target-precision, as for evaluate.  [default: the samples' .cls]"),
    ] = None,
    unknown_labels: Annotated[
        Literal["refuse", "wrong"] | None,
        typer.Option(
            help="Truths that name no class (`none` does, and counts as wrong): no promise until they are mended, or "
            "they count as wrong.  [default: refuse]"
        ),
    ] = None,
    classes: ClassesOfOutput = None,
    level: Annotated[
        str | None,
        typer.Option(help="Export the groups of this level of --classes as the classes."),
    ] = None,
    back_off: Annotated[
        bool | None,
        typer.Option(
            "--back-off",
            help="Give each image the finest name, class or group of --classes, that --target-precision allows; right "
            "means that the truth lies at or below it.",
        ),
    ] = None,
    max_per_class: Annotated[
        int | None, typer.Option(metavar="N", help="Of each class only the N best by score.")
    ] = None,
    repeat_to: Annotated[
        int | None,
        typer.Option(metavar="N", help="The column copies says how often to repeat images so that a class has N."),
    ] = None,
    dedupe: Annotated[
        bool | None,
        typer.Option("--dedupe/--no-dedupe", help="Only the first of images with the same bytes.  [default: dedupe]"),
    ] = None,
    license: Annotated[
        str | None, typer.Option(metavar="ID", help="Of the images, for the dataset card.  [default: unknown]")
    ] = None,
    partial: Annotated[bool | None, typer.Option("--partial", help="Export a job that is not finished.")] = None,
    engine: Annotated[
        Literal["auto", "ray", "inline"] | None, typer.Option(help=f"{ENGINE_HELP}  [default: auto]")
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", envvar="RAY_ADDRESS", help="A running cluster.  [default: this machine]"),
    ] = None,
    workers: Annotated[str | None, typer.Option(metavar="auto|N", help="Exporters. auto: one per machine.")] = None,
    overwrite: Annotated[bool | None, typer.Option("--overwrite", help="Replace another export.")] = None,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: NoSignRequest = None,
    request_payer: RequestPayer = None,
    progress: Annotated[
        Literal["auto", "bar", "plain", "json", "none"] | None,
        typer.Option(help="auto: a bar on a terminal, plain lines elsewhere. json: JSON lines on stdout."),
    ] = None,
    verbose: Annotated[
        bool | None, typer.Option("--verbose", "-v", help="Show the messages of Ray and the libraries.")
    ] = None,
) -> int:
    """Make a labelled dataset from a job's output, with original bytes and keys; the same command again goes on."""
    options = {name: value for name, value in locals().items() if value is not None}
    from pipeline.commands.export import run_export
    from pipeline.config.parse import parse_config
    from pipeline.exporting.settings import ExportConfig

    settings = parse_config(ExportConfig, options)
    configure_logging(verbose=settings.verbose)
    summary = run_export(settings)
    if settings.progress not in {"json", "none"}:
        _print_summary(summary)
        print_next(
            *after_export(summary, out, options),
            store=store_words(settings.s3_endpoint, settings.no_sign_request, settings.request_payer),
        )
        for line in summary.reader_notes:
            print_line(line)
    _print_failures(summary)
    return summary.exit_code


def _print_summary(summary: Any) -> None:  # noqa: ANN401 - exporting.summary.ExportSummary, which costs seconds to import
    rows = [
        ("labelled", f"{summary.labelled:,}"),
        ("rejected", format_counts({k: v for k, v in summary.rejected.items() if v})),
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
        seen = f"{promise.right:,} of {fmt.plural(promise.accepted, 'certifying truth')} from there on were right"
        rows.append(("threshold", f"{promise.threshold:.4f} ({seen})"))
        drawn = "at random, as their list tells" if promise.proven_random else "at random on your word; no list tells"
        unused = promise.num_truths - promise.num_certifying
        left_out = f"; {unused:,} of them were fitted on and certify nothing" if unused else ""
        used = summary.truth.in_words if summary.truth is not None else f"{promise.num_truths:,}"
        rows.append(("truths", f"{used}; drawn {drawn}{left_out}"))
    fewest, most = min(row.images for row in summary.classes), max(row.images for row in summary.classes)
    what = "classes" if summary.bits is None else "names"
    rows.append((what, f"{len(summary.classes):,} of {summary.num_classes:,}, {fewest:,} to {most:,} images each"))
    if summary.bits is not None:
        levels = ", ".join(f"{images:,} {level}" for level, images in summary.levels.items())
        rows.append(("levels", f"{levels}; {summary.bits:.1f} bits an image, 0 where it is rejected"))
    copies = sum(row.copies for row in summary.classes)
    if copies != summary.selected:
        rows.append(("copies", f"{fmt.plural(copies, 'image')}, repeated as the column says"))
    if summary.omitted:
        rows.append(("omitted", f"{format_counts(summary.omitted)}: no longer what was labelled"))
    rows.append(("exported", f"{summary.exported:,} of {summary.selected:,} selected, as {summary.format}"))
    if summary.images:
        images = fmt.plural(summary.images, "image")
        rows.append(("this run", f"{images}, {summary.seconds:,.1f} s, {summary.images_per_s:,.1f} images/s"))
    print_rows(summary.to, rows)
    if summary.groups_from == "top-k":
        print_line("groups are sums of the top-k alone, for no probabilities are stored; `label` has --keep-probs")
    if not summary.calibrated:
        more = "; the promise needs only the ranking" if summary.promise is not None else ""
        print_line(f"scores are uncalibrated: they rank images, but are no probabilities of being right{more}")
    if not summary.complete:
        print_line("the job was not finished: some of its images are missing here")


def _print_failures(summary: Any) -> None:  # noqa: ANN401 - likewise
    for failed in summary.failures:
        print_stderr(f"not read: {failed.uri}: {failed.message}")
    if summary.failed_units_exceeded:
        print_stderr(
            "shardlabel: stopped: too many units could not be read; the same command goes on when that is fixed"
        )
    elif summary.interrupted:
        print_stderr("shardlabel: stopped; run the same command again to go on from here")
    elif summary.failures:
        print_stderr(
            f"shardlabel: {fmt.plural(len(summary.failures), 'unit')} could not be read; run the same command to try "
            "them again"
        )
