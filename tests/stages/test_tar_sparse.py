"""Sparse files in a tar are read as the files that they stand for; damaged maps and bombs are reasons."""

from __future__ import annotations

import tarfile
import tracemalloc

import pytest
from byte_streams import Stream
from conftest import truth_of
from fuzz.damage import sealed
from fuzz.properties import read_shard, shard_is_accounted_for
from fuzz.seeds import END, member, old_sparse, old_sparse_content, pax_sparse, pax_sparse_content

from pipeline.records import Reason, ShardEvent
from pipeline.stages.read import MAX_IMAGE_BYTES
from pipeline.stages.tar import BLOCK_BYTES, TarReader

NEXT = member("b.jpg", b"b")


def pax_records(**values: str) -> bytes:
    lines = b""
    for name, value in values.items():
        text = b"%s=%s\n" % (name.replace("_", ".").encode(), value.encode())
        length = len(text) + 2
        length += len(str(length)) - 1
        lines += b"%d %s" % (len(str(length)) + 1 + len(text), text)
    return member("pax", lines, kind=tarfile.XHDTYPE)


def in_pax(stored: bytes, **values: str) -> bytes:
    """A sparse file of version 0.1, unless the values say otherwise."""
    return pax_records(**{f"GNU_sparse_{name}": value for name, value in values.items()}) + member("x.jpg", stored)


def only_read(data: bytes):
    """The first of two samples; what comes behind it must be there."""
    items = shard_is_accounted_for(data + NEXT + END)
    assert [item for item in items if isinstance(item, ShardEvent)] == []
    assert items[-1].image == b"b"
    assert len(items) == 2
    return items[0]


@pytest.mark.parametrize("num_more_headers", [0, 1, 3])
def test_the_old_format(num_more_headers):
    sample = only_read(old_sparse("x.jpg", b"data" * 200, num_more_headers))
    assert sample.image == old_sparse_content(b"data" * 200)
    assert sample.num_bytes == len(sample.image)


def test_version_1_0():
    sample = only_read(pax_sparse("x.jpg", b"data" * 200))
    assert sample.image == pax_sparse_content(b"data" * 200)
    assert sample.key == "x"


def test_version_0_1():
    assert only_read(in_pax(b"abcd", map="2,3,9,1", size="12")).image == b"\0\0abc\0\0\0\0d\0\0"
    assert only_read(in_pax(b"abcd", map="0002,3,009,1,12,0", size="0012")).image == b"\0\0abc\0\0\0\0d\0\0"


def test_a_map_longer_than_a_block():
    numbers = [(1000 * number, 10) for number in range(400)]
    text = "".join(f"{number}\n" for number in (len(numbers), *(number for pair in numbers for number in pair)))
    content = text.encode() + bytes(-len(text) % BLOCK_BYTES) + b"0123456789" * 400
    image = only_read(in_pax(content, major="1", minor="0", realsize="400000")).image
    assert image == (b"0123456789" + bytes(990)) * 400


def test_a_file_of_holes_alone():
    assert only_read(in_pax(b"", map="", size="700")).image == bytes(700)
    assert only_read(in_pax(b"1\n700\n0\n".ljust(512, b"\0"), major="1", realsize="700")).image == bytes(700)


@pytest.mark.parametrize(
    "values",
    [
        {"map": "2,3,4,1", "size": "12"},  # overlapping
        {"map": "2,3", "size": "12"},  # less than is stored
        {"map": "2,9", "size": "20"},  # more
        {"map": "2,3,9,1", "size": "9"},  # beyond the end
        {"map": "2,3,9", "size": "12"},
        {"map": "2,x,9,1", "size": "12"},
        {"map": "-2,3,9,1", "size": "12"},
        {"map": "2,3,9,1", "size": "twelve"},
        {"map": "2,3,9,1", "size": "9" * 30},
        {"map": "2,3,9,1", "major": "2"},
        {"major": "1", "realsize": "12"},  # no map
    ],
)
def test_a_map_that_does_not_fit_is_a_reason(values):
    sample = only_read(in_pax(b"abcd", **values))
    assert sample.image is None
    assert sample.reason == Reason.NO_IMAGE
    assert sample.message == "x.jpg is a sparse file, whose map is damaged"


@pytest.mark.parametrize(
    "text", [b"", b"1\n", b"1\n0\n", b"x\n0\n4\n", b"1\n0\n5\n", b"99999999\n0\n4\n", b"2\n0\n4\n", b"\n" * 512]
)
def test_a_map_before_the_bytes_that_does_not_fit_is_a_reason(text):
    sample = only_read(in_pax(text.ljust(BLOCK_BYTES, b"\0") + b"abcd", major="1", minor="0", realsize="12"))
    assert sample.message == "x.jpg is a sparse file, whose map is damaged"


@pytest.mark.parametrize("field", [(386, b"text"), (398, b"99999999999"), (483, b"1"), (483, b"text")])
def test_a_map_in_the_old_header_that_does_not_fit_is_a_reason(field):
    at, text = field
    whole = old_sparse("x.jpg", b"data" * 200, 2)
    block = whole[:at] + text.ljust(12, b"\0") + whole[at + 12 : BLOCK_BYTES]
    sample = only_read(sealed(block) + whole[BLOCK_BYTES:])
    assert sample.message == "x.jpg is a sparse file, whose map is damaged"


@pytest.mark.parametrize("size", [MAX_IMAGE_BYTES + 1, 1 << 40, 1 << 50])
def test_a_sparse_bomb_is_too_large_and_takes_no_memory(size):
    bomb = in_pax(b"abcd", map="0,4", size=str(size))
    tracemalloc.start()
    sample = only_read(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (sample.reason, sample.num_bytes) == (Reason.TOO_LARGE, size)
    assert peak < 10 << 20


def test_a_field_that_is_a_sparse_bomb_is_not_read():
    bomb = pax_records(GNU_sparse_map="0,1", GNU_sparse_size=str(1 << 33)) + member("a.cls", b"7")
    items, _ = read_shard(member("a.jpg", b"a") + bomb + NEXT + END)
    assert [(item.image, truth_of(item)) for item in items] == [(b"a", None), (b"b", None)]
    reader = TarReader(Stream(bomb + END))
    next(iter(reader))
    assert reader.payload() is None, "no caller gets a bomb"


@pytest.mark.parametrize("written", [old_sparse("x.jpg", b"d" * 900, 2), pax_sparse("x.jpg", b"d" * 900)])
def test_a_shard_cut_off_anywhere_in_a_sparse_file_is_truncated(written):
    first = member("a.jpg", b"a")
    whole = only_read(written).image
    for cut in range(1, len(written), 100):
        items = shard_is_accounted_for(first + written[:cut])
        assert items[0].image == b"a"
        assert items[-1].reason == Reason.SHARD_TRUNCATED, cut
        assert all(item.image in {None, whole} for item in items[1:-1])


def test_many_segments_take_time_that_grows_with_them():
    numbers = ",".join(f"{2 * number},1" for number in range(60_000))
    records = pax_records(GNU_sparse_map=numbers, GNU_sparse_size="120000")
    assert only_read(records + member("x.jpg", b"z" * 60_000)).image == b"z\0" * 60_000
