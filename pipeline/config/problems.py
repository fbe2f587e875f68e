"""What is wrong with an option, in one line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel


def describe_error(error: Mapping[str, Any], kind: type[BaseModel]) -> str:
    """Describe in one line what is wrong with an option.

    Args:
        error: One of pydantic's ``ValidationError.errors()``.
        kind: The settings that were parsed.
    """
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return message
    name = str(error["loc"][0])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, kind.model_fields, n=1)
        meant = f" (is {near[0].replace('_', '-')!r} meant?)" if near else ""
        return f"unknown option {name.replace('_', '-')!r}{meant}"
    if error["type"] == "missing" or error["input"] in ("", [], (), None):
        return f"{option_name(name)}: missing"
    given = error["input"]
    shown = ",".join(given) if isinstance(given, list) and all(isinstance(each, str) for each in given) else given
    return f"{option_name(name)}: {message}, not {shown!r}"


def option_name(name: str) -> str:
    """Name of an option on the command line."""
    return {"inputs": "INPUT", "source": "OUT"}.get(name, f"--{name.replace('_', '-')}")
