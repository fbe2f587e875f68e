"""Printing of plain lines, rows and JSON for all commands."""

from __future__ import annotations

import codecs
import dataclasses
import io
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pipeline.text.safe import json_text, printable

Result = TypeVar("Result")
_ESCAPED = "shardlabel.escaped"  # in place of the error handlers of Python's own


class _OutlivesReader(io.FileIO):
    """Standard output or standard error; what is written after its reader has left goes nowhere."""

    def write(self, data: Any, /) -> int:  # noqa: ANN401 - any buffer, which Python 3.11 has no type for
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes


def _escape(error: UnicodeError) -> tuple[str, int]:
    r"""What an encoding does not have, as ``\u00e9``: JSON stays as it was: only its strings hold such letters."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def set_up_streams() -> None:
    """Make commands outlive who reads: that decides neither how far a command gets nor its exit code.

    Readers may leave early, as ``head`` does, and terminals may have letters of few languages: others are escaped.
    """
    codecs.register_error(_ESCAPED, _escape)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed: no other file may get its number
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
            continue
        if stream is not getattr(sys, f"__{name}__"):
            continue  # somebody's own
        stream.flush()
        raw = _OutlivesReader(stream.fileno(), "wb", closefd=False)
        binary = raw if stream.write_through else io.BufferedWriter(raw)
        text = io.TextIOWrapper(
            binary,  # with PYTHONUNBUFFERED Python itself puts a raw file there
            stream.encoding,
            _ESCAPED,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        setattr(sys, name, text)


def print_stderr(line: str) -> None:
    """Print one line on stderr, without control characters."""
    print(printable(line), file=sys.stderr, flush=True)


def print_line(line: str) -> None:
    """Print one line on stdout, without control characters."""
    print(printable(line))


def print_json(found: Any) -> None:  # noqa: ANN401 - a dataclass, or what JSON knows
    """Print a result as JSON."""
    content = dataclasses.asdict(found) if dataclasses.is_dataclass(found) and not isinstance(found, type) else found
    print(json_text(content, indent=2))


def print_result(found: Result, print_table: Callable[[Result], None], *, as_json: bool) -> int:
    """Print a result for machines or for people.

    Args:
        found: A dataclass.
        print_table: Prints it for people.
        as_json: Whether to print JSON.

    Returns:
        The exit code, 0.
    """
    if as_json:
        print_json(found)
    else:
        print_table(found)
    return 0


def print_rows(title: str, rows: list[tuple[str, str]]) -> None:
    """Print names and values, one pair per line."""
    if title:
        print_line(title)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print_line(f"  {name:<{width}}  {value}")


def format_examples(count: int, examples: Sequence[str]) -> str:
    """A number and some examples: ``3 (cat, dog, ...)``."""
    more = ", ..." if count > len(examples) else ""
    return f"{count:,} ({', '.join(examples)}{more})" if examples else f"{count:,}"


def format_counts(counts: Mapping[str, int]) -> str:
    """A total and its parts, the most frequent first: ``3 (2 decode, 1 empty)``."""
    if not counts:
        return "0"
    listed = ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items(), key=lambda item: -item[1]))
    return f"{sum(counts.values()):,} ({listed})"
