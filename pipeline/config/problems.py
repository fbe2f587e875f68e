"""What is wrong with an option, in one line, by the name that it has for who gave it.

That is ``--batch-size`` on the command line and in its YAML file, and ``batch_size`` in Python.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel

_on_command_line: ContextVar[bool] = ContextVar("on_command_line", default=False)


@contextlib.contextmanager
def on_command_line() -> Iterator[None]:
    """While it lasts, functions of the Python API are called by the command line, and name options as it does."""
    token = _on_command_line.set(True)
    try:
        yield
    finally:
        _on_command_line.reset(token)


def is_python_call() -> bool:
    """Whether a function of the Python API is called by somebody else than the command line."""
    return not _on_command_line.get()


def describe_error(error: Mapping[str, Any], kind: type[BaseModel], *, in_python: bool = False) -> str:
    """Describe in one line what is wrong with an option.

    Args:
        error: One of pydantic's ``ValidationError.errors()``.
        kind: The settings that were parsed.
        in_python: Whether a function of the Python API was called with them.
    """
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return message
    name = str(error["loc"][0])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, kind.model_fields, n=1)
        given, *meant = (each if in_python else each.replace("_", "-") for each in (name, *near))
        return f"unknown option {given!r}" + "".join(f" (is {each!r} meant?)" for each in meant)
    if error["type"] == "missing" or error["input"] in ("", [], (), None):
        return f"{option_name(name, in_python=in_python)}: missing"
    given = error["input"]
    shown = ",".join(given) if isinstance(given, list) and all(isinstance(each, str) for each in given) else given
    return f"{option_name(name, in_python=in_python)}: {message}, not {shown!r}"


def option_name(name: str, *, in_python: bool = False) -> str:
    """Name of an option on the command line, or in Python."""
    return name if in_python else {"inputs": "INPUT", "source": "OUT"}.get(name, f"--{name.replace('_', '-')}")
