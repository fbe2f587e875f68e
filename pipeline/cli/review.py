"""The command ``review``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from pipeline.cli.help import examples
from pipeline.cli.next_steps import after_list, print_next
from pipeline.cli.options import (
    AsJson,
    ClassesOfOutput,
    Images,
    ListFile,
    ListFormat,
    NoSignRequest,
    Out,
    RequestPayer,
    S3Endpoint,
    Seed,
    Unique,
)
from pipeline.cli.printing import print_result
from pipeline.text.commands import store_words

EXAMPLES = examples("shardlabel review labels --save look.csv --num 100 --order entropy")


def review(
    out: Out,
    save: ListFile,
    num: Annotated[int, typer.Option("--num", "-n", help="How many images.")] = 200,
    order: Annotated[
        Literal["disagreement", "entropy", "score", "random"],
        typer.Option(help="Which images come first: largest disagreement or entropy, or smallest score."),
    ] = "disagreement",
    format_: ListFormat = "csv",
    unique: Unique = False,
    seed: Seed = 0,
    images: Images = True,
    classes: ClassesOfOutput = None,
    json_: AsJson = False,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: NoSignRequest = None,
    request_payer: RequestPayer = None,
) -> int:
    """List the images that most need a look, with their labels; largest disagreement first."""
    import pipeline
    from pipeline.cli.trust_tables import print_annotation_list

    found = pipeline.review(
        out,
        save=save,
        num=num,
        order=order,
        format=format_,
        unique=unique,
        seed=seed,
        images=images,
        classes=classes,
        s3_endpoint=s3_endpoint,
        no_sign_request=bool(no_sign_request),
        request_payer=bool(request_payer),
    )
    code = print_result(found, print_annotation_list, as_json=json_)
    if not json_:
        print_next(
            *after_list(found),
            store=store_words(s3_endpoint, no_sign_request, request_payer),
        )
    return code
