"""Read a job's YAML file: its options, their line numbers, and which are given twice. Values are not checked here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import RequestError


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """Content of a YAML file.

    Attributes:
        path: As it was given.
        values: Values by option name, with underscores.
        lines: Line number of each option, from 1.
        duplicates: Options that are given more than once, with the line numbers of the later ones.
    """

    path: str
    values: dict[str, Any]
    lines: dict[str, int]
    duplicates: tuple[tuple[str, int], ...]


def read_config_file(path: str) -> ConfigFile:
    """Read a YAML mapping of option names, with dashes or underscores, to values.

    Raises:
        RequestError: The file cannot be read, or is no YAML mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        loaded = yaml.safe_load(text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise RequestError(f"--config {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"--config {path}: not UTF-8 text") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none
        raise RequestError(f"--config {path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict) or not isinstance(root, yaml.MappingNode):
        raise RequestError(f"--config {path}: expected a mapping of option names to values")
    lines: dict[str, int] = {}
    duplicates = []
    for name, line in _list_keys(root):
        if lines.setdefault(name, line) != line:
            duplicates.append((name, line))
    return ConfigFile(path, {_to_name(key): value for key, value in loaded.items()}, lines, tuple(duplicates))


def _list_keys(root: yaml.MappingNode) -> Iterator[tuple[str, int]]:
    for key, _ in root.value:
        if isinstance(key, yaml.ScalarNode):
            yield _to_name(key.value), key.start_mark.line + 1


def _to_name(key: object) -> str:
    return str(key).replace("-", "_")
