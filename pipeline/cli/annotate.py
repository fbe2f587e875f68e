"""The command ``annotate``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.help import examples
from pipeline.cli.options import AsJson, ClassesOfList, NoSignRequest, RequestPayer, S3Endpoint
from pipeline.cli.printing import print_line, print_result, print_stderr
from pipeline.text import fmt

if TYPE_CHECKING:
    from pipeline.commands.annotate import AnnotatedList

EXAMPLES = examples("shardlabel annotate truth.csv", "shardlabel annotate truth.csv --by anna --no-browser --port 8765")


def annotate(
    list_file: Annotated[
        str, typer.Argument(metavar="LIST", help="CSV of `sample` or `review`, local or s3://.", show_default=False)
    ],
    out: Annotated[
        str | None,
        typer.Argument(
            metavar="OUT", help="The output that it was drawn from.  [default: the one that the list names]"
        ),
    ] = None,
    by: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Who labels. Each name has a column, and the column truth is the majority of them."
        ),
    ] = "",
    merge: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIST", help="Another copy of the list, whose answers by name are taken over first; repeat it."
        ),
    ] = None,
    show_predictions: Annotated[
        bool,
        typer.Option("--show-predictions", help="Show what the networks predicted, which may bias annotators."),
    ] = False,
    classes: ClassesOfList = None,
    port: Annotated[int, typer.Option(help="Of the page, on 127.0.0.1 alone. 0: a free one.")] = 0,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser, where there is one.")
    ] = True,
    json_: AsJson = False,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: NoSignRequest = None,
    request_payer: RequestPayer = None,
) -> int:
    """Label the images of a list on a page in the browser; Ctrl-C ends it."""
    import pipeline

    def announce(url: str) -> None:
        line = f"{list_file}: label it at {url}"
        if json_:  # on stdout stands JSON alone
            print_stderr(line)
        else:
            print_line(line)
            sys.stdout.flush()  # whoever reads it is to open the page now
        print_stderr("  every answer is saved at once; Ctrl-C ends the page")

    found = pipeline.annotate(
        list_file,
        out,
        by=by,
        merge=merge or [],
        show_predictions=show_predictions,
        classes=classes,
        port=port,
        browser=browser,
        announce=announce,
        s3_endpoint=s3_endpoint,
        no_sign_request=bool(no_sign_request),
        request_payer=bool(request_payer),
    )
    return print_result(found, _print_list, as_json=json_)


def _print_list(found: AnnotatedList) -> None:
    """Print how far a list is, and the next step."""
    left = found.images - found.truths - found.tied
    none = f" ({found.none:,} none)" if found.none else ""
    counts = [f"{found.truths:,} of {fmt.plural(found.images, 'image has', 'images have')} a truth{none}"]
    counts += [f"{found.tied:,} tied between annotators"] * bool(found.tied) + [f"{left:,} left"] * bool(left)
    by = "; ".join(f"{name} {count:,}" for name, count in found.by.items())
    print_line(f"{found.file}: {', '.join(counts)}" + (f" (answers: {by})" if by else ""))
    for command in found.next:
        print_line(f"next: {command}")
