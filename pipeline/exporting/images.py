"""The images of a part, read again from where they were labelled, each checked against the hash that was noted.

What counts is the hash: a shard that was copied or touched since is as good as before. An image whose bytes are not
what was labelled is left out and said; so is one that is gone. A part of which no image is left as it was is no
damage to single images, but a place that is gone or was written anew: that is an error.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum

from pipeline.errors import ObjectChanged, ObjectMissing
from pipeline.records import Cursor, Sample, Unit, UnitKind
from pipeline.stages.read import UnitReader, slice_entries
from pipeline.storage import Entry, Storage

_LOOSE_IN_FLIGHT = {"s3": 32, "file": 4}


class Omission(StrEnum):
    """Why a selected image is not exported."""

    CHANGED = "changed"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Wanted:
    """An image to be read.

    Attributes:
        key: As noted.
        sha256: Of its bytes when it was labelled, hex.
    """

    key: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image as it was labelled.

    Attributes:
        index: Position in its shard or slice.
        name: Of the member or file that holds it, extension included.
        data: Its bytes.
    """

    index: int
    name: str
    data: bytes


def read_images(
    unit: Unit, storage: Storage, cursor: Cursor, wanted: Mapping[int, Wanted]
) -> Iterator[Image | tuple[int, Omission]]:
    """Read some images of a unit, ascending by index; for those that cannot be had, why.

    Args:
        unit: What they are in.
        storage: How to reach it.
        cursor: Where the part starts that they are in.
        wanted: The images, by index.

    Raises while iterating:
        StorageError: The unit cannot be read; or none of these images is there as it was.
    """
    found = _loose(unit, storage, wanted) if unit.kind == UnitKind.SLICE else _packed(unit, storage, cursor, wanted)
    num_good, bad = 0, Omission.MISSING
    for index, name, data in found:
        if data is not None and hashlib.sha256(data).hexdigest() == wanted[index].sha256:
            num_good += 1
            yield Image(index, name, data)
            continue
        bad = Omission.MISSING if data is None else Omission.CHANGED
        yield index, bad
    if wanted and not num_good:
        raise ObjectChanged(
            f"{unit.uri}: none of {len(wanted)} images is there as it was labelled ({bad}); label it again"
        )


def _loose(unit: Unit, storage: Storage, wanted: Mapping[int, Wanted]) -> Iterator[tuple[int, str, bytes | None]]:
    assert unit.keys_uri is not None
    entries = slice_entries(unit, storage.read(unit.keys_uri))
    width = _LOOSE_IN_FLIGHT["s3" if unit.uri.startswith("s3://") else "file"]
    waiting: Iterable[int] = iter(sorted(wanted))
    ahead: deque[tuple[int, Future[bytes | None]]] = deque()
    with ThreadPoolExecutor(width, thread_name_prefix="loose") as pool:
        try:
            for index in waiting:
                ahead.append((index, pool.submit(_fetched, entries[index][1], storage)))
                if len(ahead) >= width:
                    yield _settled(*ahead.popleft(), wanted)
            while ahead:
                yield _settled(*ahead.popleft(), wanted)
        finally:
            for _, future in ahead:
                future.cancel()


def _settled(index: int, future: Future[bytes | None], wanted: Mapping[int, Wanted]) -> tuple[int, str, bytes | None]:
    return index, wanted[index].key, future.result()


def _fetched(entry: Entry, storage: Storage) -> bytes | None:
    """A loose image as it is now; None when it is gone."""
    try:
        try:
            return storage.fetch(entry)
        except ObjectChanged:
            return storage.fetch(storage.stat(entry.uri))
    except ObjectMissing:
        return None


def _packed(
    unit: Unit, storage: Storage, cursor: Cursor, wanted: Mapping[int, Wanted]
) -> Iterator[tuple[int, str, bytes | None]]:
    now = storage.stat(unit.uri)
    if (now.size_bytes, now.etag) != (unit.size_bytes, unit.etag):
        # offsets of another version lead nowhere
        unit, cursor = dataclasses.replace(unit, size_bytes=now.size_bytes, etag=now.etag), Cursor()
    left = sorted(wanted, reverse=True)
    reader = iter(UnitReader(unit, storage, cursor, only=wanted))
    while left and (item := next(reader, None)) is not None:
        if not isinstance(item, Sample):
            continue
        while left and left[-1] < item.index:
            yield left.pop(), "", None
        if left and left[-1] == item.index:
            left.pop()
            yield item.index, item.image_name or item.key, item.image
    for index in reversed(left):
        yield index, "", None
