"""The command ``classes``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipeline.cli.completion import complete_classes, complete_groups
from pipeline.cli.help import examples
from pipeline.cli.options import AsJson, NoSignRequest, RequestPayer, S3Endpoint
from pipeline.errors import RequestError

EXAMPLES = examples(
    "shardlabel classes pets.csv",
    "shardlabel classes wordnet --levels 6",
    "shardlabel classes wordnet --under dog.n.01 --levels 1 > dogs.csv",
)
_WORDNET = "wordnet"


def classes(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="CSV, TSV, YAML or JSON, local or s3://: first `class` (index, WordNet id or name; dog.n.01 for all "
            "dogs), then a column for each level, the finest first, and member:ALIAS for a member that was trained on "
            "other classes; or `wordnet`, ImageNet's own hierarchy.",
            show_default=False,
            autocompletion=complete_classes,
        ),
    ],
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Names of the networks' classes: one per line, or a JSON list; or `imagenet`.  [default: imagenet]",
        ),
    ] = None,
    under: Annotated[
        str | None,
        typer.Option(
            metavar="GROUP",
            help="With `wordnet`: print the part below this group (dog.n.01) as a CSV file to start from.",
            autocompletion=complete_groups,
        ),
    ] = None,
    levels: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Levels of the tree that are shown, or columns of the CSV file.  [default: all; 2 columns]",
            show_default=False,
        ),
    ] = None,
    json_: AsJson = False,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: NoSignRequest = None,
    request_payer: RequestPayer = None,
) -> int:
    """Check a file of classes of your own, and show it as a tree; or print a part of WordNet to start one from."""
    from pipeline.cli.class_tree import print_part, print_tree
    from pipeline.cli.printing import print_json
    from pipeline.commands import classes as class_commands

    store: dict[str, Any] = {
        "s3_endpoint": s3_endpoint,
        "no_sign_request": bool(no_sign_request),
        "request_payer": bool(request_payer),
    }
    if levels is not None and levels < 1:
        raise RequestError(f"--levels must be at least 1, not {levels}")
    if under is not None:
        if source != _WORDNET:
            raise RequestError(f"--under belongs to wordnet: shardlabel classes {_WORDNET} --under {under}")
        num_columns = class_commands.DEFAULT_COLUMNS if levels is None else levels
        part = class_commands.wordnet_part(under, levels=num_columns, labels=labels, **store)
        print_part(part, as_json=json_)
        return 0
    tree = class_commands.classes(source, labels=labels, **store)
    if json_:
        print_json(tree)
    else:
        print_tree(tree, levels)
    return 0
