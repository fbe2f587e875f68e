"""The JSON schema of a job's file, and a commented template, generated from the command line.

Names and help texts of options come from ``shardlabel label`` itself, types and defaults from :class:`LabelConfig`. So
both always match the command.
"""

from __future__ import annotations

import json
import re
import shlex
import textwrap
from dataclasses import dataclass
from typing import Any

import typer
import yaml

from pipeline.cli.label import label
from pipeline.config.settings import LabelConfig

_WIDTH = 100
_DEFAULT = re.compile(r" *\[default: (.*)\]$")
_TO_BEGIN_WITH = {"inputs": ["photos/"], "out": "labels"}
_HEAD = """\
# A job of shardlabel:    shardlabel label --config {quoted}
# Is it sound?            shardlabel config check {quoted}
# The command line wins over this file; the same command again goes on where it stopped.
# What is commented out is the default.
"""


@dataclass(frozen=True, slots=True)
class _Option:
    """One option of ``label``: field, meaning without the default, and the default as the help has it."""

    field: str
    meaning: str
    default: str | None

    @property
    def name(self) -> str:
        return self.field.replace("_", "-")


def _options() -> list[_Option]:
    """All options of ``label`` that a file may hold, in the order of its help."""
    app = typer.Typer()
    app.command()(label)
    found = []
    for parameter in typer.main.get_command(app).params:
        if parameter.name in LabelConfig.model_fields:
            text = getattr(parameter, "help", None) or ""
            default = _DEFAULT.search(text)
            found.append(_Option(parameter.name, _DEFAULT.sub("", text), default[1] if default else None))
    return found


def schema() -> str:
    """The JSON schema of a job's file. Options may be written with dashes or underscores."""
    raw = LabelConfig.model_json_schema()["properties"]
    properties: dict[str, Any] = {}
    spellings: dict[str, Any] = {}
    for option in _options():
        content = {name: value for name, value in raw[option.field].items() if name != "title"}
        if content.get("default") is None:
            content.pop("default", None)
        default = "" if option.default is None or "default" in content else f" Default: {option.default}."
        properties[option.name] = {"description": option.meaning + default, **content}
        if option.name != option.field:
            spellings[option.field] = {"$ref": f"#/properties/{option.name}"}
    content = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A job of shardlabel",
        "description": "The options of `shardlabel label`, as `--config FILE` takes them.",
        "type": "object",
        "additionalProperties": False,
        "properties": properties | spellings,
    }
    return json.dumps(content, indent=2) + "\n"


def template(path: str) -> str:
    """A file with every option, its meaning and its default; ready to run once inputs and out are filled in.

    Args:
        path: What the file will be called.
    """
    raw = LabelConfig.model_json_schema()["properties"]
    head = _HEAD.format(quoted=shlex.quote(path))
    return head + "".join(f"\n{_entry(option, raw[option.field])}" for option in _options())


def _entry(option: _Option, field: dict[str, Any]) -> str:
    default = field.get("default")
    meaning = option.meaning
    if choices := field.get("enum"):
        meaning = f"{meaning} One of: {', '.join(choices)}.".lstrip()
    if default is None and option.default is not None:
        meaning += f" Default: {option.default}."
    comment = "".join(f"# {line}\n" for line in textwrap.wrap(meaning, _WIDTH))
    if option.field in _TO_BEGIN_WITH:
        return comment + _line(option.name, _TO_BEGIN_WITH[option.field])
    return f"{comment}# {_line(option.name, default)}"


def _line(name: str, value: object) -> str:
    written = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").rstrip("\n")
    return f"{name}: {written}\n"
