"""The options of the Python API as types, generated from the command line's help and the settings.

``python -m pipeline.cli.call_options > pipeline/config/call_options.py`` renews them, and so does ``make reference``.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable, Iterator
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
_PATHS = {"weights_dir", "labels", "calibration", "reuse", "truth", "out", "to"}  # of these also a PathLike
_WIDTH = 116  # of a line's text
_POSITIONAL = {"inputs", "out", "source", "to", "format"}  # parameters of the functions themselves

COMMANDS: dict[str, tuple[Callable[..., Any], type[BaseModel]]] = {
    "LabelOptions": (label, LabelConfig),
    "PlanOptions": (plan, PlanConfig),
    "BenchOptions": (bench, BenchConfig),
    "CombineOptions": (combine, CombineConfig),
    "ExportOptions": (export, ExportConfig),
}


def call_options() -> str:
    """The module ``pipeline/config/call_options.py``, as Python."""
    return "\n\n".join([_HEAD, *(_typed_dict(name, *each) for name, each in COMMANDS.items())])


def _typed_dict(name: str, command: Callable[..., Any], kind: type[BaseModel]) -> str:
    title = name.removesuffix("Options").lower()
    entries = "".join(f"    {line}\n" for line in _entries(command, kind))
    return f'class {name}(TypedDict, total=False):\n    """Options of ``{title}``."""\n\n{entries}'


def _entries(command: Callable[..., Any], kind: type[BaseModel]) -> Iterator[str]:
    properties = kind.model_json_schema()["properties"]
    app = typer.Typer()
    app.command()(command)
    for parameter in typer.main.get_command(app).params:
        name = parameter.name or ""
        text = " ".join((getattr(parameter, "help", None) or "").split())
        if name == "config":
            yield from _entry(name, "str | os.PathLike[str] | None", text)
        elif name in properties and name not in _POSITIONAL:
            yield from _entry(name, _python_type(name, properties[name]), text)


def _entry(name: str, kind: str, text: str) -> Iterator[str]:
    """The lines of one option, as the formatter leaves them."""
    line = f"{name}: Annotated[{kind}, {_literal(text)}]"
    if len(line) <= _WIDTH:
        yield line
        return
    wrapped = textwrap.wrap(text, _WIDTH - 8, break_on_hyphens=False, drop_whitespace=False)
    literals = "\n".join(f"    {_literal(each)}" for each in wrapped)
    yield from f"{name}: Annotated[\n    {kind},\n{literals},\n]".split("\n")


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
