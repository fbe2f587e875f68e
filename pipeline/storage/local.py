"""Files on a local or shared POSIX file system."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import TypeVar

from pipeline.errors import ObjectChanged, ObjectForbidden, ObjectMissing, StorageError
from pipeline.storage.base import Entry

_BUFFER_BYTES = 1 << 20
T = TypeVar("T")


def _translated(path: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except OSError as error:
        raise _storage_error(path, error) from error


def _storage_error(path: str, error: OSError) -> StorageError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return ObjectMissing(f"{path}: no such file")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return ObjectForbidden(f"{path}: {error.strerror}")
    return StorageError(f"{path}: {error.strerror or error}")


def _version(stat: os.stat_result) -> str:
    return f"{stat.st_size:x}-{stat.st_mtime_ns:x}"


def _link(temporary: str, uri: str) -> None:
    """Give a file its final name unless that is taken; on file systems without hard links, a rename."""
    try:
        os.link(temporary, uri)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.EMLINK} or os.path.exists(uri):
            raise
        os.replace(temporary, uri)


def _holds(link: str, directory: str) -> bool:
    """Whether a link leads back to a directory that we are inside of."""
    target = os.path.realpath(link)
    return os.path.commonpath([target, os.path.realpath(directory)]) == target


class FileStream:
    """A file read from front to back through one buffer."""

    def __init__(self, entry: Entry, offset: int) -> None:
        self._path = entry.uri
        self._file = _translated(entry.uri, lambda: open(entry.uri, "rb", buffering=_BUFFER_BYTES))  # noqa: SIM115
        stat = os.fstat(self._file.fileno())
        if entry.etag and _version(stat) != entry.etag:
            self._file.close()
            raise ObjectChanged(f"{entry.uri}: changed since it was planned")
        self._size = stat.st_size
        self._file.seek(offset)

    @property
    def position(self) -> int:
        """Offset of the next byte."""
        return self._file.tell()

    def read(self, num_bytes: int) -> bytes:
        """The next bytes; fewer only where the file ends."""
        return _translated(self._path, lambda: self._file.read(num_bytes))

    def skip(self, num_bytes: int) -> int:
        """Pass over bytes; returns how many there were."""
        skipped = max(0, min(num_bytes, self._size - self.position))
        self._file.seek(skipped, os.SEEK_CUR)
        return skipped

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class LocalStore:
    """Objects are files; their URI is the absolute path."""

    def list(self, prefix: str) -> Iterator[Entry]:
        """All regular files below a directory, ascending by path; hidden ones left out."""
        return self._walk(prefix.rstrip("/") or "/")

    def _walk(self, directory: str) -> Iterator[Entry]:
        # A directory sorts as "name/", which is what gives the order of the whole paths.
        with _translated(directory, lambda: os.scandir(directory)) as scan:
            found = sorted((e.name + "/" if e.is_dir() else e.name, e) for e in scan if not e.name.startswith("."))
        for name, item in found:
            if name.endswith("/"):
                if not (item.is_symlink() and _holds(item.path, directory)):
                    yield from self._walk(item.path)
            elif item.is_file():
                yield self.stat(item.path)

    def stat(self, uri: str) -> Entry:
        """Size and modification time."""
        stat = _translated(uri, lambda: os.stat(uri))
        return Entry(uri, stat.st_size, _version(stat), stat.st_mtime)

    def open(self, entry: Entry, offset: int = 0) -> FileStream:
        """Read a file from an offset on."""
        return FileStream(entry, offset)

    def read(self, uri: str) -> bytes:
        """A whole file."""

        def whole() -> bytes:
            with open(uri, "rb") as file:
                return file.read()

        return _translated(uri, whole)

    def fetch(self, entry: Entry) -> bytes:
        """A whole file, of the given version."""
        stream = FileStream(entry, 0)
        try:
            return stream.read(-1)
        finally:
            stream.close()

    def publish(self, uri: str, data: bytes) -> bool:
        """Write a temporary file beside the target and link it to its name, which fails if that is taken."""
        return self._write(uri, data, exclusive=True)

    def replace(self, uri: str, data: bytes) -> None:
        """Write a temporary file beside the target and rename it over the target."""
        self._write(uri, data, exclusive=False)

    def _write(self, uri: str, data: bytes, *, exclusive: bool) -> bool:
        folder = os.path.dirname(uri)
        try:
            os.makedirs(folder, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=".tmp-", dir=folder)
            try:
                with open(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(temporary, 0o644)
                if exclusive:
                    _link(temporary, uri)
                else:
                    os.replace(temporary, uri)
            except FileExistsError:
                return False
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
            self._sync_directory(folder)
        except OSError as error:
            raise _storage_error(uri, error) from error
        return True

    @staticmethod
    def _sync_directory(folder: str) -> None:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def delete(self, uri: str) -> None:
        """Remove a file; no error when there is none."""
        with contextlib.suppress(ObjectMissing):
            _translated(uri, lambda: os.unlink(uri))
