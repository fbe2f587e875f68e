"""Parse options, given by a caller or in a YAML file, into settings; errors name the option in one line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.config.file_check import check_config_file
from pipeline.config.problems import describe_error, is_python_call
from pipeline.config.settings import LabelConfig
from pipeline.errors import RequestError

Config = TypeVar("Config", bound=BaseModel)


def parse_label_config(
    values: Mapping[str, Any], config_file: str | os.PathLike[str] | None = None, *, called: bool = False
) -> LabelConfig:
    """Parse the options of a labelling job, over those of a YAML file.

    Args:
        values: Options by name, with underscores; they win over the file's.
        config_file: A YAML mapping of the same options (dashes or underscores).
        called: As for :func:`parse_config`.

    Raises:
        RequestError: Options are unknown, or their values wrong; one line names all of the file's.
    """
    if config_file is None:
        return parse_config(LabelConfig, values, called=called)
    path = os.fspath(config_file)
    checked = check_config_file(path, values.keys())
    if checked.problems:
        raise RequestError(f"--config {'; '.join(checked.problems)}")
    return parse_config(LabelConfig, {**checked.values, **values}, called=called)


def parse_config(kind: type[Config], values: Mapping[str, Any], *, called: bool = False) -> Config:
    """Parse options into settings of a kind.

    Args:
        kind: The settings.
        values: Options by name, with underscores.
        called: Whether they are arguments of a function of the Python API, so that messages name them as such.

    Raises:
        RequestError: An option is unknown or its value is wrong; one line names it.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        in_python = called and is_python_call()
        lines = (describe_error(each, kind, in_python=in_python) for each in error.errors()[:3])
        raise RequestError("; ".join(lines)) from None
