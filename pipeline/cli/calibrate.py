"""The command ``calibrate``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from pipeline.cli.help import examples
from pipeline.cli.next_steps import after_calibrate, print_next
from pipeline.cli.options import AsJson, NoSignRequest, Out, RequestPayer, S3Endpoint, TruthFile
from pipeline.cli.printing import print_json
from pipeline.text.commands import store_words

EXAMPLES = examples(
    "shardlabel calibrate labels --truth truth.csv --save cal.json",
    "shardlabel calibrate labels --truth truth.csv --save cal.json --hold-out 0.8",
    "shardlabel label photos/ --out calibrated -m resnet50 --calibration cal.json",
)


def calibrate(
    out: Out,
    save: Annotated[str, typer.Option("--save", metavar="FILE", help="Where to write it, local or s3://.")],
    truth: TruthFile = None,
    method: Annotated[
        Literal["auto", "temperature", "stack"],
        typer.Option(
            help="temperature: one number for the pool. stack: a weight for each member of a geometric pool; needs an "
            "output of --keep-probs. auto: the one with the lower NLL on held-out images."
        ),
    ] = "auto",
    hold_out: Annotated[
        float,
        typer.Option(
            metavar="F",
            help="Share of the truths that is not fitted on, so that `export --target-precision` can use it: 0.8 for "
            "a promise, 0 if you have other truths for that.",
        ),
    ] = 0.0,
    json_: AsJson = False,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: NoSignRequest = None,
    request_payer: RequestPayer = None,
) -> int:
    """Fit a temperature, or a weight for each member, to known truth; `label --calibration FILE` applies it."""
    from pipeline.cli.trust_tables import print_calibration
    from pipeline.commands.calibrate import calibrate_and_count

    fitted, counts = calibrate_and_count(
        out,
        truth=truth,
        save=save,
        method=method,
        hold_out=hold_out,
        s3_endpoint=s3_endpoint,
        no_sign_request=bool(no_sign_request),
        request_payer=bool(request_payer),
    )
    if json_:
        print_json(fitted.model_dump(mode="json"))
    else:
        print_calibration(fitted, counts, save)
        print_next(
            *after_calibrate(fitted, save),
            store=store_words(s3_endpoint, no_sign_request, request_payer),
        )
    return 0
