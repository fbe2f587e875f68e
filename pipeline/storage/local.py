"""Files on a local or shared POSIX file system."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from pipeline.errors import ObjectChanged, ObjectForbidden, ObjectMissing, StorageError
from pipeline.storage.base import LISTED, Entry, is_hidden

_BUFFER_BYTES, _BLOCK_BYTES = 1 << 20, 4096
_TEMPORARY = ".tmp-"  # hidden, so that listings leave it out
_STALE_S = 3600.0  # a file takes seconds to write
# What file systems answer that lack something: FAT, SMB, NFS, FUSE, each in its own way.
_UNSUPPORTED = {errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF}
_NO_HARD_LINKS = (_UNSUPPORTED - {errno.EACCES}) | {errno.EMLINK, errno.EXDEV}
T = TypeVar("T")


def _translate_errors(path: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except OSError as error:
        raise _storage_error(path, error) from error


def _storage_error(path: str, error: OSError) -> StorageError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return ObjectMissing(f"{path}: no such file")
    if error.errno == errno.ELOOP:
        return ObjectMissing(f"{path}: a link that leads to itself")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return ObjectForbidden(f"{path}: {error.strerror}")
    return StorageError(f"{path}: {error.strerror or error}")


def _write_error(path: str, error: OSError) -> StorageError:
    """Translate an error of a write, where a missing or wrong parent is no missing object."""
    if isinstance(error, FileNotFoundError | NotADirectoryError | FileExistsError):
        return ObjectForbidden(f"{path}: cannot be created there: {error.strerror}")
    return _storage_error(path, error)


def _version(status: os.stat_result) -> str:
    return f"{status.st_size:x}-{status.st_mtime_ns:x}"


def _entry(path: str, status: os.stat_result) -> Entry:
    return Entry(path, status.st_size, _version(status), status.st_mtime)


def _link(temporary: str, uri: str) -> None:
    """Give a file its final name unless that exists; on file systems without hard links, by a rename."""
    try:
        os.link(temporary, uri)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if os.path.lexists(uri):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), uri) from error
        os.replace(temporary, uri)


def _refuse_device(uri: str) -> None:
    """Do not put a file in the place of ``/dev/null`` and the like, which the superuser may.

    Raises:
        OSError: Neither a file nor a link lies there.
    """
    with contextlib.suppress(FileNotFoundError):
        mode = os.lstat(uri).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)):
            raise OSError(errno.EINVAL, "neither a file nor a folder", uri)


def _mode(uri: str) -> int:
    """Who may read and write a file that is replaced; as everywhere in OUT, where there is none."""
    try:
        return stat.S_IMODE(os.stat(uri).st_mode)
    except OSError:
        return 0o644


@contextlib.contextmanager
def _where_supported() -> Iterator[None]:
    """Let a file system that lacks something do without it."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def missing_folders(folder: str) -> list[str]:
    """Of a folder and those above it, what is not there, the deepest first."""
    missing = []
    while not os.path.lexists(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    return missing


def remove_empty(folders: list[str]) -> None:
    """Remove folders, the deepest first, as far as they are empty."""
    with contextlib.suppress(OSError):
        for folder in folders:
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(folder)


def _names(folder: str) -> list[str]:
    """Names in a folder without hidden ones, in the order of the full paths below it."""
    with os.scandir(folder) as scan:
        return sorted(item.name + "/" if _is_folder(item) else item.name for item in scan if not is_hidden(item.name))


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a link to itself, or to where nobody may look: it is listed as what cannot be read
        return False


def look_at(path: str) -> Entry | None:
    """The entry of a name in a folder: of size -1 for a link that leads nowhere, a pipe, or what nobody may open.

    None if it is gone since the folder was listed.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return Entry(path, -1, LISTED) if os.path.islink(path) else None
    except OSError:
        return Entry(path, -1, LISTED)
    return _entry(path, status) if stat.S_ISREG(status.st_mode) and _may_read(path, status) else Entry(path, -1, LISTED)


def is_closed(folder: str) -> bool:
    """Whether a folder may not be listed by this process."""
    try:
        os.scandir(folder).close()
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def is_settled(uri: str) -> bool:
    """Whether what was listed as unreadable, a folder or a link without extension, is gone or can be listed now."""
    if uri.endswith("/"):
        return not is_closed(uri)
    return look_at(uri) is None or os.path.isdir(uri)


def _may_read(path: str, status: os.stat_result) -> bool:
    """Whether this process may read a file; asked only where its mode leaves a doubt."""
    if status.st_mode & 0o444 == 0o444:
        return True
    return os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids)


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Lock a folder against other writers. The lock ends with the process."""
    handle = _translate_errors(folder, lambda: os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
    try:
        with contextlib.suppress(OSError):  # a file system without locks, or without those of directories (NFS)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


class FileStream:
    """A file read from front to back through one buffer."""

    def __init__(self, entry: Entry, offset: int) -> None:
        self._path = entry.uri
        buffer_bytes = max(_BLOCK_BYTES, min(_BUFFER_BYTES, entry.size_bytes - offset))
        self._file = _translate_errors(entry.uri, lambda: open(entry.uri, "rb", buffering=buffer_bytes))  # noqa: SIM115 - closed by us
        status = os.fstat(self._file.fileno())
        if entry.etag and _version(status) != entry.etag:
            self._file.close()
            raise ObjectChanged(f"{entry.uri}: changed since it was planned")
        self._size = status.st_size
        self._file.seek(offset)

    @property
    def position(self) -> int:
        """Offset of the next byte."""
        return self._file.tell()

    def read(self, num_bytes: int) -> bytes:
        """The next bytes; fewer only where the file ends."""
        try:
            return self._file.read(num_bytes)
        except OSError as error:
            raise _storage_error(self._path, error) from error

    def skip(self, num_bytes: int) -> int:
        """Skip bytes; returns how many were skipped."""
        if num_bytes <= 0:
            return 0
        skipped = max(0, min(num_bytes, self._size - self._file.tell()))
        self._file.seek(skipped, os.SEEK_CUR)
        return skipped

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class LocalStore:
    """Objects are files; their URI is the absolute path."""

    def list(
        self, prefix: str, after: str = "", *, unreadable: bool = False, any_order: bool = False
    ) -> Iterator[Entry]:
        """List all regular files below a directory, ascending by path (also ``any_order``), without hidden ones."""
        walk = self._walk(prefix.rstrip("/") + "/", frozenset(), unreadable=unreadable)
        return (entry for entry in walk if entry.uri > after) if after else walk

    def _walk(self, folder: str, above: frozenset[tuple[int, int]], *, unreadable: bool) -> Iterator[Entry]:
        try:
            status = os.stat(folder)
            names = _names(folder)
        except OSError as error:
            if not above or not unreadable:
                raise _storage_error(folder, error) from error
            yield Entry(folder, -1, LISTED)  # below it may be anything
            return
        identity = (status.st_dev, status.st_ino)
        if identity in above:  # a link to a folder above: what is in it is listed there
            return
        for name in names:
            if name.endswith("/"):
                yield from self._walk(folder + name, above | {identity}, unreadable=unreadable)
            elif (entry := look_at(folder + name)) is not None and (unreadable or entry.size_bytes >= 0):
                yield entry

    def stat(self, uri: str) -> Entry:
        """Look up size and modification time."""
        status = _translate_errors(uri, lambda: os.stat(uri))
        if not stat.S_ISREG(status.st_mode):
            raise ObjectMissing(f"{uri}: not a regular file")
        return _entry(uri, status)

    def open(self, entry: Entry, offset: int = 0) -> FileStream:
        """Read a file from an offset on."""
        return FileStream(entry, offset)

    def read(self, uri: str) -> bytes:
        """Read a whole file."""

        def whole() -> bytes:
            with open(uri, "rb") as file:
                return file.read()

        return _translate_errors(uri, whole)

    def fetch(self, entry: Entry) -> bytes:
        """Read a whole file, of the given version."""
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

    def replace_if_unchanged(self, uri: str, data: bytes, older: Entry) -> bool:
        """Compare and replace under a lock on the directory."""
        with _locked(os.path.dirname(uri)):
            try:
                is_older = self.stat(uri).etag == older.etag
            except ObjectMissing:
                return False
            if is_older:
                self.replace(uri, data)
            return is_older

    def _write(self, uri: str, data: bytes, *, exclusive: bool) -> bool:
        folder = os.path.dirname(uri)
        made = missing_folders(folder)
        try:
            os.makedirs(folder, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=_TEMPORARY, dir=folder)
            try:
                with open(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    with _where_supported():
                        os.fsync(file.fileno())
                with _where_supported():
                    os.chmod(temporary, 0o644 if exclusive else _mode(uri))
                if exclusive:
                    _link(temporary, uri)
                else:
                    _refuse_device(uri)
                    os.replace(temporary, uri)
            except FileExistsError:
                return False
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
            with _where_supported():
                self._sync_directory(folder)
        except OSError as error:
            remove_empty(made)  # a first write that fails leaves nothing
            raise _write_error(uri, error) from error
        return True

    @staticmethod
    def _sync_directory(folder: str) -> None:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def sweep(self, folder: str) -> None:
        """Remove temporary files that are an hour old: their writers are dead."""
        with contextlib.suppress(OSError), os.scandir(folder) as scan:
            for item in scan:
                if item.name.startswith(_TEMPORARY) and time.time() - item.stat().st_mtime > _STALE_S:
                    os.unlink(item.path)

    def prune(self, folder: str) -> None:
        """Remove a directory and those below it as far as they hold nothing, not even a hidden file."""
        with contextlib.suppress(OSError):
            for below, _, _ in os.walk(folder, topdown=False):
                with contextlib.suppress(OSError):  # it holds something
                    os.rmdir(below)

    def delete(self, uri: str) -> None:
        """Remove a file; no error when there is none."""
        with contextlib.suppress(ObjectMissing):
            _translate_errors(uri, lambda: os.unlink(uri))
