"""The commands ``config init``, ``config check`` and ``config schema``, about a job's YAML file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.help import GroupedCommand, GroupedCommands, examples
from pipeline.cli.printing import print_line, print_rows, print_stderr
from pipeline.errors import RequestError
from pipeline.text import fmt
from pipeline.text.commands import command_line
from pipeline.text.safe import redacted

if TYPE_CHECKING:  # pydantic takes its time
    from pipeline.config.file_check import CheckedFile
    from pipeline.config.members import MemberRequest
    from pipeline.config.settings import LabelConfig

config = typer.Typer(cls=GroupedCommands, rich_markup_mode=None, no_args_is_help=True)
_WRONG = 2


@config.callback()
def _config() -> None:
    """A job's YAML file for `label --config`: `config init` writes one, `config check` checks one."""


@config.command(cls=GroupedCommand, epilog=examples("shardlabel config init", "shardlabel config init - | less"))
def init(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The file to write; - for stdout.")] = "job.yaml",
) -> int:
    """Write a file with every option, its meaning and its default. An existing file is kept."""
    from pipeline.cli.job_file import template

    if file == "-":
        sys.stdout.write(template("job.yaml"))
        return 0
    try:
        with Path(file).open("x", encoding="utf-8") as opened:
            opened.write(template(file))
    except FileExistsError as error:
        raise RequestError(f"{file} is there already: name another file, or - for stdout") from error
    except OSError as error:
        raise RequestError(f"{file}: {error.strerror or error}") from error
    print_line(f"{file}: put your inputs and out in, then: {command_line('label', '--config', file)}")
    return 0


@config.command(cls=GroupedCommand, epilog=examples("shardlabel config check job.yaml"))
def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A job's YAML file.", show_default=False)],
) -> int:
    """Show the options of a file, or every problem in it, one line each; exit 2 then.

    Only the file is checked: no input is listed, no checkpoint opened.
    """
    from pipeline.config.file_check import check_config_file

    checked = check_config_file(file)
    for problem in checked.problems:
        print_stderr(redacted(problem))
    if checked.config is None:
        return _WRONG
    print_rows(f"{file} is sound", _describe_options(checked, checked.config))
    return 0


@config.command(cls=GroupedCommand, epilog=examples("shardlabel config schema > label.schema.json"))
def schema() -> int:
    """Print the JSON schema of a job's file, for editors and for your own checks."""
    from pipeline.cli.job_file import schema as written

    sys.stdout.write(written())
    return 0


def _describe_options(checked: CheckedFile, settings: LabelConfig) -> list[tuple[str, str]]:
    rows = []
    for name in checked.values:
        value = getattr(settings, name)
        if name == "model":
            rows += [("model", redacted(_describe_member(member))) for member in settings.members]
        else:
            shown = ", ".join(value) if isinstance(value, tuple) else "default" if value is None else str(value)
            rows.append((name.replace("_", "-"), redacted(shown)))
    if checked.missing:
        parts = ["INPUT" if name == "inputs" else "--out" for name in checked.missing]
        rows.append(("to be given", f"{' and '.join(parts)}, on the command line"))
    rest = len(type(settings).model_fields) - len(checked.values) - len(checked.missing)
    rows.append(("the rest", f"{fmt.plural(rest, 'option with its default', 'options with their defaults')}"))
    return rows


def _describe_member(member: MemberRequest) -> str:
    parts = [member.arch, f"weights {member.weights or 'by default'}"]
    if member.checkpoint:
        parts[1] = f"checkpoint {member.checkpoint}"
    parts += [f"{name} {value}" for name, value in member.options.model_dump(exclude_none=True).items()]
    if member.factor != 1:
        parts.append(f"counts {member.factor:g} times")
    if member.alias != member.arch:
        parts.append(f"called {member.alias}")
    return ", ".join(parts)
