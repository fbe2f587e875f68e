"""The command line: arguments become settings, a call, a few lines of output and an exit code.

No logic: what a command does is in commands.
"""

from __future__ import annotations

import errno
import importlib.metadata
import os
import signal
import sys
from typing import Annotated, NoReturn, cast

import typer

from pipeline.cli import (
    annotate,
    bench,
    calibrate,
    classes,
    combine,
    config,
    demo,
    evaluate,
    export,
    gallery,
    label,
    models,
    plan,
    relocate,
    report,
    review,
    sample,
    status,
    verify,
)
from pipeline.cli.help import MAX_WIDTH, GroupedCommand, GroupedCommands
from pipeline.cli.loading import leave_if_loading
from pipeline.cli.printing import print_stderr, set_up_streams
from pipeline.config.problems import on_command_line
from pipeline.errors import ShardlabelError
from pipeline.text.commands import command_under_way
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
for _panel, _command, _module in (
    (_JOBS, label.label, label),
    (_JOBS, plan.plan, plan),
    (_JOBS, combine.combine, combine),
    (_JOBS, status.status, status),
    (_JOBS, verify.verify, verify),
    (_JOBS, relocate.relocate, relocate),
    (_RESULTS, evaluate.evaluate, evaluate),
    (_RESULTS, calibrate.calibrate, calibrate),
    (_RESULTS, sample.sample, sample),
    (_RESULTS, review.review, review),
    (_RESULTS, annotate.annotate, annotate),
    (_RESULTS, export.export, export),
    (_RESULTS, report.report, report),
    (_RESULTS, gallery.gallery, gallery),
    (_SETUP, classes.classes, classes),
    (_SETUP, bench.bench, bench),
    (_SETUP, demo.demo, demo),
):
    app.command(cls=GroupedCommand, rich_help_panel=_panel, epilog=_module.EXAMPLES)(_command)
app.add_typer(models.models, name="models", rich_help_panel=_SETUP)
app.add_typer(config.config, name="config", rich_help_panel=_SETUP)

# the base of all usage errors, which typer does not name in public
_UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[2])
_INTERRUPTED = 130
_NO_ROOM = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO}


def main() -> NoReturn:
    """Run the command line. Every :class:`ShardlabelError` becomes one line on stderr and its exit code."""
    set_up_streams()
    # torch's threads sleep while they wait for each other: spinning took a fifth of the CPU time of a small job. It is
    # read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # SIGTERM, as a spot machine sends it, is handled like Ctrl-C; a running job handles both itself
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with command_under_way(sys.argv[1:]):
            code = app(prog_name="shardlabel", standalone_mode=False)
        sys.stdout.flush()
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
    except OSError as error:
        if error.filename is not None or error.errno not in _NO_ROOM:
            raise
        print_stderr(f"shardlabel: what it prints cannot be written: {error.strerror}")
        sys.stdout = sys.stderr  # nothing more of it is tried at the end
        code = 1
    code = code if isinstance(code, int) else 0
    leave_if_loading(code)
    sys.exit(code)


def _version(requested: bool) -> None:
    if requested:
        print(f"shardlabel {importlib.metadata.version('shardlabel')}")
        raise typer.Exit


@app.callback()
def _common(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    ctx.with_resource(on_command_line())
