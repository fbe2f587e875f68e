"""The commands about trust: how often labels are right, and scores that say so. No logic lives here."""

from __future__ import annotations

from typing import Annotated, Literal

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
    method: Annotated[
        Literal["auto", "temperature", "stack"],
        typer.Option(
            help="temperature: one number for the pool as it is. stack: a weight for each member of a geometric pool; "
            "wants an output of --keep-probs. auto: stack there, else temperature."
        ),
    ] = "auto",
    json_: AsJson = False,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: Anonymous = None,
) -> int:
    """Fit a temperature, or a weight for each member, where truth is known; `label --calibration FILE` applies it."""
    from pipeline.calibrating import calibrate_and_count
    from pipeline.cli.verdicts import print_calibration

    fitted, counts = calibrate_and_count(
        out, truth=truth, save=save, method=method, s3_endpoint=s3_endpoint, no_sign_request=bool(no_sign_request)
    )
    if json_:
        print_json(fitted.model_dump(mode="json"))
    else:
        print_calibration(fitted, counts, save)
    return 0
