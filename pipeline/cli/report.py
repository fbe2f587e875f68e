"""The command ``report``."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.help import examples
from pipeline.cli.options import AsJson, ClassesOfOutput, NoSignRequest, Out, RequestPayer, S3Endpoint, TruthFile
from pipeline.cli.printing import print_result

EXAMPLES = examples(
    "shardlabel report labels",
    "shardlabel report labels --truth truth.csv --save page.html",
    "shardlabel report labels --classes wordnet",
)


def report(
    out: Out,
    truth: TruthFile = None,
    classes: ClassesOfOutput = None,
    save: Annotated[
        str | None,
        typer.Option("--save", metavar="FILE", help="Where to write it, local or s3://.  [default: OUT/report.html]"),
    ] = None,
    images: Annotated[
        bool,
        typer.Option("--images/--no-images", help="Show thumbnails; a few original images are read again for them."),
    ] = True,
    json_: AsJson = False,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: NoSignRequest = None,
    request_payer: RequestPayer = None,
) -> int:
    """Write one self-contained HTML page: the run, classes, certainty, accuracy, pictures, quarantine."""
    import pipeline
    from pipeline.cli.trust_tables import print_report

    made = pipeline.report(
        out,
        truth=truth,
        classes=classes,
        save=save,
        images=images,
        s3_endpoint=s3_endpoint,
        no_sign_request=bool(no_sign_request),
        request_payer=bool(request_payer),
    )
    return print_result(made, print_report, as_json=json_)
