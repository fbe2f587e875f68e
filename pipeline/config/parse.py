"""Parse options, given by a caller or in a YAML file, into settings; errors name the option in one line."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.config.file import read_config_file
from pipeline.config.settings import LabelConfig
from pipeline.errors import RequestError

Config = TypeVar("Config", bound=BaseModel)


def parse_label_config(values: Mapping[str, Any], config_file: str | os.PathLike[str] | None = None) -> LabelConfig:
    """Parse the options of a labelling job, over those of a YAML file.

    Args:
        values: Options by name, with underscores; they win over the file's.
        config_file: A YAML mapping of the same options (dashes or underscores).

    Raises:
        RequestError: An option is unknown or its value is wrong; one line names it.
    """
    merged: dict[str, Any] = {}
    if config_file is not None:
        file = read_config_file(os.fspath(config_file))
        if file.duplicates:
            name, line = file.duplicates[0]
            raise RequestError(f"--config {config_file}: line {line}: {option_name(name)} is given twice")
        merged |= file.values
    return parse_config(LabelConfig, merged | dict(values))


def parse_config(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """Parse options into settings of a kind.

    Raises:
        RequestError: An option is unknown or its value is wrong; one line names it.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        raise RequestError("; ".join(describe_error(e, kind) for e in error.errors()[:3])) from None


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
    return f"{option_name(name)}: {message}, not {error['input']!r}"


def option_name(name: str) -> str:
    """Name of an option on the command line."""
    return {"inputs": "INPUT", "source": "OUT"}.get(name, f"--{name.replace('_', '-')}")
