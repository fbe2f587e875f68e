"""One interface to local files and S3: every method takes a path or URI and calls the store that holds it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from urllib.parse import unquote

from pipeline.config.settings import StorageConfig
from pipeline.errors import ObjectMissing, StorageError
from pipeline.storage.base import LISTED, ByteStream, Entry, Store, is_hidden
from pipeline.storage.local import LocalStore, is_closed, is_settled, look_at, missing_folders, remove_empty
from pipeline.text.safe import holds_secret

__all__ = [
    "LISTED",
    "ByteStream",
    "Entry",
    "Storage",
    "absolute_uri",
    "is_closed",
    "is_hidden",
    "is_settled",
    "join",
    "look_at",
    "missing_folders",
    "remove_empty",
]


def absolute_uri(uri: str) -> str:
    """Normalise a path or URI: ``s3://...`` stays as it is, everything else becomes an absolute path.

    Raises:
        StorageError: It is empty, holds credentials, or has an unknown scheme.
    """
    if holds_secret(uri):
        raise StorageError(f"{uri}: holds credentials, which do not belong in a URI; give them in AWS's own variables")
    if uri.startswith("s3://"):
        return uri
    if uri.startswith("file://"):
        host, slash, path = uri.removeprefix("file://").partition("/")
        if host not in {"", "localhost"} or not slash:
            raise StorageError(f"{uri}: a file:// URI holds an absolute path, as in file:///data/images")
        uri = unquote(slash + path, errors="surrogateescape")
    elif not uri:
        raise StorageError("'': the path is empty")
    elif "://" in uri:
        raise StorageError(f"{uri}: unknown scheme; local paths and s3:// are understood")
    if not _is_path(uri):
        raise StorageError(f"{uri!r}: holds a character that no path can")
    path = os.path.abspath(os.path.expanduser(uri))
    path = "/" + path.lstrip("/")  # POSIX leaves two leading slashes alone; here they are one place
    return path + "/" if uri.endswith("/") and path != "/" else path


def _is_path(text: str) -> bool:
    """Whether the system can be asked for it: JSON and YAML hold more than paths can."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # half a surrogate pair
        return False


def join(base: str, *names: str) -> str:
    """Append names to a directory or prefix."""
    return "/".join([base.removesuffix("/"), *names])  # one slash: an S3 prefix may end in several


class Storage:
    """All stores behind one interface. Cheap to make, safe to pickle and to share between threads."""

    def __init__(self, config: StorageConfig | None = None) -> None:
        self._config = config or StorageConfig()
        self._local = LocalStore()
        self._s3: Store | None = None

    def __reduce__(self) -> tuple[type[Storage], tuple[StorageConfig]]:
        return Storage, (self._config,)

    def _store(self, uri: str) -> Store:
        if not uri.startswith("s3://"):
            return self._local
        if self._s3 is None:
            from pipeline.storage.s3 import S3Store  # botocore takes half a second, which local jobs do not need

            self._s3 = S3Store(self._config)
        return self._s3

    def list(
        self, prefix: str, after: str = "", *, unreadable: bool = False, any_order: bool = False
    ) -> Iterator[Entry]:
        """List all objects below a directory or prefix, ascending by URI, without hidden files.

        Args:
            prefix: A directory, or an ``s3://`` prefix: exactly the text that keys begin with.
            after: Only objects behind this URI.
            unreadable: Also links that lead nowhere, and files and folders that nobody may open, as entries of size -1.
            any_order: In the store's own order. Stores that list in none need no sort then.

        Raises:
            ObjectMissing: There is no such directory or bucket.
            ListingUnordered: The store lists in no order, and it was noticed too late, or with ``after``.
        """
        return self._store(prefix).list(prefix, after, unreadable=unreadable, any_order=any_order)

    def stat(self, uri: str) -> Entry:
        """Look up the size and version of an object."""
        return self._store(uri).stat(uri)

    def check_readable(self, uri: str) -> None:
        """Read the first byte of an object, or list a folder.

        Raises:
            StorageError: What keeps it from being read.
        """
        if uri.endswith("/"):
            next(iter(self.list(uri)), None)
            return
        found = self.stat(uri)
        stream = self.open(Entry(uri, min(found.size_bytes, 1), found.etag))
        try:
            stream.read(1)
        finally:
            stream.close()

    def exists(self, uri: str) -> bool:
        """Whether there is such an object."""
        try:
            self.stat(uri)
        except ObjectMissing:
            return False
        return True

    def open(self, entry: Entry, offset: int = 0) -> ByteStream:
        """Read an object from an offset on."""
        return self._store(entry.uri).open(entry, offset)

    def read(self, uri: str) -> bytes:
        """Read a whole small object."""
        return self._store(uri).read(uri)

    def fetch(self, entry: Entry) -> bytes:
        """Read a whole object, of the given version."""
        return self._store(entry.uri).fetch(entry)

    def publish(self, uri: str, data: bytes) -> bool:
        """Create an object, whole or not at all; False if the name exists already."""
        return self._store(uri).publish(uri, data)

    def replace(self, uri: str, data: bytes) -> None:
        """Create or overwrite an object, whole or not at all."""
        self._store(uri).replace(uri, data)

    def replace_if_unchanged(self, uri: str, data: bytes, older: Entry) -> bool:
        """Overwrite an object, whole or not at all; False if it is no longer the given version."""
        return self._store(uri).replace_if_unchanged(uri, data, older)

    def sweep(self, folder: str) -> None:
        """Remove temporary files that killed writers left in a directory; never an error."""
        self._store(folder).sweep(folder)

    def prune(self, folder: str) -> None:
        """Remove a directory and those below it as far as they hold nothing; never an error."""
        self._store(folder).prune(folder)

    def delete(self, uri: str) -> None:
        """Remove an object; no error when there is none."""
        self._store(uri).delete(uri)
