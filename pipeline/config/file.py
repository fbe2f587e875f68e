"""A job's YAML file, read: its words, where each stands, what is said twice. What they mean is not known here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import RequestError

# What is not YAML, and what PyYAML raises for a date that is none, and for `!!bool x` and `!!timestamp x`.
_NOT_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What a file says.

    Attributes:
        path: As it was given.
        values: By option, with underscores.
        lines: Where each option stands, from 1.
        doubles: Options that are given more than once, with the lines of the later ones.
    """

    path: str
    values: dict[str, Any]
    lines: dict[str, int]
    doubles: tuple[tuple[str, int], ...]


def read_config_file(path: str) -> ConfigFile:
    """Read a YAML mapping of option names, with dashes or underscores, to values.

    Raises:
        RequestError: It cannot be read, is no YAML, or no mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        loaded = yaml.safe_load(text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise RequestError(f"--config {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"--config {path}: not UTF-8 text") from error
    except _NOT_YAML as error:
        raise RequestError(f"--config {path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict) or not isinstance(root, yaml.MappingNode):
        raise RequestError(f"--config {path}: expected a mapping of option names to values")
    lines: dict[str, int] = {}
    doubles = []
    for name, line in _names(root):
        if lines.setdefault(name, line) != line:
            doubles.append((name, line))
    return ConfigFile(path, {_option(key): value for key, value in loaded.items()}, lines, tuple(doubles))


def _names(root: yaml.MappingNode) -> Iterator[tuple[str, int]]:
    for key, _ in root.value:
        if isinstance(key, yaml.ScalarNode):
            yield _option(key.value), key.start_mark.line + 1


def _option(key: object) -> str:
    return str(key).replace("-", "_")
