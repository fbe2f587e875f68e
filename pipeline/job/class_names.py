"""The class names that a job is given."""

from __future__ import annotations

from pipeline.errors import InputError, StorageError
from pipeline.labels import parse_names
from pipeline.storage import Storage, absolute_uri


def given_names(path: str | None, storage: Storage) -> tuple[str, ...] | None:
    """Read the file of ``--labels``; None without one.

    Raises:
        InputError: It cannot be read, or holds no class names.
    """
    if path is None:
        return None
    try:
        return parse_names(storage.read(absolute_uri(path)).decode("utf-8-sig"), path)
    except StorageError as error:
        raise InputError(f"--labels {error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--labels {path}: not UTF-8 text") from error
