"""Plain lines, rows and JSON, as all commands print them."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

from pipeline.text.safe import json_text, printable


def say(line: str) -> None:
    """One line on stderr."""
    print(printable(line), file=sys.stderr, flush=True)


def show(line: str) -> None:
    """One line on stdout."""
    print(printable(line))


def print_json(found: Any) -> None:  # noqa: ANN401 - a dataclass, or what JSON knows
    """Print a result for machines."""
    content = dataclasses.asdict(found) if dataclasses.is_dataclass(found) and not isinstance(found, type) else found
    print(json_text(content, indent=2))


def print_rows(title: str, rows: list[tuple[str, str]]) -> None:
    """Print names and values below each other."""
    if title:
        show(title)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        show(f"  {name:<{width}}  {value}")


def reasons(counts: Mapping[str, int]) -> str:
    """How many, and of what, the most frequent first."""
    if not counts:
        return "0"
    listed = ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items(), key=lambda item: -item[1]))
    return f"{sum(counts.values()):,} ({listed})"
