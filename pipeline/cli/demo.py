"""The command ``demo``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from pipeline.cli.help import examples
from pipeline.cli.options import ENGINE_HELP
from pipeline.cli.summaries import configure_logging

EXAMPLES = examples("shardlabel demo --out demo")


def demo(
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="OUT",
            help="Directory or s3:// prefix.  [default: shardlabel-demo]",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[Literal["auto", "ray", "inline"], typer.Option(help=ENGINE_HELP)] = "auto",
) -> int:
    """Label the sample photographs that ship with shardlabel. No network, about a minute."""
    from pipeline.cli.demo_table import run_demo

    configure_logging(verbose=False)
    return run_demo(out or "shardlabel-demo", engine)
