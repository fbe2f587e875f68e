"""Listings in order: an external merge sort for stores that list in none.

What fits is sorted in memory. Of a longer listing, sorted runs go to temporary files and are merged from there, so that
memory stays bounded however many objects there are.
"""

from __future__ import annotations

import heapq
import itertools
import json
import tempfile
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import IO

from pipeline.storage.base import Entry

_MOST_IN_MEMORY = 100_000  # entries: some 40 MB
_MOST_FILES = 64  # open at once

_by_uri = attrgetter("uri")


def sort_entries(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Sort entries by URI, each URI once.

    Args:
        entries: In any order, any number of them.

    Raises:
        OSError: The temporary folder is full.
    """
    waiting = iter(entries)
    runs: list[IO[str]] = []
    try:
        while batch := sorted(itertools.islice(waiting, _MOST_IN_MEMORY), key=_by_uri):
            if not runs and len(batch) < _MOST_IN_MEMORY:
                yield from _once(batch)
                return
            runs.append(_write_run(batch))
            if len(runs) == _MOST_FILES:
                merged = _write_run(_merge(runs))
                _close(runs)
                runs = [merged]
        yield from _once(_merge(runs))
    finally:
        _close(runs)


def _write_run(entries: Iterable[Entry]) -> IO[str]:
    """Write sorted entries to a file that nobody else sees, and go back to its start."""
    file = tempfile.TemporaryFile("w+", encoding="ascii", prefix="shardlabel-")  # noqa: SIM115 - closed by the sort
    for entry in entries:  # one line each; JSON's escapes keep what is no UTF-8
        file.write(json.dumps((entry.uri, entry.size_bytes, entry.etag, entry.modified_s)) + "\n")
    file.seek(0)
    return file


def _merge(runs: list[IO[str]]) -> Iterator[Entry]:
    return heapq.merge(*(map(_parse, run) for run in runs), key=_by_uri)


def _parse(line: str) -> Entry:
    return Entry(*json.loads(line))


def _once(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Entries in order, of those with one URI the first."""
    for _, same in itertools.groupby(entries, key=_by_uri):
        yield next(same)


def _close(runs: list[IO[str]]) -> None:
    for run in runs:
        run.close()
