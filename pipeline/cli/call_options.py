"""The options of the Python API as types, generated from the command line's help and the settings.

``python -m pipeline.cli.call_options > pipeline/config/call_options.py`` renews them, and so does ``make reference``.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import typer
from pydantic import BaseModel

from pipeline.cli.bench import bench
from pipeline.cli.combine import combine
from pipeline.cli.export import export
from pipeline.cli.label import label
from pipeline.cli.plan import plan
from pipeline.config.settings import BenchConfig, CombineConfig, LabelConfig, PlanConfig
from pipeline.exporting.settings import ExportConfig

_HEAD = '''\
"""The options of the functions of the Python API, for editors, type checkers and ``help()``.

Made from the code by `make reference`; do not edit.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Literal, TypedDict
'''
_KINDS = {"boolean": "bool", "integer": "int", "number": "float", "null": "None"}
_PATHS = {"weights_dir", "labels", "calibration", "classes", "reuse", "truth", "out", "to"}  # of these also a PathLike
_WIDTH = 116  # of a line's text
_POSITIONAL = {"inputs", "out", "source", "to", "format"}  # parameters of the functions themselves

COMMANDS: dict[str, tuple[Callable[..., Any], type[BaseModel]]] = {
    "LabelOptions": (label, LabelConfig),
    "PlanOptions": (plan, PlanConfig),
    "BenchOptions": (bench, BenchConfig),
    "CombineOptions": (combine, CombineConfig),
    "ExportOptions": (export, ExportConfig),
}
# What is the same in several of them is written once
SHARED = {
    "StoreOptions": list(COMMANDS),
    "NetworkOptions": ["LabelOptions", "PlanOptions", "BenchOptions"],
    "RunOptions": ["LabelOptions", "CombineOptions", "ExportOptions"],
}


def call_options() -> str:
    """The module ``pipeline/config/call_options.py``, as Python."""
    own = {name: dict.fromkeys(_entries(*each)) for name, each in COMMANDS.items()}
    blocks, bases = [_HEAD], dict[str, list[str]]()
    for base, users in SHARED.items():
        shared = [entry for entry in own[users[0]] if all(entry in own[name] for name in users)]
        blocks.append(_typed_dict(base, [], f"Options of {_listed(users)}.", shared))
        for name in users:
            bases.setdefault(name, []).append(base)
            own[name] = {entry: None for entry in own[name] if entry not in shared}
    blocks += [_typed_dict(name, bases[name], f"Options of {_listed([name])}.", own[name]) for name in COMMANDS]
    return "\n\n".join(blocks)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"``{name.removesuffix('Options').lower()}``" for name in names)


def _typed_dict(name: str, bases: Sequence[str], title: str, entries: Iterable[str]) -> str:
    body = "".join(f"    {line}\n" for entry in entries for line in entry.split("\n"))
    inherited = ", ".join(bases) or "TypedDict"
    return f'class {name}({inherited}, total=False):\n    """{title}"""\n\n{body}'


def _entries(command: Callable[..., Any], kind: type[BaseModel]) -> Iterator[str]:
    """The options of a command, each with its lines."""
    properties = kind.model_json_schema()["properties"]
    app = typer.Typer()
    app.command()(command)
    for parameter in typer.main.get_command(app).params:
        name = parameter.name or ""
        text = " ".join((getattr(parameter, "help", None) or "").split())
        if name == "config":
            yield _entry(name, "str | os.PathLike[str] | None", text)
        elif name in properties and name not in _POSITIONAL:
            yield _entry(name, _python_type(name, properties[name]), text)


def _entry(name: str, kind: str, text: str) -> str:
    """One option, as the formatter leaves it."""
    line = f"{name}: Annotated[{kind}, {_literal(text)}]"
    if len(line) <= _WIDTH:
        return line
    wrapped = textwrap.wrap(text, _WIDTH - 8, break_on_hyphens=False, drop_whitespace=False)
    literals = "\n".join(f"    {_literal(each)}" for each in wrapped)
    return f"{name}: Annotated[\n    {kind},\n{literals},\n]"


def _literal(text: str) -> str:
    return repr(text) if '"' in text else f'"{text}"'


def _python_type(name: str, schema: dict[str, Any]) -> str:
    kinds = list(dict.fromkeys(_kinds(schema)))
    if name in _PATHS:
        kinds.insert(kinds.index("str") + 1, "os.PathLike[str]")
    return " | ".join(sorted(kinds, key=lambda kind: kind == "None"))


def _kinds(schema: dict[str, Any]) -> Iterator[str]:
    """The Python types that a JSON schema takes."""
    if "anyOf" in schema:
        for each in schema["anyOf"]:
            yield from _kinds(each)
    elif values := schema.get("enum") or ([schema["const"]] if "const" in schema else []):
        yield f"Literal[{', '.join(re.sub(chr(39), chr(34), repr(value)) for value in values)}]"
    elif schema.get("type") == "array":
        yield "Sequence[str]"
    else:
        yield _KINDS.get(schema["type"], "str")


if __name__ == "__main__":
    sys.stdout.write(call_options())
