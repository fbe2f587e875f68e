"""The command line: words become settings, a call, a few lines and an exit code. No logic lives here."""

from __future__ import annotations

import importlib.metadata
import signal
import sys
from typing import Annotated, NoReturn, cast

import typer

from pipeline.cli import config, jobs, models, speed, trust
from pipeline.cli.export import EXPORT_EXAMPLES, export
from pipeline.cli.printing import say
from pipeline.errors import ShardlabelError
from pipeline.safe_text import printable, redacted

app = typer.Typer(
    name="shardlabel",
    help="Label millions of images offline: shards or loose images in, an ensemble of classifiers, Parquet out.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog=jobs.LABEL_EXAMPLES)(jobs.label)
app.command()(speed.plan)
app.command()(jobs.status)
app.command()(jobs.verify)
app.command()(trust.evaluate)
app.command()(trust.calibrate)
app.command(epilog=EXPORT_EXAMPLES)(export)
app.add_typer(models.models, name="models")
app.add_typer(config.config, name="config")
app.command()(speed.bench)
app.command()(jobs.demo)

# the base of all usage errors, which typer does not name in public
_UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[2])
_INTERRUPTED = 130


def main() -> NoReturn:
    """Run the command line; every error of ours is one line on stderr and its exit code."""
    # a spot machine's notice is no less orderly than Ctrl-C; a job at work takes both over
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = app(standalone_mode=False)
    except ShardlabelError as error:
        say(f"shardlabel: {error}")
        code = error.exit_code
    except _UsageError as error:
        if error.ctx is None or error.message != error.ctx.get_help():  # no words at all: help, which has lines
            error.message = printable(redacted(error.message))
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        say("shardlabel: interrupted; run the same command again to go on from here")
        code = _INTERRUPTED
    except typer.Exit as exit_:
        code = exit_.exit_code
    sys.exit(code if isinstance(code, int) else 0)


def _version(asked: bool) -> None:
    if asked:
        print(f"shardlabel {importlib.metadata.version('shardlabel')}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass
