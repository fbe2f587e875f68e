"""What must hold of any bytes at all: what the fuzzers attack, and what the tests check on every example.

Each property takes bytes from outside and runs what parses them. It raises AssertionError where a promise
is broken, and lets through whatever the parser raises, which is a finding as well: only typed errors may
leave a parser, and the properties catch those.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Iterator
from unittest import mock

from botocore.awsrequest import AWSResponse
from byte_streams import Stream

from pipeline.config.settings import StorageConfig
from pipeline.errors import ImageError, ObjectDamaged, StorageError
from pipeline.models.preprocessing import Geometry, crop
from pipeline.output.ledger import PREDICTIONS, Ledger
from pipeline.records import Cursor, Item, Omitted, Reason, Sample, ShardEvent, Unit, UnitKind
from pipeline.stages.decode import Decoded, decode
from pipeline.stages.limits import MAX_PIXELS
from pipeline.stages.read import UnitReader, slice_entries
from pipeline.stages.tar import BLOCK_BYTES, TarReader
from pipeline.storage import Entry, Storage, s3_retry
from pipeline.storage import s3 as s3_module

KEEP = ("json", "txt")
_CROP = Geometry(40, 32)
_DAMAGE = {Reason.SHARD_CORRUPT, Reason.SHARD_TRUNCATED}
_MAX_RESUMED = 6
_MAX_MESSAGE = 2_000

Items = list[Item]


class OneObject(Storage):
    """A store in memory with one object, whatever it is asked for."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._data = data

    def stat(self, uri: str) -> Entry:
        return Entry(uri, len(self._data), "")

    def open(self, entry: Entry, offset: int = 0) -> Stream:
        stream = Stream(self._data)
        stream.seek(offset)
        return stream

    def read(self, uri: str) -> bytes:
        return self._data


# -- shards --------------------------------------------------------------------------------------------


def read_shard(
    data: bytes, cursor: Cursor | None = None, before: Items = (), *, payloads: bool = True, images: str = "auto"
) -> tuple[Items, bool]:
    """What the reader makes of a shard from a cursor on, and whether the shard is compressed."""
    unit = Unit("0" * 16, UnitKind.TAR, "/shard.tar", len(data))
    reader = UnitReader(unit, OneObject(data), cursor, KEEP, images=images, payloads=payloads)
    reader.note_keys(item.key for item in before if isinstance(item, Sample))
    return list(reader), reader.compressed


def shard_is_accounted_for(data: bytes, images: str = "auto") -> Items:
    """Any bytes are read to an end, every byte of a plain archive is accounted for, and any cursor gives the rest."""
    items, compressed = read_shard(data, images=images)
    samples = [item for item in items if isinstance(item, Sample)]
    assert [sample.index for sample in samples] == list(range(len(samples)))
    places = [sample.start or (sample.offset, 0) for sample in samples]
    assert places == sorted(set(places))
    for item in items:
        _CHECKS[type(item)](item)
    listed, _ = read_shard(data, payloads=False, images=images)
    assert [_outline(item) for item in listed] == [_outline(item) for item in items]
    if not compressed:
        _check_every_byte(data)
    for position in _some([at for at, item in enumerate(items) if isinstance(item, Sample)]):
        sample = items[position]
        offset, skip = sample.start or (sample.offset, 0)
        cursor = Cursor(1, sample.index, offset, compressed, skip)
        before = samples[: sample.index - skip]
        assert read_shard(data, cursor, before, images=images)[0] == items[position:], f"from {sample.index} on"
    return items


def _check_sample(sample: Sample) -> None:
    assert (sample.image is None) == (sample.reason is not None)
    assert sample.image is None or len(sample.image) == sample.num_bytes > 0
    assert sample.cls is None or len(sample.cls) <= 4096
    _check_text(sample.key, *sample.kept.values())
    if sample.reason is not None:
        _check_line(sample.message)


def _check_event(event: ShardEvent) -> None:
    assert event.reason in _DAMAGE
    assert event.offset >= 0
    assert event.num_bytes >= 0
    _check_line(event.message)


def _check_omitted(omitted: Omitted) -> None:
    assert omitted.other_images + omitted.passed_over + omitted.repeated_keys > 0
    assert bool(omitted.repeated_keys_example) == (omitted.repeated_keys > 0)
    assert 0 <= omitted.separate_images <= omitted.other_images
    assert bool(omitted.other_images_example) == (omitted.other_images > 0)
    assert bool(omitted.passed_over_example) == (omitted.passed_over > 0)
    _check_text(omitted.other_images_example, omitted.passed_over_example, omitted.repeated_keys_example)


_CHECKS = {Sample: _check_sample, ShardEvent: _check_event, Omitted: _check_omitted}


def _check_text(*texts: str) -> None:
    """What goes to a column of text can go there."""
    for text in texts:
        text.encode()


def _check_line(text: str) -> None:
    """What is shown to a person and goes to a column of text is one line, and not a long one."""
    _check_text(text)
    assert len(text.splitlines()) == 1
    assert len(text) < _MAX_MESSAGE


def _outline(item: Item) -> object:
    return (item.index, item.key, item.offset, item.start) if isinstance(item, Sample) else item


def _some(positions: list[int]) -> list[int]:
    return positions[:: max(1, len(positions) // _MAX_RESUMED)]


def _check_every_byte(data: bytes) -> None:
    """Each byte belongs to a member, to a stretch that an event names, or to padding or a pax header of no member."""
    walk = TarReader(Stream(data), sniff=False)
    done = 0
    for item in walk:
        if isinstance(item, ShardEvent):
            assert item.offset + item.num_bytes <= len(data)
            start, stop = item.offset, item.offset + item.num_bytes
            if item.reason == Reason.SHARD_TRUNCATED:  # it speaks of all that is left
                return
        else:
            start, stop = item.offset, item.stop
            assert start >= done, "two members share bytes"
        assert _is_padding(data[done:start]), f"nobody speaks of bytes {done} to {start}"
        done = max(done, stop)
    assert _is_padding(data[done:]), f"nobody speaks of what follows byte {done}"


def _is_padding(stretch: bytes) -> bool:
    """Zeros, or global pax headers, which begin a block."""
    return not stretch.strip(b"\0") or b"g" in stretch[156::BLOCK_BYTES]


# -- images --------------------------------------------------------------------------------------------


def image_is_shown_or_refused(data: bytes, fast_to_px: int | None = None) -> Decoded | ImageError:
    """Any bytes give pixels that can be cropped, or a reason."""
    try:
        decoded = decode(data, fast_to_px=fast_to_px)
    except ImageError as error:
        Reason(error.reason)  # a ValueError where it is none
        _check_line(error.message)
        return error
    shape = decoded.pixels_CHW.shape
    assert str(decoded.pixels_CHW.dtype) == "torch.uint8"
    assert len(shape) == 3
    assert shape[0] == 3
    assert 0 < decoded.width * decoded.height <= MAX_PIXELS
    if fast_to_px is None:
        assert sorted(shape[1:]) == sorted((decoded.height, decoded.width))
    assert crop(decoded.pixels_CHW, _CROP).shape == (3, 32, 32)
    return decoded


# -- what the output holds -----------------------------------------------------------------------------


def part_is_read_or_damaged(data: bytes) -> None:
    """Any bytes under a part's name are a part, or are called damaged."""
    ledger = Ledger("/out", OneObject(data))
    try:
        footer = ledger.footer(PREDICTIONS, "part")
    except ObjectDamaged as error:
        _check_text(str(error))
    else:
        numbers = (footer.num_rows, footer.part, footer.first_index, footer.next.index, footer.next.offset)
        assert all(type(number) is int for number in numbers)
        assert footer.next.part == footer.part + 1, "a resumed unit would go round in circles"
    try:
        ledger.read_part(PREDICTIONS, "part")
    except ObjectDamaged as error:
        _check_text(str(error))


def key_list_is_read_or_damaged(data: bytes) -> None:
    """Any bytes in a key list are keys, or are called damaged."""
    unit = Unit("0" * 16, UnitKind.SLICE, "/photos/", 1, "", "/out/plan/keys.parquet")
    try:
        entries = slice_entries(unit, data)
    except ObjectDamaged as error:
        _check_text(str(error))
        return
    for key, entry in entries:
        _check_text(key)
        assert entry.uri.startswith("/photos/")
        assert entry.size_bytes >= 0


# -- answers of a store --------------------------------------------------------------------------------


class AnsweringStore:
    """An S3 store that gives its client one and the same answer whatever it asks, without a network."""

    def __init__(self) -> None:
        self._store = s3_module.S3Store(StorageConfig(s3_endpoint="http://127.0.0.1:9", no_sign_request=True))
        with _without_waiting():
            self._store.client.meta.events.register("before-send.s3", self._answer)
        self._body = b""

    def _answer(self, request, **_: object) -> AWSResponse:
        headers = {"Content-Type": "application/xml", "Content-Length": str(len(self._body))}
        return AWSResponse(request.url, 200, headers, _Body(self._body))

    def listed(self, body: bytes) -> list[Entry]:
        """What a listing gives with this as its answer."""
        self._body = body
        with _without_waiting():
            return list(self._store.list("s3://bucket/p/"))


class _Body(io.BytesIO):
    """The body of an answer, as urllib3 hands it out."""

    def stream(self, *_: object) -> Iterator[bytes]:
        yield self.read()


@contextlib.contextmanager
def _without_waiting() -> Iterator[None]:
    """No waiting between tries."""
    with mock.patch.object(s3_retry, "_BACKOFF_S", 0.0), mock.patch.object(s3_module, "_CLIENT_RETRIES", 0):
        yield


_answering = functools.cache(AnsweringStore)


def listing_is_read_or_refused(body: bytes) -> None:
    """Any answer to LIST gives entries, or one of our errors."""
    try:
        entries = _answering().listed(body)
    except StorageError as error:
        _check_line(str(error))
        return
    for entry in entries:
        assert entry.uri.startswith("s3://bucket/")
        assert type(entry.size_bytes) is int
        assert isinstance(entry.etag, str)
