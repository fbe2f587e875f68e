"""The command ``sample``."""

from __future__ import annotations

from typing import Annotated

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

EXAMPLES = examples(
    "shardlabel sample labels --save truth.csv --num 500",
    "shardlabel sample labels --save truth.csv --more 200",
    "shardlabel sample s3://bucket/labels --save s3://bucket/tasks.json \\\n    --format label-studio",
    "shardlabel sample labels --save groups.csv --classes wordnet",
)


def sample(
    out: Out,
    save: ListFile,
    num: Annotated[int, typer.Option("--num", "-n", help="How many images.")] = 1000,
    more: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Add N images to the list at --save, the next ones that the same --seed draws: its answers stay.",
        ),
    ] = None,
    format_: ListFormat = "csv",
    with_labels: Annotated[
        bool, typer.Option("--with-labels", help="Show the labels of the consensus, which may bias annotators.")
    ] = False,
    unique: Unique = False,
    seed: Seed = 0,
    images: Images = True,
    classes: ClassesOfOutput = None,
    json_: AsJson = False,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: NoSignRequest = None,
    request_payer: RequestPayer = None,
) -> int:
    """Draw a random sample for annotators; the filled-in list is a --truth."""
    import pipeline
    from pipeline.cli.trust_tables import print_annotation_list

    found = pipeline.sample(
        out,
        save=save,
        num=num,
        more=more,
        format=format_,
        with_labels=with_labels,
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
