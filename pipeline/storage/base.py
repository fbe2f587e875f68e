"""The protocol of a store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

LISTED = "listed"  # the version of what is listed, but cannot be read


@dataclass(frozen=True, slots=True)
class Entry:
    """One object.

    Attributes:
        uri: Its absolute path or URI; a folder's ends with a slash.
        size_bytes: Its size; -1 if it is missing, or may not be read, as far as is known.
        etag: A token that changes when the object does.
        modified_s: When it was last written, Unix seconds; 0 if unknown.
    """

    uri: str
    size_bytes: int
    etag: str
    modified_s: float = 0.0


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is passed over: hidden ones, and the companions that macOS adds to zips."""
    return (name[:1] == "." and name not in {".", ".."}) or name == "__MACOSX"


class ByteStream(Protocol):
    """An object that is read from front to back."""

    @property
    def position(self) -> int:
        """Offset of the next byte."""

    def read(self, num_bytes: int) -> bytes:
        """The next bytes; fewer only where the object ends.

        Raises:
            StorageError: The object cannot be read any further.
        """

    def skip(self, num_bytes: int) -> int:
        """Skip bytes; returns how many were skipped."""

    def close(self) -> None:
        """Close files and connections."""


class Store(Protocol):
    """A store of objects. Methods raise :class:`pipeline.errors.StorageError` and its subclasses only."""

    def list(
        self, prefix: str, after: str = "", *, unreadable: bool = False, any_order: bool = False
    ) -> Iterator[Entry]:
        """List all objects below a prefix whose URI is above ``after``, ascending by URI (code points).

        With ``unreadable``, also what is known to be unreadable: links that lead nowhere, files and folders that nobody
        may open. With ``any_order``, as the store lists them.

        Raises:
            ListingUnordered: The store lists in no order, and it was noticed too late, or with ``after``.
        """

    def stat(self, uri: str) -> Entry:
        """Look up the size and version of an object."""

    def open(self, entry: Entry, offset: int = 0) -> ByteStream:
        """Read an object from an offset on; fails if it is no longer the given version."""

    def read(self, uri: str) -> bytes:
        """Read a whole small object."""

    def fetch(self, entry: Entry) -> bytes:
        """Read a whole object, of the given version."""

    def publish(self, uri: str, data: bytes) -> bool:
        """Create an object, whole or not at all; False if the name exists already."""

    def replace(self, uri: str, data: bytes) -> None:
        """Create or overwrite an object, whole or not at all."""

    def replace_if_unchanged(self, uri: str, data: bytes, older: Entry) -> bool:
        """Overwrite an object, whole or not at all; False if it is no longer the given version."""

    def sweep(self, folder: str) -> None:
        """Remove temporary files that killed writers left in a directory, if the store has such files."""

    def prune(self, folder: str) -> None:
        """Remove a directory and those below it as far as they hold nothing, if the store has directories."""

    def delete(self, uri: str) -> None:
        """Remove an object; no error when there is none."""
