"""The command line: arguments become settings, a call, a few lines of output and an exit code.

No logic: what a command does is in commands.
"""

from __future__ import annotations

import importlib.metadata
import signal
import sys
from typing import Annotated, NoReturn, cast

import typer

from pipeline.cli import combine, config, jobs, models, speed, trust
from pipeline.cli.export import EXPORT_EXAMPLES, export
from pipeline.cli.help import MAX_WIDTH, GroupedCommand, GroupedCommands
from pipeline.cli.printing import print_stderr
from pipeline.errors import ShardlabelError
from pipeline.text.safe import printable, redacted

_EXIT_CODES = """\b
Exit codes:
    0  done: every sample is labelled or quarantined
    1  verify found a discrepancy, OUT could no longer be written, or a bug
    2  the request is wrong; nothing was written
    3  too many images are bad (--max-bad-rate)
    4  some units could not be read; the same command tries them again
  130  interrupted; what was published stays, and the same command goes on

`shardlabel COMMAND --help` has the options and examples of each."""
_JOBS, _RESULTS, _SETUP = "Jobs", "Results", "Around them"

app = typer.Typer(
    name="shardlabel",
    cls=GroupedCommands,
    help="Label millions of images offline: shards or loose images in, an ensemble of classifiers, Parquet out.",
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": MAX_WIDTH},
)
for _panel, _function, _examples in (
    (_JOBS, jobs.label, jobs.LABEL_EXAMPLES),
    (_JOBS, speed.plan, speed.PLAN_EXAMPLES),
    (_JOBS, combine.combine, combine.COMBINE_EXAMPLES),
    (_JOBS, jobs.status, jobs.STATUS_EXAMPLES),
    (_JOBS, jobs.verify, jobs.VERIFY_EXAMPLES),
    (_RESULTS, trust.evaluate, trust.EVALUATE_EXAMPLES),
    (_RESULTS, trust.calibrate, trust.CALIBRATE_EXAMPLES),
    (_RESULTS, trust.sample, trust.SAMPLE_EXAMPLES),
    (_RESULTS, trust.review, trust.REVIEW_EXAMPLES),
    (_RESULTS, export, EXPORT_EXAMPLES),
    (_RESULTS, trust.report, trust.REPORT_EXAMPLES),
    (_SETUP, speed.bench, speed.BENCH_EXAMPLES),
    (_SETUP, jobs.demo, jobs.DEMO_EXAMPLE),
):
    app.command(cls=GroupedCommand, rich_help_panel=_panel, epilog=_examples)(_function)
app.add_typer(models.models, name="models", rich_help_panel=_SETUP)
app.add_typer(config.config, name="config", rich_help_panel=_SETUP)

# the base of all usage errors, which typer does not name in public
_UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[2])
_INTERRUPTED = 130


def main() -> NoReturn:
    """Run the command line. Every :class:`ShardlabelError` becomes one line on stderr and its exit code."""
    # SIGTERM, as a spot machine sends it, is handled like Ctrl-C; a running job handles both itself
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = app(prog_name="shardlabel", standalone_mode=False)
    except ShardlabelError as error:
        print_stderr(f"shardlabel: {error}")
        code = error.exit_code
    except _UsageError as error:
        if error.ctx is None or error.message != error.ctx.get_help():  # without arguments: the help, of many lines
            error.message = printable(redacted(error.message))
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print_stderr("shardlabel: interrupted; run the same command again to go on from here")
        code = _INTERRUPTED
    except typer.Exit as exit_:
        code = exit_.exit_code
    sys.exit(code if isinstance(code, int) else 0)


def _version(requested: bool) -> None:
    if requested:
        print(f"shardlabel {importlib.metadata.version('shardlabel')}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass
