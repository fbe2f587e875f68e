"""The command ``verify``."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.completion import complete_auto
from pipeline.cli.help import examples
from pipeline.cli.options import AsJson, NoSignRequest, Out, RequestPayer, S3Endpoint
from pipeline.cli.printing import format_examples, print_json, print_line
from pipeline.inputs.left_out import describe_left_out
from pipeline.text import fmt
from pipeline.text.omissions import omitted_rows
from pipeline.text.retrying import unread_rows

EXAMPLES = examples("shardlabel verify labels", "shardlabel verify s3://bucket/labels --deep")


def verify(
    out: Out,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every image again, and compare its hash with the one in its row.")
    ] = False,
    workers: Annotated[
        str,
        typer.Option(
            metavar="auto|N",
            help="Processes. auto: one per CPU, where there is enough work.",
            autocompletion=complete_auto,
        ),
    ] = "auto",
    json_: AsJson = False,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: NoSignRequest = None,
    request_payer: RequestPayer = None,
) -> int:
    """Prove that every sample of the inputs is accounted for exactly once; exit 1 if not."""
    import pipeline

    found = pipeline.verify(
        out,
        deep=deep,
        workers=int(workers) if workers.isdecimal() else workers,  # type: ignore[arg-type]  # verify checks it
        s3_endpoint=s3_endpoint,
        no_sign_request=bool(no_sign_request),
        request_payer=bool(request_payer),
    )
    if json_:
        print_json(found)
        return found.exit_code
    for line in found.discrepancies:
        print_line(f"DISCREPANCY  {line}")
    if found.truths_not_understood:
        shown = format_examples(found.truths_not_understood, found.truth_examples)
        print_line(f".cls that names no class of this job: {shown}")
    for name, value in omitted_rows(found):
        print_line(f"{name}: {value}")
    for name, value in unread_rows(found.unread_by_reason):
        print_line(f"{name}: {value}")
    if found.left_out:
        print_line(f"left out of the inputs: {describe_left_out(found.left_out)}")
    verdict = "every sample is accounted for exactly once"
    if deep:
        verdict += ", and every image is the one that was labelled"
    if found.discrepancies:
        verdict = fmt.plural(len(found.discrepancies), "discrepancy", "discrepancies")
    print_line(
        f"{found.out}: {fmt.plural(found.units, 'unit')}, {fmt.plural(found.samples, 'sample')} in, "
        f"{fmt.plural(found.predictions, 'prediction')} + {found.quarantined:,} quarantined: {verdict}"
    )
    return found.exit_code
