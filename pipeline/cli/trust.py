"""The commands about trust: how often labels are right, and scores that say so. No logic lives here."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.options import Anonymous, AsJson, Out, S3Endpoint
from pipeline.cli.printing import print_json

TruthFile = Annotated[
    str | None,
    typer.Option(
        "--truth",
        metavar="FILE",
        help="CSV or Parquet, local or s3://, with the columns key and label (class name or index), and shard where "
        "keys alone name several images.  [default: the samples' .cls]",
    ),
]


def evaluate(
    out: Out,
    truth: TruthFile = None,
    json_: AsJson = False,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: Anonymous = None,
) -> int:
    """How often each member and the consensus are right, and how far scores can be trusted, where truth is known."""
    import pipeline
    from pipeline.cli.verdicts import print_evaluation

    found = pipeline.evaluate(out, truth=truth, s3_endpoint=s3_endpoint, no_sign_request=bool(no_sign_request))
    if json_:
        print_json(found)
    else:
        print_evaluation(found)
    return 0


def calibrate(
    out: Out,
    save: Annotated[str, typer.Option("--save", metavar="FILE", help="Where to write it, local or s3://.")],
    truth: TruthFile = None,
    json_: AsJson = False,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: Anonymous = None,
) -> int:
    """Fit a temperature to the consensus, where truth is known; `label --calibration FILE` applies it."""
    from pipeline.calibrating import calibrate_and_count
    from pipeline.cli.verdicts import print_calibration

    fitted, counts = calibrate_and_count(
        out, truth=truth, save=save, s3_endpoint=s3_endpoint, no_sign_request=bool(no_sign_request)
    )
    if json_:
        print_json(fitted.model_dump(mode="json"))
    else:
        print_calibration(fitted, counts, save)
    return 0


def report(
    out: Out,
    truth: TruthFile = None,
    save: Annotated[
        str | None,
        typer.Option("--save", metavar="FILE", help="Where to write it, local or s3://.  [default: OUT/report.html]"),
    ] = None,
    images: Annotated[
        bool, typer.Option("--images/--no-images", help="Show thumbnails; a few originals are read again for them.")
    ] = True,
    json_: AsJson = False,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: Anonymous = None,
) -> int:
    """Write one self-contained HTML page: what was run, classes, certainty, accuracy, pictures, quarantine."""
    import pipeline
    from pipeline.cli.verdicts import print_report

    made = pipeline.report(
        out, truth=truth, save=save, images=images, s3_endpoint=s3_endpoint, no_sign_request=bool(no_sign_request)
    )
    if json_:
        print_json(made)
    else:
        print_report(made)
    return 0
