"""Commands to run next, so that they can be pasted: quoted, with real arguments, and names of files that are free."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
from collections.abc import Iterator, Sequence
from contextvars import ContextVar

from pipeline.text.safe import redacted

_MOST_KEPT = 4000  # characters: a pattern that a shell has spelled out is no command to paste
_under_way: ContextVar[tuple[str, ...]] = ContextVar("command", default=())


@contextlib.contextmanager
def command_under_way(words: Sequence[str]) -> Iterator[None]:
    """Remember the words of the command that runs in here, without ``shardlabel``; not if there are secrets in them."""
    is_kept = sum(map(len, words)) <= _MOST_KEPT and all(redacted(word) == word for word in words)
    token = _under_way.set(tuple(words) if is_kept else ())
    try:
        yield
    finally:
        _under_way.reset(token)


def words_under_way() -> tuple[str, ...]:
    """The words of the command that runs; empty for a call from Python."""
    return _under_way.get()


def command_line(*words: str) -> str:
    """A command of shardlabel, quoted for a shell."""
    return f"shardlabel {shlex.join(words)}"


def store_words(s3_endpoint: str | None, no_sign_request: bool | None, request_payer: bool | None) -> list[str]:
    """The options that name a store and how to reach it, as they were given; the next command needs them, too."""
    words = ["--s3-endpoint", s3_endpoint] if s3_endpoint else []
    return words + ["--no-sign-request"] * bool(no_sign_request) + ["--request-payer"] * bool(request_payer)


def free_name(path: str) -> str:
    """The path, or the first of ``NAME-2``, ``NAME-3``, ... that is not taken. S3 is not looked at."""
    if path.startswith("s3://") or not os.path.lexists(path):
        return path
    stem, extension = os.path.splitext(path)
    numbered = (f"{stem}-{number}{extension}" for number in itertools.count(2))
    return next(name for name in numbered if not os.path.lexists(name))
