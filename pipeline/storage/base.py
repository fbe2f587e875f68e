"""What a store can do, whatever it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """One object.

    Attributes:
        uri: Its absolute path or URI.
        size_bytes: Its size.
        etag: A token that changes when the object does.
        modified_s: When it was last written, Unix seconds; 0 where nobody asked.
    """

    uri: str
    size_bytes: int
    etag: str
    modified_s: float = 0.0


class ByteStream(Protocol):
    """An object being read from front to back."""

    @property
    def position(self) -> int:
        """Offset of the next byte."""

    def read(self, num_bytes: int) -> bytes:
        """The next bytes; fewer only where the object ends.

        Raises:
            StorageError: The object cannot be read any further.
        """

    def skip(self, num_bytes: int) -> int:
        """Pass over bytes; returns how many there were."""

    def close(self) -> None:
        """Let go of files and connections."""


class Store(Protocol):
    """One kind of place. Methods raise the StorageError family and nothing else."""

    def list(self, prefix: str, after: str = "") -> Iterator[Entry]:
        """All objects below a prefix whose URI is above another one, ascending by URI (code points)."""

    def stat(self, uri: str) -> Entry:
        """One object's size and version."""

    def open(self, entry: Entry, offset: int = 0) -> ByteStream:
        """Read an object from an offset on; notices when it is no longer the given version."""

    def read(self, uri: str) -> bytes:
        """A whole small object."""

    def fetch(self, entry: Entry) -> bytes:
        """A whole object, of the given version."""

    def publish(self, uri: str, data: bytes) -> bool:
        """Create an object whole or not at all; False when the name was taken already."""

    def replace(self, uri: str, data: bytes) -> None:
        """Create or overwrite an object, whole or not at all."""

    def swap(self, uri: str, data: bytes, older: Entry) -> bool:
        """Overwrite an object, whole or not at all; False when it is no longer the given version."""

    def sweep(self, folder: str) -> None:
        """Remove what writers that died have left half-written in a directory, where there is such a thing."""

    def delete(self, uri: str) -> None:
        """Remove an object; no error when there is none."""
