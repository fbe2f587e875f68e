"""Every exception that crosses a module boundary, and the exit code each one ends in.

::

    ShardlabelError              1   (a bug, or something nobody foresaw)
    |-- RequestError             2   the request is wrong; nothing was written
    |   |-- InputError               an INPUT that is missing, empty or malformed
    |   |-- ModelError               an unknown architecture or an ensemble that cannot vote together
    |   |-- WeightsError             a checkpoint that is missing, damaged, refused or of the wrong shape
    |   `-- OutputError              an OUT that belongs to another job or cannot be written
    |-- BudgetError              3   too many samples were quarantined
    |-- Interrupted            130   SIGINT or SIGTERM; what was published stays
    |-- EngineError              1   the engine itself failed (a cluster that went away, say)
    |-- PublishError             1   OUT can no longer be written (full, forbidden); what was published stays
    |-- NotAsStored                  an older output does not hold what was expected; the unit is run in full
    `-- StorageError                 an object could not be reached; callers turn it into one of the above
        |-- ObjectMissing
        |-- ObjectForbidden
        |-- ObjectChanged            the object is no longer the one that was planned
        |-- ObjectDamaged            a file of OUT is not what was published there
        `-- StoreUnavailable         retries were used up

    ImageError                       not a ShardlabelError: it never leaves a worker, it becomes a quarantine row

Every one survives pickling: each takes plain strings, and keeps them in ``args``. They are one line each, and the
secrets that URIs in them may hold are left out, whoever raises and whoever prints.
"""

# ruff: noqa: N818 - a name that says what is the matter needs no Error at its end

from __future__ import annotations

from typing import ClassVar

from pipeline.text.safe import one_line, redacted


class ShardlabelError(Exception):
    """Base of all errors that shardlabel raises on purpose."""

    exit_code: ClassVar[int] = 1

    def __init__(self, *words: str) -> None:
        super().__init__(*(redacted(one_line(word)) for word in words))


class RequestError(ShardlabelError):
    """The request cannot be carried out as asked; the message says what to change."""

    exit_code: ClassVar[int] = 2


class InputError(RequestError):
    """An INPUT is missing, holds no images, or is malformed."""


class ModelError(RequestError):
    """An architecture is unknown, or the members of an ensemble do not fit together."""


class WeightsError(RequestError):
    """A checkpoint is missing, damaged, refused, or does not fit its architecture."""


class OutputError(RequestError):
    """OUT belongs to another job, or cannot be written or read."""


class BudgetError(ShardlabelError):
    """More samples were quarantined than the failure budget allows."""

    exit_code: ClassVar[int] = 3


class Interrupted(ShardlabelError):
    """The job was asked to stop; everything published so far is kept."""

    exit_code: ClassVar[int] = 130


class EngineError(ShardlabelError):
    """The engine that runs the workers failed."""


class PublishError(ShardlabelError):
    """OUT can no longer be read or written; everything published so far is kept."""


class NotAsStored(ShardlabelError):
    """An older output holds something else of a unit than was expected; callers run the unit in full."""


class StorageError(ShardlabelError):
    """An object could not be read or written."""


class ObjectMissing(StorageError):
    """The object does not exist."""


class ObjectForbidden(StorageError):
    """The credentials at hand do not open the object."""


class ObjectChanged(StorageError):
    """The object's size or ETag is no longer what was planned."""


class ObjectDamaged(StorageError):
    """A file of an output is not what was published under its name."""


class StoreUnavailable(StorageError):
    """The store did not answer, retries included."""


class ImageError(Exception):
    """An image cannot be labelled. It is data: the sample goes to quarantine with this reason.

    Attributes:
        reason: One of :class:`pipeline.records.Reason`.
        message: What the decoder said, in one line.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message
