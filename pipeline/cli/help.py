"""The layout of ``--help``: options in groups, one example per line, and the whole first sentence of every command.

typer groups options and commands only where rich draws boxes around them, which look broken in a pipe.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

MAX_WIDTH = 120  # columns; lines of a wider terminal would be too long to read
NETWORKS, MACHINES, ROWS, BUDGETS, S3 = "Networks", "Machines", "Rows and parts", "When to give up", "S3"
_OTHERS, _COMMANDS = "Options", "Commands"
_WHOLE_SENTENCE = 400
GUIDES = "examples/guides"  # in the repository
# what to read beside the options, by command
GUIDES_OF = {
    "label": ("inputs", "networks", "outputs"),
    "plan": ("speed", "clusters"),
    "combine": ("trust",),
    "status": ("outputs", "troubleshooting"),
    "verify": ("outputs", "troubleshooting"),
    "relocate": ("inputs",),
    "evaluate": ("trust",),
    "calibrate": ("trust",),
    "sample": ("trust",),
    "review": ("trust",),
    "annotate": ("trust",),
    "export": ("datasets",),
    "report": ("outputs",),
    "classes": ("classes",),
    "bench": ("speed",),
    "models show": ("networks",),
    "models fetch": ("networks", "s3"),
}


def examples(*commands: str) -> str:
    r"""An epilog with example commands; ``\b`` keeps their line breaks."""
    lines = "\n".join(f"  {line}" for command in commands for line in command.splitlines())
    return f"\b\nExamples:\n{lines}" if len(commands) > 1 else f"\b\nExample:\n{lines}"


class GroupedCommand(TyperCommand):
    """A command whose help lists options by their ``rich_help_panel``."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - classes that typer keeps to itself
        """Run it. Ctrl-C is an abort, which whoever called the command line hears of; typer makes a bare code of it."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise typer.Abort from error

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - classes that typer keeps to itself
        """The examples, and which guides say more."""
        super().format_epilog(ctx, formatter)
        if names := GUIDES_OF.get(ctx.command_path.partition(" ")[2]):
            formatter.write_paragraph()
            formatter.write_text(f"Guide: {', '.join(f'{GUIDES}/{name}.md' for name in names)}")

    def collect_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ANN401 - likewise
        """``[OPTIONS] OUT``, with brackets around optional arguments only."""
        pieces = ["[OPTIONS]"]
        for argument in _of_kind(self.params, "argument"):
            name = argument.display_name_raw
            pieces.append(f"{name if argument.required else f'[{name}]'}{'...' if argument.nargs != 1 else ''}")
        return pieces

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - likewise
        """Arguments without their Python types, then options, those without a group first."""
        records = [argument.get_help_record(ctx) for argument in _of_kind(self.params, "argument")]
        rows = [(name.partition(" <")[0], text) for name, text in filter(None, records)]
        _section(formatter, "Arguments", rows)
        groups: dict[str, list[tuple[str, str]]] = {_OTHERS: []}
        for option in _of_kind(self.get_params(ctx), "option"):
            if record := option.get_help_record(ctx):
                groups.setdefault(option.rich_help_panel or _OTHERS, []).append(record)
        for title, options in groups.items():
            _section(formatter, title, options)


class GroupedCommands(TyperGroup):
    """A group whose help lists commands by their panel, each with its whole first sentence."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - a class that typer keeps to itself
        """All commands that are not hidden."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            if not command.hidden:
                title = command.rich_help_panel or _COMMANDS
                groups.setdefault(title, []).append((name, command.get_short_help_str(_WHOLE_SENTENCE)))
        for title, commands in groups.items():
            _section(formatter, title, commands)


def _of_kind(parameters: Iterable[Any], kind: str) -> list[Any]:
    return [parameter for parameter in parameters if parameter.param_type_name == kind]


def _section(formatter: Any, title: str, rows: list[tuple[str, str]]) -> None:  # noqa: ANN401 - likewise
    if rows:
        with formatter.section(title):
            formatter.write_dl(rows)
