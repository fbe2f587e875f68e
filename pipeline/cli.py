"""The command line: words become settings, a call, a few lines and an exit code. No logic lives here."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import sys
from typing import Annotated, Any, Literal, NoReturn, cast

import typer

from pipeline.errors import ShardlabelError

app = typer.Typer(
    name="shardlabel",
    help="Label millions of images offline: shards or loose images in, an ensemble of classifiers, Parquet out.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# the base of all usage errors, which typer does not name in public
_UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[2])
_INTERRUPTED = 130

S3Endpoint = Annotated[
    str | None, typer.Option("--s3-endpoint", metavar="URL", help="S3 endpoint, where AWS's own variables do not say.")
]
Anonymous = Annotated[bool | None, typer.Option("--no-sign-request", help="Read public buckets without credentials.")]
Out = Annotated[
    str, typer.Argument(metavar="OUT", help="A job's output: directory or s3:// prefix.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def main() -> NoReturn:
    """Run the command line; every error of ours is one line on stderr and its exit code."""
    try:
        code = app(standalone_mode=False)
    except ShardlabelError as error:
        _say(f"shardlabel: {error}")
        code = error.exit_code
    except _UsageError as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _say("shardlabel: interrupted; run the same command again to go on from here")
        code = _INTERRUPTED
    except typer.Exit as exit_:
        code = exit_.exit_code
    sys.exit(code if isinstance(code, int) else 0)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _version(asked: bool) -> None:
    if asked:
        print(f"shardlabel {importlib.metadata.version('shardlabel')}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


@app.command(
    epilog="Examples:  shardlabel label photos/ --out labels/ -m resnet50   |   shardlabel label "
    "'s3://bucket/shard-{000..127}.tar' --out s3://bucket/labels -m resnet50,densenet121 -m half:vit_b_16*0.5"
)
def label(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT",
            help="Tar, directory, glob, brace range (shard-{000..127}.tar), s3:// key or prefix, or @list.txt. "
            "A place that holds tars is read as WebDataset shards, otherwise as loose images.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[str | None, typer.Option("--out", "-o", metavar="OUT", help="Directory or s3:// prefix.")] = None,
    config: Annotated[
        str | None, typer.Option("--config", metavar="FILE", help="YAML with these options; the command line wins.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="SPEC",
            help="Member: [ALIAS:]ARCH[@WEIGHTS][=CHECKPOINT][*FACTOR]; repeat it, or give a comma list. ARCH is a "
            "torchvision classifier or timm/NAME.  [default: resnet50,resnext50_32x4d,efficientnet_v2_s]",
        ),
    ] = None,
    weights_dir: Annotated[
        str | None, typer.Option(metavar="URI", help="Directory or prefix where checkpoints are looked for first.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Class names: one per line, or a JSON list.  [default: ImageNet-1k]"),
    ] = None,
    combine: Annotated[
        Literal["mean", "geometric", "vote"] | None, typer.Option(help="How members are combined.  [default: mean]")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Classes kept per image.  [default: 5]")] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"] | None, typer.Option(help="[default: auto]")] = None,
    precision: Annotated[
        Literal["auto", "fp32", "mixed", "bf16", "fp16"] | None,
        typer.Option(
            help="mixed: low precision first, fp32 again for near ties. auto: mixed on a GPU, fp32 on a CPU.  "
            "[default: auto]"
        ),
    ] = None,
    compile: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Run members through torch.compile.  [default: no]")
    ] = None,
    batch_size: Annotated[str | None, typer.Option(metavar="auto|N", help="[default: auto]")] = None,
    decode: Annotated[
        Literal["exact", "fast"] | None,
        typer.Option(help="fast: large JPEGs may be decoded at a reduced DCT scale.  [default: exact]"),
    ] = None,
    engine: Annotated[
        Literal["ray", "inline"] | None, typer.Option(help="inline: in this process, without Ray.  [default: ray]")
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", envvar="RAY_ADDRESS", help="A running cluster.  [default: Ray on this machine]"
        ),
    ] = None,
    workers: Annotated[
        str | None, typer.Option(metavar="auto|N", help="Labelers. auto: one per GPU, or one per machine.")
    ] = None,
    decode_threads: Annotated[
        str | None, typer.Option(metavar="auto|N", help="Threads of a labeler. auto: one per CPU it has.")
    ] = None,
    rows_per_part: Annotated[
        int | None, typer.Option(help="Samples in a part at most; fixed for the life of OUT.  [default: 10000]")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(metavar="NAMES", help="Fields of the samples (json, txt, ...) kept as columns.")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Label only the first N samples.")] = None,
    max_bad_rate: Annotated[
        float | None, typer.Option(help="Stop when more of at least 1,000 samples are quarantined.  [default: 0.5]")
    ] = None,
    overwrite: Annotated[
        bool | None, typer.Option("--overwrite", help="Replace an OUT made by a different job.")
    ] = None,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: Anonymous = None,
    progress: Annotated[
        Literal["auto", "bar", "plain", "json", "none"] | None,
        typer.Option(help="auto: a bar on a terminal, plain lines elsewhere. json: JSON lines on stdout."),
    ] = None,
    verbose: Annotated[bool | None, typer.Option("--verbose", "-v", help="Let Ray and the libraries talk.")] = None,
) -> int:
    """Label images; the same command again goes on where it stopped."""
    words = {name: value for name, value in locals().items() if name != "config" and value not in (None, [])}
    from pipeline.config import label_config
    from pipeline.job import run_label

    for name in ("batch_size", "workers", "decode_threads"):
        if str(words.get(name, "")).isdigit():
            words[name] = int(words[name])
    settings = label_config(words, config)
    _quiet(verbose=settings.verbose)
    summary = run_label(settings)
    if settings.progress not in {"json", "none"}:
        _show_summary(summary)
    _explain_exit(summary)
    return summary.exit_code


@app.command()
def status(out: Out, json_: AsJson = False, s3_endpoint: S3Endpoint = None, no_sign_request: Anonymous = None) -> int:
    """How far a job has come: units, images, rate, quarantine."""
    import pipeline

    found = pipeline.status(out, s3_endpoint=s3_endpoint, no_sign_request=bool(no_sign_request))
    if json_:
        _print_json(found)
        return 0
    state = "finished" if found.finished else "not finished"
    rows = [
        ("units", f"{found.units_done:,} of {found.units_total:,} done ({state})"),
        ("images", f"{found.images:,}"),
        ("labelled", f"{found.labelled:,}"),
        ("rate", "-" if found.images_per_s is None else f"{found.images_per_s:,.1f} images/s between commits"),
        ("quarantined", _reasons(found.quarantined)),
        ("shard damage", _reasons(found.events)),
    ]
    _print_rows(found.out, rows)
    for uri in found.unreadable:
        print(f"unreadable: {uri}")
    return 0


@app.command()
def verify(out: Out, json_: AsJson = False, s3_endpoint: S3Endpoint = None, no_sign_request: Anonymous = None) -> int:
    """Prove that every sample of the inputs is accounted for exactly once; exit 1 if not."""
    import pipeline

    found = pipeline.verify(out, s3_endpoint=s3_endpoint, no_sign_request=bool(no_sign_request))
    if json_:
        _print_json(found)
        return found.exit_code
    for line in found.discrepancies:
        print(f"DISCREPANCY  {line}")
    verdict = "every sample is accounted for exactly once"
    if found.discrepancies:
        verdict = f"{len(found.discrepancies)} discrepancies"
    print(
        f"{found.out}: {found.units:,} units, {found.samples:,} samples in, "
        f"{found.predictions:,} predictions + {found.quarantined:,} quarantined: {verdict}"
    )
    return found.exit_code


@app.command()
def evaluate(out: Out, json_: AsJson = False, s3_endpoint: S3Endpoint = None, no_sign_request: Anonymous = None) -> int:
    """Accuracy of each member and of the consensus, where the samples say what is true (.cls)."""
    import pipeline

    found = pipeline.evaluate(out, s3_endpoint=s3_endpoint, no_sign_request=bool(no_sign_request))
    if json_:
        _print_json(found)
        return 0
    if not found.images:
        print(f"{found.out}: no labelled sample has a .cls, so there is nothing to compare with")
        return 0
    rows = [*found.members.items(), (f"consensus ({found.combine})", found.consensus)]
    shown = [(name, f"{accuracy.top1:7.1%}  {accuracy.top5:7.1%}") for name, accuracy in rows]
    _print_rows(f"{found.out}: {found.images:,} images with known truth", [("", "  top-1    top-5"), *shown])
    return 0


@app.command()
def demo(
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", help="Where to write.  [default: ./shardlabel-demo]", show_default=False),
    ] = None,
    engine: Annotated[Literal["ray", "inline"], typer.Option(help="inline: in this process, without Ray.")] = "ray",
) -> int:
    """Label the sample photographs that ship with shardlabel. No network, about a minute."""
    from pipeline.demo import run_demo

    _quiet(verbose=False)
    return run_demo(out or "shardlabel-demo", engine)


# -- printing ---------------------------------------------------------------------------------------------


def _quiet(*, verbose: bool) -> None:
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(name)s: %(message)s")


def _show_summary(summary: Any) -> None:  # noqa: ANN401 - job.LabelSummary, which costs seconds to import
    if not summary.images and summary.units_done == summary.units_total:
        print(f"nothing left to do: all {summary.units_total:,} units are in {summary.out}")
        return
    rows = [
        ("images", f"{summary.images:,} in {summary.seconds:,.1f} s, {summary.images_per_s:,.1f} images/s"),
        ("labelled", f"{summary.labelled:,}"),
        ("quarantined", _reasons(summary.quarantined_by_reason)),
    ]
    if summary.events:
        rows.append(("shard damage", _reasons(summary.events)))
    rows.append(("units", f"{summary.units_done:,} of {summary.units_total:,} done"))
    rows.append(("predictions", f"{summary.out}/predictions/*.parquet"))
    _print_rows("", rows)


def _explain_exit(summary: Any) -> None:  # noqa: ANN401 - likewise
    for failed in summary.failures:
        _say(f"not read: {failed.uri}: {failed.message}")
    if summary.bad_rate_exceeded:
        _say("shardlabel: stopped: too many samples are quarantined (--max-bad-rate); see OUT/quarantine")
    elif summary.interrupted:
        _say("shardlabel: stopped; run the same command again to go on from here")
    elif summary.failed_units:
        _say(f"shardlabel: {summary.failed_units} units could not be read; run the same command to try them again")


def _reasons(counts: dict[str, int]) -> str:
    if not counts:
        return "0"
    listed = ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items(), key=lambda item: -item[1]))
    return f"{sum(counts.values()):,} ({listed})"


def _print_rows(title: str, rows: list[tuple[str, str]]) -> None:
    if title:
        print(title)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"  {name:<{width}}  {value}")


def _print_json(found: Any) -> None:  # noqa: ANN401 - any of the result dataclasses
    import dataclasses

    print(json.dumps(dataclasses.asdict(found), ensure_ascii=False, indent=2))
