"""Exceptions that cross module boundaries, and the exit code of each.

::

    ShardlabelError              1   (an unexpected failure)
    |-- RequestError             2   the request is wrong; nothing was written
    |   |-- InputError               an INPUT is missing, empty or malformed
    |   |-- ModelError               an architecture is unknown, or the members cannot be combined
    |   |-- WeightsError             a checkpoint is missing, damaged, refused or of the wrong shape
    |   `-- OutputError              OUT belongs to another job or cannot be written
    |-- BudgetError              3   too many samples were quarantined
    |-- Interrupted            130   SIGINT or SIGTERM; published parts stay
    |-- EngineError              1   the engine itself failed (for example, the cluster is gone)
    |   `-- DeviceError              a GPU failed, and its process cannot use it any more
    |-- PublishError             1   OUT can no longer be written (full, forbidden); published parts stay
    |-- NotAsStored                  an older output does not hold what was expected; callers run the unit in full
    `-- StorageError                 an object could not be read or written; callers turn it into one of the above
        |-- ObjectMissing
        |-- ObjectForbidden
        |   `-- ObjectArchived       it lies in an archive class: to be restored before it can be read
        |-- ObjectChanged            the object is no longer the planned version
        |-- ObjectDamaged            a file of OUT is not what was published
        |-- ListingUnordered         the store lists in no order, and what was asked needs one
        `-- StoreUnavailable         no answer, retries included

    ImageError                       not a ShardlabelError: it becomes a quarantine row inside the worker

Every one can be pickled: it takes strings and keeps them in ``args``. Each message is one line. Secrets in URIs
(passwords, signatures) are removed when the error is made.
"""

# ruff: noqa: N818 - ObjectMissing and the like say what happened without the suffix Error

from __future__ import annotations

from typing import ClassVar

from pipeline.text.safe import one_line, redacted


class ShardlabelError(Exception):
    """Base class of shardlabel's errors. Command line: exit code :attr:`exit_code`."""

    exit_code: ClassVar[int] = 1

    def __init__(self, *messages: str) -> None:
        super().__init__(*(redacted(one_line(message)) for message in messages))

    def _render_traceback_(self) -> list[str]:
        """What IPython and notebooks show instead of a traceback: the message says what to do, frames do not."""
        return [f"{type(self).__name__}: {self}"]


class RequestError(ShardlabelError):
    """The request is wrong; the message says what to change."""

    exit_code: ClassVar[int] = 2


class InputError(RequestError):
    """An INPUT is missing, holds no images, or is malformed."""


class ModelError(RequestError):
    """An architecture is unknown, or the members cannot be combined."""


class WeightsError(RequestError):
    """A checkpoint is missing, damaged, refused, or does not fit its architecture."""


class OutputError(RequestError):
    """OUT belongs to another job, or cannot be written or read."""


class BudgetError(ShardlabelError):
    """More samples were quarantined than the failure budget allows."""

    exit_code: ClassVar[int] = 3


class Interrupted(ShardlabelError):
    """SIGINT or SIGTERM stopped the job; published parts stay."""

    exit_code: ClassVar[int] = 130


class EngineError(ShardlabelError):
    """The engine that runs the workers failed."""


class DeviceError(EngineError):
    """A GPU failed, and its process cannot use it any more; a worker in a process of its own ends that process."""


class PublishError(ShardlabelError):
    """OUT can no longer be read or written; published parts stay."""


class NotAsStored(ShardlabelError):
    """An older output does not hold what was expected of a unit; callers run the unit in full."""


class MembersApart(ShardlabelError):
    """Members of a sample lie apart in a shard that looked sorted; callers begin it again, with an index."""


class StorageError(ShardlabelError):
    """An object could not be read or written."""


class ObjectMissing(StorageError):
    """The object does not exist."""


class ObjectForbidden(StorageError):
    """The credentials do not give access to the object."""


class ObjectArchived(ObjectForbidden):
    """The object lies in an archive class, and must be restored before it can be read."""


class ObjectChanged(StorageError):
    """The object's size or ETag is no longer that of the plan."""


class ObjectDamaged(StorageError):
    """A file of an output is damaged, or not what was published under its name."""


class ListingUnordered(StorageError):
    """The store lists its objects in no order, and what was asked needs one."""


class StoreUnavailable(StorageError):
    """The store did not answer, retries included."""


class ImageError(Exception):
    """An image cannot be labelled: the sample goes to quarantine with this reason.

    Attributes:
        reason: One of :class:`pipeline.records.Reason`.
        message: The decoder's message, in one line.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message
