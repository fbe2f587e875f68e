"""The command ``gallery``."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.help import examples
from pipeline.cli.options import AsJson, NoSignRequest, Out, RequestPayer, S3Endpoint, Seed, TruthFile
from pipeline.cli.printing import print_result

EXAMPLES = examples(
    "shardlabel gallery labels --class tabby",
    'shardlabel gallery labels --where "score < 0.3 and width > 1000" \\\n    --order "entropy desc"',
    'shardlabel gallery labels --truth truth.csv --where "truth <> label" \\\n    --order "score desc"',
)


def gallery(
    out: Out,
    of_class: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="NAME", help="Class: name, index or WordNet id; repeat it for several."),
    ] = None,
    where: Annotated[
        str,
        typer.Option(
            metavar="SQL", help="Condition over the columns of the predictions, as DuckDB knows it.", show_default=False
        ),
    ] = "",
    order: Annotated[
        str,
        typer.Option(
            metavar="SQL",
            help='SQL order: score, "score desc", "entropy desc, key".  [default: random]',
            show_default=False,
        ),
    ] = "",
    num: Annotated[
        int, typer.Option("--num", "-n", help="Pictures at most, up to 2,000; equal bytes count once.")
    ] = 200,
    seed: Seed = 0,
    truth: TruthFile = None,
    save: Annotated[
        str | None,
        typer.Option("--save", metavar="FILE", help="Where to write it, local or s3://.  [default: OUT/gallery.html]"),
    ] = None,
    json_: AsJson = False,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: NoSignRequest = None,
    request_payer: RequestPayer = None,
) -> int:
    """Write one self-contained HTML page with the pictures of a class, or of any query."""
    import pipeline
    from pipeline.cli.trust_tables import print_gallery

    made = pipeline.gallery(
        out,
        of_class=of_class or (),
        where=where,
        order=order,
        num=num,
        seed=seed,
        truth=truth,
        save=save,
        s3_endpoint=s3_endpoint,
        no_sign_request=bool(no_sign_request),
        request_payer=bool(request_payer),
    )
    return print_result(made, print_gallery, as_json=json_)
