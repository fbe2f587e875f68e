"""Objects on S3 and on stores that speak its protocol.

Reads are ranged: several ranges in flight, each retried from the byte it had reached, all of them
pinned to one ETag. Writes build the bytes first and publish them by one conditional PUT.
"""

from __future__ import annotations

import functools
import mimetypes
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.exceptions import ConnectionError as NoConnectionError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from pipeline.config.settings import StorageConfig
from pipeline.errors import ObjectChanged, ObjectForbidden, ObjectMissing, StorageError, StoreUnavailable
from pipeline.storage.base import Entry
from pipeline.storage.s3_client import connect

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

RANGE_BYTES = 8 << 20
RANGES_IN_FLIGHT = 4
_PIECE_BYTES = 1 << 20
_MAX_TRIES = 6
_CLIENT_RETRIES = 3
_MAX_CONNECTIONS = 64
_BACKOFF_S = 0.2
_GIVE_UP_S = 120.0
_READ_TIMEOUT_S = 60.0

_EXPIRED = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired"}  # answered with status 400
_UNSUPPORTED = {"501", "NotImplemented"}
_TORN = (
    NoConnectionError,
    HTTPClientError,
    IncompleteReadError,
    CredentialRetrievalError,
    ResponseParserError,
    HTTPError,
    OSError,
)

T = TypeVar("T")
_ErrorTypes = type[StorageError] | tuple[type[StorageError], ...]


def split_uri(uri: str) -> tuple[str, str]:
    """``s3://bucket/key`` as (bucket, key)."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _code(error: BaseException | None) -> str:
    """The store's own word for what went wrong; empty where it was not the store that said so."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def _translated(uri: str, call: Callable[[], T]) -> T:
    """Run a client call; its errors become ours."""
    try:
        return call()
    except ClientError as error:
        raise _storage_error(uri, error) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise ObjectForbidden(f"{uri}: no AWS credentials were found (or pass --no-sign-request)") from error
    except _TORN as error:
        if "Invalid header" in str(error):  # the error shows them, so it must not travel along
            raise ObjectForbidden(
                f"{uri}: the credentials hold a line break, or what no HTTP header can hold"
            ) from None
        raise StoreUnavailable(f"{uri}: {' '.join(str(error).split())}") from error
    except (BotoCoreError, ValueError) as error:  # boto3's own checks, of a bucket's name or the endpoint say
        message = " ".join(str(error).split()).removeprefix("Parameter validation failed: ")
        raise StorageError(f"{uri}: {message.partition(': Bucket name must')[0]}") from error
    except (LookupError, TypeError, AttributeError) as error:  # botocore stumbles over an answer that lacks something
        raise StorageError(f"{uri}: the store's answer makes no sense: {error!r}") from error


def _storage_error(uri: str, error: ClientError) -> StorageError:
    code = _code(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if status == 404:
        return ObjectMissing(f"{uri}: no such {'bucket' if code == 'NoSuchBucket' else 'object'}")
    said = [code, " ".join((error.response.get("Error", {}).get("Message") or "").split())]
    if code == "403":  # the answer to a HEAD has no body that says more
        said = ["forbidden: the credentials are wrong or do not open it"]
    message = ": ".join([uri, *filter(None, said)])
    if status in {401, 403} or code in _EXPIRED:
        return ObjectForbidden(message)
    if status in {412, 416}:  # 416: it is shorter than it was
        return ObjectChanged(f"{uri}: changed since it was planned")
    return StoreUnavailable(message)


def _patiently(uri: str, call: Callable[[], T]) -> T:
    """Run a client call; try again for a while when the store does not answer.

    The client's own retries do not cover a body that is torn, and share one quota, which dries up
    when many threads are throttled at once.
    """
    started = time.monotonic()
    for attempt in range(1, _MAX_TRIES + 1):
        try:
            return _translated(uri, call)
        except StoreUnavailable as error:
            out_of_time = time.monotonic() - started > _GIVE_UP_S
            if attempt == _MAX_TRIES or out_of_time or _code(error.__cause__) in _UNSUPPORTED:
                raise
        time.sleep(_BACKOFF_S * 2**attempt * random.uniform(0.25, 0.75))  # noqa: S311 - jitter, not a secret
    raise StoreUnavailable(uri)


class S3Store:
    """Objects of any bucket that one set of credentials opens. Safe to share between threads."""

    def __init__(self, config: StorageConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._client: S3Client | None = None
        self._readers: ThreadPoolExecutor | None = None

    def __getstate__(self) -> StorageConfig:
        return self._config

    def __setstate__(self, config: StorageConfig) -> None:
        S3Store.__init__(self, config)

    @property
    def client(self) -> S3Client:
        """The client, made on first use in each process."""
        with self._lock:
            if self._client is None:
                options = {
                    "retries": {"mode": "standard", "max_attempts": _CLIENT_RETRIES},
                    "max_pool_connections": _MAX_CONNECTIONS,
                    "connect_timeout": 10,
                    "read_timeout": _READ_TIMEOUT_S,
                }
                self._client = _translated("s3://", lambda: connect(self._config, options))
            return self._client

    @property
    def readers(self) -> ThreadPoolExecutor:
        """Threads that fetch ranges."""
        with self._lock:
            if self._readers is None:
                self._readers = ThreadPoolExecutor(_MAX_CONNECTIONS, thread_name_prefix="s3-range")
            return self._readers

    def list(self, prefix: str, after: str = "") -> Iterator[Entry]:
        """All objects below a prefix, in S3's order (UTF-8 bytes, which is code points)."""
        bucket, key = split_uri(prefix)
        more: dict[str, Any] = {"StartAfter": split_uri(after)[1]} if after else {}
        while True:
            page = _patiently(
                prefix,
                lambda more=more: self.client.list_objects_v2(Bucket=bucket, Prefix=key, **more),  # type: ignore[misc]  # its default
            )
            if "IsTruncated" not in page:  # an empty answer, or one of another kind, must not look like an empty prefix
                raise StorageError(f"{prefix}: the store's answer is no listing")
            for item in page.get("Contents", ()):
                if not {"Key", "LastModified", "ETag", "Size"} <= item.keys():
                    raise StorageError(f"{prefix}: the store lists an object without its size, version or time")
                if not item["Key"].endswith("/"):
                    uri, modified_s = f"s3://{bucket}/{item['Key']}", item["LastModified"].timestamp()
                    yield Entry(uri, item["Size"], item["ETag"].strip('"'), modified_s)
            if not page["IsTruncated"]:
                return
            token = page.get("NextContinuationToken")
            if token in {None, more.get("ContinuationToken")}:
                raise StorageError(f"{prefix}: the store says that there is more to list, but not how to ask for it")
            more = {"ContinuationToken": token}

    def stat(self, uri: str) -> Entry:
        """Size and ETag."""
        bucket, key = split_uri(uri)
        if not bucket or not key:
            raise ObjectMissing(f"{uri}: a bucket and a key are needed")
        head = _patiently(uri, lambda: self.client.head_object(Bucket=bucket, Key=key))
        return Entry(uri, head["ContentLength"], head["ETag"].strip('"'), head["LastModified"].timestamp())

    def open(self, entry: Entry, offset: int = 0) -> RangeStream:
        """Read an object from an offset on, in ranges."""
        return RangeStream(self, entry, offset)

    def read(self, uri: str) -> bytes:
        """A whole object."""
        return self.fetch(self.stat(uri))

    def fetch(self, entry: Entry) -> bytes:
        """A whole object, of the given version."""
        entry = self.looked_at(entry)
        return self.read_range(entry, 0, entry.size_bytes)

    def looked_at(self, entry: Entry) -> Entry:
        """The entry; where it promises no bytes that a read would ask for, only after a look at the object.

        Raises:
            ObjectMissing: It is gone, which must not look like an empty object.
            ObjectChanged: It is no longer empty.
        """
        if entry.size_bytes > 0:
            return entry
        found = self.stat(entry.uri)
        if entry.etag and found.etag != entry.etag:
            raise ObjectChanged(f"{entry.uri}: changed since it was planned")
        return found

    def read_range(self, entry: Entry, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop`` of an object; a torn transfer goes on from where it had come.

        Raises:
            ObjectChanged: It is no longer the version that ``entry`` describes.
            StoreUnavailable: Retries were used up.
        """
        stop = min(stop, entry.size_bytes)
        got = bytearray()
        while start + len(got) < stop:
            _patiently(entry.uri, lambda: self._transfer(entry, start, stop, got))
        return bytes(got)

    def _transfer(self, entry: Entry, start: int, stop: int, got: bytearray) -> None:
        bucket, key = split_uri(entry.uri)
        pin: dict[str, Any] = {"IfMatch": f'"{entry.etag}"'} if entry.etag else {}
        first = start + len(got)
        if first >= stop:  # torn after its last byte
            return
        answer = self.client.get_object(Bucket=bucket, Key=key, Range=f"bytes={first}-{stop - 1}", **pin)
        body = answer["Body"]
        try:
            all_of_it = first == 0 and stop == entry.size_bytes
            if not all_of_it and not answer.get("ContentRange", "").startswith(f"bytes {first}-"):
                raise StorageError(f"{entry.uri}: the store sent other bytes than asked for; it does not honour ranges")
            for piece in body.iter_chunks(_PIECE_BYTES):
                got.extend(piece)
        finally:
            body.close()
        if start + len(got) == first:
            raise StoreUnavailable(f"{entry.uri}: the store sent no bytes from {first} on")
        if start + len(got) > stop:
            raise ObjectChanged(f"{entry.uri}: longer than planned")

    def publish(self, uri: str, data: bytes) -> bool:
        """One PUT that fails when the key exists; a plain PUT where the store knows no conditions."""
        bucket, key = split_uri(uri)
        put = functools.partial(self.client.put_object, Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        return self._put_if(uri, data, put, ObjectChanged)

    def swap(self, uri: str, data: bytes, older: Entry) -> bool:
        """One PUT that fails when the key holds another version; a plain PUT where the store knows no conditions."""
        bucket, key = split_uri(uri)
        for pin in (f'"{older.etag}"', older.etag):  # with its quotes, and as Ceph compares it
            put = functools.partial(self.client.put_object, Bucket=bucket, Key=key, Body=data, IfMatch=pin)
            if self._put_if(uri, data, put, (ObjectChanged, ObjectMissing)):
                return True
            try:
                if self.stat(uri).etag != older.etag:
                    return False
            except ObjectMissing:
                return False
        self.replace(uri, data)  # refused although it is as it was: conditions that this store does not understand
        return True

    def _put_if(self, uri: str, data: bytes, put: Callable[[], object], unmet: _ErrorTypes) -> bool:
        """A PUT under a condition; False where the store says by one of these errors that it is not met."""
        try:
            _patiently(uri, put)
        except unmet:
            return False
        except StoreUnavailable as error:
            if _code(error.__cause__) not in _UNSUPPORTED:
                raise
            self.replace(uri, data)
        return True

    def replace(self, uri: str, data: bytes) -> None:
        """One PUT; a browser is told what it gets."""
        bucket, key = split_uri(uri)
        kind = mimetypes.guess_type(key)[0] or "binary/octet-stream"
        _patiently(uri, lambda: self.client.put_object(Bucket=bucket, Key=key, Body=data, ContentType=kind))

    def sweep(self, folder: str) -> None:
        """Nothing: an object is there whole or not at all."""

    def delete(self, uri: str) -> None:
        """Remove an object."""
        bucket, key = split_uri(uri)
        _patiently(uri, lambda: self.client.delete_object(Bucket=bucket, Key=key))


class _Range(NamedTuple):
    """Bytes ``start`` to ``stop``, on their way."""

    start: int
    stop: int
    data: Future[bytes]


class RangeStream:
    """An object read from front to back, a few ranges ahead of the reader."""

    def __init__(self, store: S3Store, entry: Entry, offset: int) -> None:
        self._store = store
        self._entry = store.looked_at(entry)
        self._position = offset
        self._next_range = offset
        self._ahead: deque[_Range] = deque()
        self._current = memoryview(b"")

    @property
    def position(self) -> int:
        """Offset of the next byte."""
        return self._position

    def _fill(self) -> None:
        while len(self._ahead) < RANGES_IN_FLIGHT and self._next_range < self._entry.size_bytes:
            start, stop = self._next_range, min(self._next_range + RANGE_BYTES, self._entry.size_bytes)
            data = self._store.readers.submit(self._store.read_range, self._entry, start, stop)
            self._ahead.append(_Range(start, stop, data))
            self._next_range = stop

    def _advance(self) -> bool:
        """Make the next range current; False at the end of the object."""
        self._fill()
        if not self._ahead:
            return False
        head = self._ahead[0]
        data = head.data.result()  # one that failed stays in front: a later read fails again
        self._ahead.popleft()
        self._current = memoryview(data)[self._position - head.start :]
        self._fill()
        return True

    def read(self, num_bytes: int) -> bytes:
        """The next bytes; fewer only where the object ends."""
        pieces: list[memoryview] = []
        wanted = num_bytes
        while wanted > 0 and (len(self._current) or self._advance()):
            pieces.append(self._current[:wanted])
            self._current = self._current[wanted:]
            wanted -= len(pieces[-1])
            self._position += len(pieces[-1])
        return bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)

    def skip(self, num_bytes: int) -> int:
        """Pass over bytes; ranges not yet asked for are never fetched."""
        start = self._position
        target = max(start, min(start + num_bytes, self._entry.size_bytes))
        self._position = target
        self._current = self._current[target - start :]
        if not len(self._current):
            while self._ahead and self._ahead[0].stop <= target:
                self._ahead.popleft().data.cancel()
            if not self._ahead:
                self._next_range = target
        return target - start

    def close(self) -> None:
        """Drop what was read ahead."""
        for piece in self._ahead:
            piece.data.cancel()
        self._ahead.clear()
        self._current = memoryview(b"")
