"""Check a job's YAML file as a whole: find every problem in it. The paths and models that it names are not opened."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from pipeline.config.file import ConfigFile, read_config_file
from pipeline.config.members import parse_members
from pipeline.config.problems import describe_error, option_name
from pipeline.config.settings import LabelConfig
from pipeline.errors import ModelError

_PLACEHOLDERS: dict[str, Any] = {"inputs": ("INPUT",), "out": "OUT"}


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """Result of checking a job's file.

    Attributes:
        problems: One line each, in the order of the file; empty if the file is valid.
        config: The settings, if the file is valid; required options that the file leaves out are placeholders.
        values: The options that the file sets.
        missing: Required options that the file leaves to the command line.
    """

    problems: tuple[str, ...]
    config: LabelConfig | None
    values: Mapping[str, Any]
    missing: tuple[str, ...]


def check_config_file(path: str, given_elsewhere: Collection[str] = ()) -> CheckedFile:
    """Check a job's file.

    Args:
        path: The file.
        given_elsewhere: Options whose values in the file do not count.

    Raises:
        RequestError: The file cannot be read, or is no YAML mapping.
    """
    file = read_config_file(path)
    values = {name: value for name, value in file.values.items() if name not in given_elsewhere}
    found = [(line, f"{option_name(name)}: given twice") for name, line in file.duplicates]
    config: LabelConfig | None = None
    try:
        config = LabelConfig(**_PLACEHOLDERS | values)
    except ValidationError as error:
        found += [(_line_of(problem, file), describe_error(problem, LabelConfig)) for problem in error.errors()]
    if problem := _find_member_problem(values, config):
        found.append((file.lines.get("model", 1), problem))
    problems = tuple(f"{path}:{line}: {text}" for line, text in sorted(found))
    missing = tuple(name for name in _PLACEHOLDERS if name not in file.values)
    return CheckedFile(problems, None if problems else config, values, missing)


def _find_member_problem(values: Mapping[str, Any], config: LabelConfig | None) -> str | None:
    """Find what is wrong with the SPECs of the members, whatever else is wrong with the file."""
    try:
        if config is None:
            config = LabelConfig(**_PLACEHOLDERS, **({"model": values["model"]} if "model" in values else {}))
        parse_members(config.model)
    except ModelError as error:
        return f"--model: {error}"
    except ValidationError:
        return None  # not a list of texts: that is among the problems already
    return None


def _line_of(error: Mapping[str, Any], file: ConfigFile) -> int:
    name = str(error["loc"][0]) if error["loc"] else str(error["msg"]).removeprefix("Value error, ").partition(":")[0]
    return file.lines.get(name, 1)
