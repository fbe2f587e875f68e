"""The progress display of a measurement."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

_PLAIN_EVERY_S = 10.0


@contextlib.contextmanager
def make_step_reporter(kind: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show the steps of a measurement on stderr.

    Args:
        kind: ``bar``, ``plain`` or ``none``; ``auto`` for a bar on a terminal and plain lines elsewhere.

    Yields:
        A function to call before each step with the steps done, their total, and the name of the step.
    """
    if kind == "auto":
        kind = "bar" if sys.stderr.isatty() else "plain"
    if kind == "bar":
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("starting", total=None)
            yield lambda done, total, step: bar.update(task, completed=done, total=total, description=step)
        return
    following = time.monotonic()

    def plain(done: int, total: int, step: str) -> None:
        nonlocal following
        if kind == "plain" and time.monotonic() >= following:
            following = time.monotonic() + _PLAIN_EVERY_S
            print(f"{done} of {total} steps, {step}", file=sys.stderr, flush=True)

    yield plain
