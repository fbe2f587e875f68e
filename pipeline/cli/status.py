"""The command ``status``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipeline.cli.help import examples
from pipeline.cli.next_steps import after_status, print_next
from pipeline.cli.options import AsJson, NoSignRequest, Out, RequestPayer, S3Endpoint
from pipeline.cli.printing import format_counts, format_examples, print_json, print_line, print_rows
from pipeline.cli.summaries import left_out_row
from pipeline.text.commands import store_words
from pipeline.text.omissions import omitted_rows
from pipeline.text.retrying import retry_rows, unread_rows

EXAMPLES = examples("shardlabel status labels", "shardlabel status s3://bucket/labels --plan plan.json --json")


def status(
    out: Out,
    plan: Annotated[
        str | None, typer.Option(metavar="FILE", help="What `plan --json` printed before, to compare with.")
    ] = None,
    json_: AsJson = False,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: NoSignRequest = None,
    request_payer: RequestPayer = None,
) -> int:
    """Show the progress of a job: units, images, rate, quarantine."""
    import pipeline

    found = pipeline.status(
        out,
        plan=plan,
        s3_endpoint=s3_endpoint,
        no_sign_request=bool(no_sign_request),
        request_payer=bool(request_payer),
    )
    if json_:
        print_json(found)
        return 0
    state = "finished" if found.finished else "not finished"
    rows = [
        ("units", f"{found.units_done:,} of {found.units_total:,} done ({state})"),
        ("images", f"{found.images:,}"),
        ("labelled", f"{found.labelled:,}"),
        ("rate", _rate(found)),
        ("quarantined", format_counts(found.quarantined)),
        *unread_rows(found.quarantined),
        *retry_rows(found.quarantined),
        ("shard damage", format_counts(found.events)),
        *left_out_row(found.left_out),
    ]
    if found.truths_not_understood:
        shown = format_examples(found.truths_not_understood, found.truth_examples)
        rows.append(("truths", f".cls that names no class of this job: {shown}"))
    rows += omitted_rows(found)
    for compared in found.comparisons:
        actual = "-" if compared.actual is None else f"{compared.actual:,.0f}"
        rows.append((f"planned {compared.what}", f"{compared.planned:,.0f}, actual {actual}"))
    print_rows(found.out, rows)
    for uri in found.unreadable:
        print_line(f"unreadable: {uri}")
    # a command that is run again has its own
    store = store_words(s3_endpoint, no_sign_request, request_payer) if found.finished else []
    print_next(*after_status(found), store=store)
    return 0


def _rate(found: Any) -> str:  # noqa: ANN401 - commands.Status, which costs seconds to import
    """The rate, and of what it is."""
    if found.images_per_s is None:
        return "- (no run has noted one)"
    return f"{found.images_per_s:,.1f} images/s {'so far' if found.under_way else 'in the last run'}"
