"""Objects on S3 and on compatible stores.

Reads are ranged: several ranges in flight, each retried from the byte it had reached, all of them
pinned to one ETag. Writes build the bytes first and publish them by one conditional PUT.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import mimetypes
import operator
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from pipeline.config.settings import StorageConfig
from pipeline.errors import (
    ListingUnordered,
    ObjectChanged,
    ObjectForbidden,
    ObjectMissing,
    StorageError,
    StoreUnavailable,
)
from pipeline.storage.base import Entry
from pipeline.storage.s3_client import connect
from pipeline.storage.s3_retry import call_with_retries, error_code, is_unsupported, translate_errors
from pipeline.storage.s3_stream import RangeStream
from pipeline.storage.sorting import sort_entries

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client

_PIECE_BYTES = 1 << 20
_CLIENT_RETRIES = 3
_MAX_CONNECTIONS = 64
_READ_TIMEOUT_S = 60.0

_ErrorTypes = type[StorageError] | tuple[type[StorageError], ...]


def split_uri(uri: str) -> tuple[str, str]:
    """Split ``s3://bucket/key`` into (bucket, key)."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _bucket_and_key(uri: str) -> tuple[str, str]:
    """Split the URI of an object.

    Raises:
        ObjectMissing: It names none.
    """
    bucket, key = split_uri(uri)
    if not bucket or not key:
        raise ObjectMissing(f"{uri}: a bucket and a key are needed")
    return bucket, key


def _is_directory_bucket(bucket: str) -> bool:
    """Whether a bucket is one of S3 Express, by the end of its name that AWS reserves for them."""
    return bucket.endswith("--x-s3")


def _entry(prefix: str, bucket: str, item: Mapping[str, Any]) -> Entry:
    """The entry of an object that a store lists.

    Raises:
        StorageError: It is not described.
    """
    if not {"Key", "LastModified", "ETag", "Size"} <= item.keys():
        raise StorageError(f"{prefix}: the store lists an object without its size, version or time")
    uri, modified_s = f"s3://{bucket}/{item['Key']}", item["LastModified"].timestamp()
    return Entry(uri, item["Size"], item["ETag"].strip('"'), modified_s)


def _collect(body: StreamingBody, got: bytearray) -> None:
    """Append what comes, so that of a transfer that breaks off, what has come is there."""
    for piece in body.iter_chunks(_PIECE_BYTES):
        got.extend(piece)


class S3Store:
    """Objects of any bucket that one set of credentials opens. Safe to share between threads."""

    def __init__(self, config: StorageConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._client: S3Client | None = None
        self._readers: ThreadPoolExecutor | None = None
        self._unordered: set[str] = set()  # buckets that were seen to list in no order
        self._explained: set[tuple[str, type[StorageError]]] = set()

    def __getstate__(self) -> StorageConfig:
        return self._config

    def __setstate__(self, config: StorageConfig) -> None:
        S3Store.__init__(self, config)

    @property
    def client(self) -> S3Client:
        """The client; each process makes its own on first use."""
        with self._lock:
            if self._client is None:
                options = {
                    "retries": {"mode": "standard", "max_attempts": _CLIENT_RETRIES},
                    "max_pool_connections": _MAX_CONNECTIONS,
                    "connect_timeout": 10,
                    "read_timeout": _READ_TIMEOUT_S,
                }
                self._client = translate_errors("s3://", lambda: connect(self._config, options))
            return self._client

    @property
    def readers(self) -> ThreadPoolExecutor:
        """Threads that fetch ranges."""
        with self._lock:
            if self._readers is None:
                self._readers = ThreadPoolExecutor(_MAX_CONNECTIONS, thread_name_prefix="s3-range")
            return self._readers

    def list(
        self, prefix: str, after: str = "", *, unreadable: bool = False, any_order: bool = False
    ) -> Iterator[Entry]:
        """List all objects below a prefix, in S3's order (of UTF-8 bytes, which is that of code points).

        The order is checked, not believed: the objects of a bucket that was seen to list otherwise are sorted here.
        ``unreadable`` changes nothing: what may be listed need not be readable, and only reading tells.
        """
        bucket, _ = split_uri(prefix)
        last = ""
        if any_order or not (bucket in self._unordered or _is_directory_bucket(bucket)):
            for page in self._pages(prefix, after):
                if not self._is_ordered(bucket, page, last) and not any_order:
                    break
                yield from page
                last = page[-1].uri if page else last
            else:
                return
        if last or after:  # too late to sort, or the place to begin at means nothing there
            raise ListingUnordered(f"{prefix}: the store lists its objects in no order")
        try:
            yield from sort_entries(itertools.chain.from_iterable(self._pages(prefix, "")))
        except OSError as error:
            raise StorageError(f"{prefix}: its listing cannot be sorted on this disk: {error}") from error

    def _is_ordered(self, bucket: str, page: Sequence[Entry], last: str) -> bool:
        """Whether a page goes on in order behind a URI; a bucket of which one does not is remembered."""
        uris = [last, *(entry.uri for entry in page)]
        if not all(map(operator.lt, uris, uris[1:])):
            self._unordered.add(bucket)
        return bucket not in self._unordered

    def _pages(self, prefix: str, after: str) -> Iterator[Sequence[Entry]]:
        """The pages of a listing, as the store sends them."""
        bucket, key = split_uri(prefix)
        more: dict[str, Any] = {"StartAfter": split_uri(after)[1]} if after else {}
        # a directory bucket lists folders only, and knows no place to begin at
        listed = key[: key.rfind("/") + 1] if _is_directory_bucket(bucket) else key
        while True:
            page = call_with_retries(
                prefix,
                lambda more=more: self.client.list_objects_v2(Bucket=bucket, Prefix=listed, **more),  # type: ignore[misc]  # its default
            )
            if "IsTruncated" not in page:  # an empty answer, or one of another kind, must not look like an empty prefix
                raise StorageError(f"{prefix}: the store's answer is no listing")
            token = page.get("NextContinuationToken") if page["IsTruncated"] else ""
            if token in {None, more.get("ContinuationToken")}:
                raise StorageError(f"{prefix}: the store says that there is more to list, but not how to ask for it")
            entries = [_entry(prefix, bucket, item) for item in page.get("Contents", ())]
            # an object whose name ends with a slash is the console's mark of a folder
            yield [entry for entry in entries if entry.uri.startswith(prefix) and not entry.uri.endswith("/")]
            if not page["IsTruncated"]:
                return
            more = {"ContinuationToken": token}

    def stat(self, uri: str) -> Entry:
        """Look up size and ETag."""
        bucket, key = _bucket_and_key(uri)
        try:
            head = call_with_retries(uri, lambda: self.client.head_object(Bucket=bucket, Key=key))
        except (ObjectMissing, ObjectForbidden) as error:
            explained = self._explain(uri, error)
            if explained is error:
                raise
            raise explained from error
        return Entry(uri, head["ContentLength"], head["ETag"].strip('"'), head["LastModified"].timestamp())

    def _explain(self, uri: str, error: StorageError) -> StorageError:
        """The same error with the store's words: a HEAD has none, so a byte is asked for, once a bucket and kind."""
        bucket, key = split_uri(uri)
        if (bucket, type(error)) in self._explained or error_code(error.__cause__) not in {"403", "404"}:
            return error
        self._explained.add((bucket, type(error)))
        try:
            translate_errors(uri, lambda: self.client.get_object(Bucket=bucket, Key=key, Range="bytes=0-0"))
        except StorageError as explained:
            return explained if isinstance(explained, type(error)) else error
        return error

    def open(self, entry: Entry, offset: int = 0) -> RangeStream:
        """Read an object from an offset on, in ranges."""
        return RangeStream(self, entry, offset)

    def read(self, uri: str) -> bytes:
        """Read a whole object, by one request; only where the transfer breaks off, others go on from there."""
        bucket, key = _bucket_and_key(uri)
        begun: list[Entry] = []  # the version that the first answer was of
        got = bytearray()

        def transfer() -> None:
            if begun:
                self._transfer(begun[0], 0, begun[0].size_bytes, got)
                return
            answer = self.client.get_object(Bucket=bucket, Key=key)
            begun.append(Entry(uri, answer["ContentLength"], answer["ETag"].strip('"')))
            with contextlib.closing(answer["Body"]) as body:
                _collect(body, got)

        while not begun or len(got) < begun[0].size_bytes:
            call_with_retries(uri, transfer)
        return bytes(got)

    def fetch(self, entry: Entry) -> bytes:
        """Read a whole object, of the given version."""
        entry = self.stat_if_empty(entry)
        return self.read_range(entry, 0, entry.size_bytes)

    def stat_if_empty(self, entry: Entry) -> Entry:
        """Look an empty object up again, because no read will request its bytes; return others as they are.

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
        """Read bytes ``start`` to ``stop`` of an object; a transfer that breaks off goes on from where it was.

        Raises:
            ObjectChanged: It is no longer the version that ``entry`` describes.
            StoreUnavailable: The retries were used up.
        """
        stop = min(stop, entry.size_bytes)
        got = bytearray()
        while start + len(got) < stop:
            call_with_retries(entry.uri, lambda: self._transfer(entry, start, stop, got))
        return bytes(got)

    def _transfer(self, entry: Entry, start: int, stop: int, got: bytearray) -> None:
        bucket, key = split_uri(entry.uri)
        pin: dict[str, Any] = {"IfMatch": f'"{entry.etag}"'} if entry.etag else {}
        first = start + len(got)
        if first >= stop:  # it broke off after its last byte
            return
        answer = self.client.get_object(Bucket=bucket, Key=key, Range=f"bytes={first}-{stop - 1}", **pin)
        with contextlib.closing(answer["Body"]) as body:
            all_of_it = first == 0 and stop == entry.size_bytes
            if not all_of_it and not answer.get("ContentRange", "").startswith(f"bytes {first}-"):
                raise StorageError(f"{entry.uri}: the store sent other bytes than asked for; it does not honour ranges")
            _collect(body, got)
        if start + len(got) == first:
            raise StoreUnavailable(f"{entry.uri}: the store sent no bytes from {first} on")
        if start + len(got) > stop:
            raise ObjectChanged(f"{entry.uri}: longer than planned")

    def publish(self, uri: str, data: bytes) -> bool:
        """Send one PUT that fails if the key exists; a plain PUT if the store knows no conditions."""
        bucket, key = split_uri(uri)
        put = functools.partial(self.client.put_object, Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        return self._put_if(uri, data, put, ObjectChanged)

    def replace_if_unchanged(self, uri: str, data: bytes, older: Entry) -> bool:
        """Send one PUT that fails if the key holds another version; a plain PUT if the store knows no conditions."""
        bucket, key = split_uri(uri)
        for pin in (f'"{older.etag}"', older.etag):  # with its quotes, and without them as Ceph compares
            put = functools.partial(self.client.put_object, Bucket=bucket, Key=key, Body=data, IfMatch=pin)
            if self._put_if(uri, data, put, (ObjectChanged, ObjectMissing)):
                return True
            try:
                if self.stat(uri).etag != older.etag:
                    return False
            except ObjectMissing:
                return False
        self.replace(uri, data)  # refused although unchanged: this store does not understand the condition
        return True

    def _put_if(self, uri: str, data: bytes, put: Callable[[], object], unmet: _ErrorTypes) -> bool:
        """Send a conditional PUT; False if the store reports by one of these errors that the condition is not met."""
        try:
            call_with_retries(uri, put)
        except unmet:
            return False
        except StoreUnavailable as error:
            if not is_unsupported(error):
                raise
            self.replace(uri, data)
        return True

    def replace(self, uri: str, data: bytes) -> None:
        """Send one PUT, with the content type of the file name."""
        bucket, key = split_uri(uri)
        kind = mimetypes.guess_type(key)[0] or "binary/octet-stream"
        call_with_retries(uri, lambda: self.client.put_object(Bucket=bucket, Key=key, Body=data, ContentType=kind))

    def sweep(self, folder: str) -> None:
        """Do nothing: an object is there whole or not at all."""

    def prune(self, folder: str) -> None:
        """Do nothing: there are no directories."""

    def delete(self, uri: str) -> None:
        """Remove an object."""
        bucket, key = split_uri(uri)
        call_with_retries(uri, lambda: self.client.delete_object(Bucket=bucket, Key=key))
