"""A job's file checked as a whole: every problem, and what was understood. Nothing that it names is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from pipeline.config.file import ConfigFile, read_config_file
from pipeline.config.settings import LabelConfig, explain, option_name, parse_members
from pipeline.errors import ModelError

_STAND_INS: dict[str, Any] = {"inputs": ("INPUT",), "out": "OUT"}


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """What a job's file comes to.

    Attributes:
        problems: One line each, in the order of the file; empty if it is sound.
        config: What was understood, if it is sound; stand-ins are there for what the file leaves out.
        given: The options that the file sets.
        left_out: Those that a job needs and the file leaves to the command line.
    """

    problems: tuple[str, ...]
    config: LabelConfig | None
    given: tuple[str, ...]
    left_out: tuple[str, ...]


def check_config_file(path: str) -> CheckedFile:
    """Check a job's file.

    Raises:
        RequestError: It cannot be read, is no YAML, or no mapping.
    """
    read = read_config_file(path)
    found = [(line, f"{option_name(name)}: given twice") for name, line in read.doubles]
    config: LabelConfig | None = None
    try:
        config = LabelConfig(**_STAND_INS | read.values)
    except ValidationError as error:
        found += [(_line_of(problem, read), explain(problem, LabelConfig)) for problem in error.errors()]
    if problem := _wrong_members(read.values, config):
        found.append((read.lines.get("model", 1), problem))
    problems = tuple(f"{path}:{line}: {text}" for line, text in sorted(found))
    left_out = tuple(name for name in _STAND_INS if name not in read.values)
    return CheckedFile(problems, None if problems else config, tuple(read.values), left_out)


def _wrong_members(values: Mapping[str, Any], config: LabelConfig | None) -> str | None:
    """What is wrong with the grammar of the members, whatever else is wrong with the file."""
    try:
        if config is None:
            config = LabelConfig(**_STAND_INS, **({"model": values["model"]} if "model" in values else {}))
        parse_members(config.model)
    except ModelError as error:
        return f"--model: {error}"
    except ValidationError:
        return None  # no list of words: that is among the problems already
    return None


def _line_of(error: Mapping[str, Any], read: ConfigFile) -> int:
    name = str(error["loc"][0]) if error["loc"] else str(error["msg"]).removeprefix("Value error, ").partition(":")[0]
    return read.lines.get(name, 1)
