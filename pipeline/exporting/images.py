"""The images of a part, read again from the input, each checked against its hash in the predictions.

Only the hash counts: a shard that was copied or touched is still valid. An image that is missing or has other bytes is
left out and reported. If no image of the part is as it was, and the shard has another version or nothing else of the
slice is as planned, the input is gone or was replaced: that is an error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum

from pipeline.config.option_types import Images
from pipeline.errors import ObjectChanged, ObjectMissing
from pipeline.inputs.units import held_entries
from pipeline.records import Cursor, Sample, Unit, UnitKind
from pipeline.stages.read import UnitReader, slice_entries
from pipeline.storage import Entry, Storage
from pipeline.text import fmt

_LOOSE_IN_FLIGHT = {"s3": 32, "file": 4}
_MAX_STATS = 32  # loose images that are looked at to find out whether a slice is as planned


class OmissionReason(StrEnum):
    """Why a selected image is not exported."""

    CHANGED = "changed"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class ExpectedImage:
    """An image to read.

    Attributes:
        key: Its key in the predictions.
        sha256: Of its bytes when it was labelled, 64 hex digits.
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
    unit: Unit, storage: Storage, cursor: Cursor, expected: Mapping[int, ExpectedImage], which: Images = "auto"
) -> Generator[Image | tuple[int, OmissionReason], None, None]:
    """Read some images of a unit, ascending by index; yields index and reason for those that cannot be exported.

    Args:
        unit: The unit.
        storage: How to reach it.
        cursor: Start of the part that holds them.
        expected: The images, by index.
        which: Which images of a sample were labelled: the first, or all.

    Raises while iterating:
        StorageError: The unit cannot be read, or was replaced.
    """
    found = (
        _read_loose(unit, storage, expected)
        if unit.kind == UnitKind.SLICE
        else _read_tar(unit, storage, cursor, expected, which)
    )
    num_good, reason = 0, OmissionReason.MISSING
    for index, name, data in found:
        if data is not None and hashlib.sha256(data).hexdigest() == expected[index].sha256:
            num_good += 1
            yield Image(index, name, data)
            continue
        reason = OmissionReason.MISSING if data is None else OmissionReason.CHANGED
        yield index, reason
    if expected and not num_good and not _is_unchanged(unit, storage):
        raise ObjectChanged(
            f"{unit.uri}: of {fmt.plural(len(expected), 'image')} none is there as it was labelled ({reason}); label "
            "it again"
        )


def _is_unchanged(unit: Unit, storage: Storage) -> bool:
    """Whether a shard is the version that was labelled, or any of the first images of a slice is."""
    planned = [Entry(unit.uri, unit.size_bytes, unit.etag)]
    if unit.kind == UnitKind.SLICE:
        planned = [entry for _, entry in held_entries(unit, storage)][:_MAX_STATS]
    for entry in planned:
        with contextlib.suppress(ObjectMissing):
            now = storage.stat(entry.uri)
            if (now.size_bytes, now.etag) == (entry.size_bytes, entry.etag):
                return True
    return False


def _read_loose(
    unit: Unit, storage: Storage, expected: Mapping[int, ExpectedImage]
) -> Iterator[tuple[int, str, bytes | None]]:
    assert unit.keys_uri is not None
    entries = slice_entries(unit, storage.read(unit.keys_uri))
    width = _LOOSE_IN_FLIGHT["s3" if unit.uri.startswith("s3://") else "file"]
    ahead: deque[tuple[int, Future[bytes | None]]] = deque()
    with ThreadPoolExecutor(width, thread_name_prefix="loose") as pool:
        try:
            for index in sorted(expected):
                ahead.append((index, pool.submit(_fetch_current, entries[index][1], storage)))
                if len(ahead) >= width:
                    yield _loose_result(*ahead.popleft(), expected)
            while ahead:
                yield _loose_result(*ahead.popleft(), expected)
        finally:
            for _, future in ahead:
                future.cancel()


def _loose_result(
    index: int, future: Future[bytes | None], expected: Mapping[int, ExpectedImage]
) -> tuple[int, str, bytes | None]:
    return index, expected[index].key, future.result()


def _fetch_current(entry: Entry, storage: Storage) -> bytes | None:
    """A loose image as it is now; None if it is gone."""
    try:
        try:
            return storage.fetch(entry)
        except ObjectChanged:
            return storage.fetch(storage.stat(entry.uri))
    except ObjectMissing:
        return None


def _read_tar(
    unit: Unit, storage: Storage, cursor: Cursor, expected: Mapping[int, ExpectedImage], which: Images
) -> Iterator[tuple[int, str, bytes | None]]:
    now = storage.stat(unit.uri)
    if (now.size_bytes, now.etag) != (unit.size_bytes, unit.etag):
        # the cursor's offset is not valid for another version
        unit = dataclasses.replace(unit, size_bytes=now.size_bytes, etag=now.etag)
        cursor = Cursor(unsorted=cursor.unsorted)
    left = sorted(expected, reverse=True)
    reader = iter(UnitReader(unit, storage, cursor, images=which, only=expected))
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
