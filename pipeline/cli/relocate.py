"""The command ``relocate``."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.help import examples
from pipeline.cli.options import AsJson, NoSignRequest, Out, RequestPayer, S3Endpoint
from pipeline.cli.printing import print_json, print_line, print_stderr
from pipeline.text import fmt

EXAMPLES = examples(
    "shardlabel relocate labels /data/photos s3://bucket/photos",
    "shardlabel relocate labels old/a.tar new/a.tar",
)


def relocate(
    out: Out,
    old: Annotated[
        str, typer.Argument(metavar="OLD", help="Where inputs were: folder, prefix or shard.", show_default=False)
    ],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Where they are now.", show_default=False)],
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            envvar="RAY_ADDRESS",
            help="A running cluster, to compare more than 16 GiB.  [default: this machine]",
        ),
    ] = None,
    json_: AsJson = False,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: NoSignRequest = None,
    request_payer: RequestPayer = None,
) -> int:
    """Say that inputs have moved; nothing is labelled again where the bytes are the same."""
    import pipeline

    found = pipeline.relocate(
        out,
        old,
        new,
        ray_address=ray_address,
        s3_endpoint=s3_endpoint,
        no_sign_request=bool(no_sign_request),
        request_payer=bool(request_payer),
        note=None if json_ else print_stderr,
    )
    if json_:
        print_json(found)
        return found.exit_code
    for problem in found.problems:
        print_stderr(f"not read: {problem}")
    moved = fmt.plural(found.moved, "input is", "inputs are")
    print_line(f"{found.out}: {moved} below {found.new} now, with their labels")
    if found.labelled_twice:
        print_line(f"{found.labelled_twice:,} were labelled at both places; their rows below {found.old} are removed")
    if found.changed or found.missing:
        print_line(
            f"{found.changed:,} have other bytes there, {found.missing:,} are missing: they stay below {found.old}. "
            f"Label {found.new} to add what is there; with --prune that lets go of what is gone"
        )
    return found.exit_code
