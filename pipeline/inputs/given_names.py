"""The names that an INPUT argument stands for, a brace range or the lines of an ``@`` list; and the one it must not."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence

import braceexpand

from pipeline.errors import InputError, StorageError
from pipeline.storage import Storage, absolute_uri

_MAX_NAMES = 10_000_000  # of one brace range: 2 GB
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?\}")


def expand_braces(name: str) -> list[str]:
    """Expand a brace range; a name without one, or of a file with braces in its name, stays as it is.

    Raises:
        InputError: The range is malformed, or has more than 10 million names.
    """
    if "{" not in name or (not name.startswith("s3://") and os.path.exists(absolute_uri(name))):
        return [name]
    try:
        # a range is held as a whole before the first name comes out of it
        longest = max((_count_names(*range_) for range_ in _RANGE.findall(name)), default=0)
        names = [] if longest > _MAX_NAMES else braceexpand.braceexpand(name)
        found = list(itertools.islice(names, _MAX_NAMES + 1))
    except ValueError as error:  # UnbalancedBracesError is one
        raise InputError(f"INPUT {name}: malformed brace range: {error}") from error
    if not 0 < len(found) <= _MAX_NAMES:
        raise InputError(f"INPUT {name}: a brace range of more than {_MAX_NAMES:,} names; give several commands fewer")
    return found


def _count_names(first: str, last: str, step: str) -> int:
    """How many names a range of numbers stands for."""
    return abs(int(last) - int(first)) // (abs(int(step or 1)) or 1) + 1


def read_list(path: str, storage: Storage) -> list[str]:
    """Read the names of an ``@`` list, brace ranges expanded.

    Raises:
        InputError: The list cannot be read, or is empty.
    """
    try:
        text = storage.read(absolute_uri(path)).decode("utf-8-sig")
    except StorageError as error:
        raise InputError(f"INPUT @{path}: {error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"INPUT @{path}: not UTF-8 text") from error
    lines = [line.strip() for line in text.split("\n")]
    listed = [line for line in lines if line and not line.startswith("#")]
    if not listed:
        raise InputError(f"INPUT @{path}: the list is empty")
    return [name for line in listed for name in expand_braces(line)]


def refuse_as_input(names: Sequence[str], out: str) -> None:
    """Refuse an OUT that is one of the INPUTs: images of lists that are written to it would be labelled.

    Args:
        names: INPUT arguments.
        out: OUT, absolute.

    Raises:
        InputError: One of them is OUT.
    """
    for name in names:
        if not name.startswith("@") and _same_place(name, out):
            raise InputError(f"INPUT {name}: is OUT as well; choose another --out, inside of it or elsewhere")


def _same_place(name: str, out: str) -> bool:
    try:
        uri = absolute_uri(name)
    except StorageError:
        return False  # malformed, which is said where inputs are looked for
    if uri.startswith("s3://") or out.startswith("s3://"):
        return uri.rstrip("/") == out.rstrip("/")
    return os.path.realpath(uri) == os.path.realpath(out)
