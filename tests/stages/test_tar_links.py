"""Hard links in a tar are read as the member that they name, wherever reading begins."""

from __future__ import annotations

import tarfile
import tracemalloc

import pytest
from byte_streams import Stream, reopener
from conftest import truth_of
from fuzz.damage import sealed
from fuzz.properties import read_shard, shard_is_accounted_for
from fuzz.seeds import END, PACKERS, member, pax_sparse, pax_sparse_content
from servers import both_servers

from pipeline.records import Cursor, Omitted, Reason, Sample, Unit, UnitKind
from pipeline.stages import tar_links
from pipeline.stages.read import UnitReader
from pipeline.stages.tar import BLOCK_BYTES, Member, TarReader
from pipeline.storage import s3_stream

PACK = [bytes, *PACKERS]
NOT_FOUND = "which is not among the members before it"


def link(name: str, target: str, fmt: int = tarfile.GNU_FORMAT) -> bytes:
    return member(name, fmt=fmt, kind=tarfile.LNKTYPE, link=target)


def images(data: bytes, pack=bytes) -> dict[str, bytes | None]:
    return {item.key: item.image for item in shard_is_accounted_for(pack(data + END))}


@pytest.mark.parametrize("pack", PACK)
def test_a_link_has_the_content_of_the_member_before_it(pack):
    data = member("a.jpg", b"a") + member("b.jpg", b"b") + link("c.jpg", "a.jpg") + link("d.jpg", "b.jpg")
    assert images(data, pack) == {"a": b"a", "b": b"b", "c": b"a", "d": b"b"}


@pytest.mark.parametrize("pack", PACK)
@pytest.mark.parametrize("target", ["./d/a.jpg", "/d/a.jpg", "d//a.jpg", "d/./a.jpg"])
def test_names_are_compared_as_paths(pack, target):
    assert images(member("d/a.jpg", b"a") + link("b.jpg", target), pack) == {"d/a": b"a", "b": b"a"}


@pytest.mark.parametrize("pack", PACK)
def test_a_link_to_a_link_and_to_a_sparse_file(pack):
    data = pax_sparse("a.jpg", b"a") + link("b.jpg", "a.jpg") + link("c.jpg", "b.jpg")
    assert images(data, pack) == dict.fromkeys("abc", pax_sparse_content(b"a"))


@pytest.mark.parametrize("pack", PACK)
def test_the_latest_member_of_a_name_counts(pack):
    data = member("a.jpg", b"1") + link("b.jpg", "a.jpg") + member("a.jpg", b"2") + link("c.jpg", "a.jpg")
    items = shard_is_accounted_for(pack(data + END))
    assert [item.image for item in items if isinstance(item, Sample)] == [b"1", b"1", b"2", b"2"]
    assert [item.repeated_keys for item in items if isinstance(item, Omitted)] == [1]


@pytest.mark.parametrize("pack", PACK)
@pytest.mark.parametrize("target", ["z.jpg", "none.jpg", "b.jpg", "soft.jpg", "d"])
def test_a_link_to_what_does_not_come_before_it_says_so(pack, target):
    data = member("soft.jpg", kind=tarfile.SYMTYPE) + member("d", kind=tarfile.DIRTYPE)
    data += link("b.jpg", target) + member("z.jpg", b"z")
    items = shard_is_accounted_for(pack(data + END))
    (sample,) = (item for item in items if item.key == "b")
    assert (sample.image, sample.reason) == (None, Reason.NO_IMAGE)
    assert sample.message == f"b.jpg is a hard link to {target}, {NOT_FOUND}"


@pytest.mark.parametrize("pack", PACK)
def test_names_longer_than_a_header_are_found(pack):
    long_name = "d/" * 150 + "ü.jpg"
    for fmt in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        data = member(long_name, b"a", fmt) + link("b.jpg", long_name, fmt)
        assert images(data, pack)["b"] == b"a"


def test_links_of_other_fields_too():
    data = member("a.jpg", b"a") + member("a.cls", b"7") + member("a.json", b"{}")
    data += b"".join(link(f"b.{field}", f"a.{field}") for field in ("jpg", "cls", "json"))
    items = shard_is_accounted_for(data + END)
    assert [(item.image, truth_of(item), item.kept) for item in items] == [(b"a", 7, {"json": "{}"})] * 2


def test_a_link_that_repeats_the_content_is_read_where_it_lies():
    """As POSIX allows since 2001; other writers repeat the size and store nothing."""
    for fmt in (tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT):
        empty = link("b.jpg", "a.jpg", fmt)
        with_size = sealed(empty[:124] + b"%011o\0" % 700 + empty[136:BLOCK_BYTES])
        first, last = member("a.jpg", b"a" * 700, fmt), member("c.jpg", b"c", fmt)
        wanted = {"a": b"a" * 700, "b": b"a" * 700, "c": b"c"}
        assert images(first + with_size + (b"a" * 700).ljust(1024, b"\0") + last) == wanted
        assert images(first + with_size + last) == wanted
        assert images(first + with_size) == {"a": b"a" * 700, "b": b"a" * 700}


@pytest.mark.parametrize("pack", PACK)
def test_a_link_behind_damage(pack):
    damaged = b"\xff" * BLOCK_BYTES + member("x.jpg", b"x" * 600)[BLOCK_BYTES:]
    data = member("a.jpg", b"a") + damaged + member("b.jpg", b"b") + link("c.jpg", "a.jpg") + link("d.jpg", "x.jpg")
    items = [item for item in shard_is_accounted_for(pack(data + END)) if hasattr(item, "key")]
    assert {item.key: item.image for item in items} == {"a": b"a", "b": b"b", "c": b"a", "d": None}


def test_a_shard_without_links_is_opened_once():
    opened = []
    data = b"".join(member(f"{number}.jpg", b"x") for number in range(20)) + END

    def reopen(start: int, stop: int | None) -> Stream:
        opened.append(start)
        return reopener(data)(start, stop)

    assert len(list(TarReader(Stream(data), reopen=reopen))) == 20
    assert opened == []


def test_a_listing_reads_nothing_again():
    data = member("a.jpg", b"a") + link("b.jpg", "a.jpg") + END
    listed, _ = read_shard(data, payloads=False)
    assert [item.key for item in listed] == ["a", "b"]


@pytest.mark.parametrize("pack", PACK)
def test_the_index_is_bounded_and_forgets_the_oldest_wherever_reading_begins(monkeypatch, pack):
    monkeypatch.setattr(tar_links, "_MAX_NAMES", 3)
    data = b"".join(member(f"{number}.jpg", b"%d" % number) for number in range(5))
    data += link("x.jpg", "0.jpg") + link("y.jpg", "4.jpg")
    found = images(data, pack)
    assert (found["x"], found["y"]) == (None, b"4")


@pytest.mark.parametrize("pack", PACKERS)
def test_what_is_held_of_a_compressed_shard_is_bounded(monkeypatch, pack):
    monkeypatch.setattr(tar_links, "_MAX_HELD_BYTES", 2500)
    data = b"".join(member(f"{number}.jpg", b"%d" % number * 1000) for number in range(4))
    data += b"".join(link(f"{name}.jpg", f"{number}.jpg") for name, number in zip("wxyz", (3, 1, 0, 3), strict=True))
    items, _ = read_shard(pack(data + END))
    assert [item.image for item in items[4:]] == [b"3" * 1000, b"1" * 1000, None, b"3" * 1000]
    assert items[6].message == "y.jpg is a hard link to 0.jpg, " + tar_links.NOT_HELD
    for item in items[4:]:
        assert (
            read_shard(pack(data + END), Cursor(1, item.index, item.offset, compressed=True))[0] == items[item.index :]
        )


def test_a_plain_shard_takes_memory_for_one_image_at_a_time():
    data = b"".join(member(f"{number}.jpg", bytes([number]) * 300_000) for number in range(20))
    data += b"".join(link(f"x{number}.jpg", f"{number}.jpg") for number in range(20)) + END
    tracemalloc.start()
    tar = TarReader(Stream(data), reopen=reopener(data))
    sizes = [len(tar.payload()) for item in tar if isinstance(item, Member)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sizes == [300_000] * 40
    assert peak < 10 * len(data), "streams of the test hold the data"


@both_servers
def test_on_s3_no_more_is_requested_again_than_the_target(s3, fault_proxy, monkeypatch):
    monkeypatch.setattr(s3_stream, "RANGE_BYTES", 4096)
    monkeypatch.setattr(s3_stream, "RANGES_IN_FLIGHT", 20)
    data = b"".join(member(f"{number}.jpg", bytes([number]) * 30_000) for number in range(8))
    data += link("x.jpg", "2.jpg") + link("y.jpg", "0.jpg") + END
    bucket = s3.bucket()
    s3.put(bucket, "a.tar", data)
    storage = s3.storage(s3_endpoint=fault_proxy.endpoint)
    entry = storage.stat(f"s3://{bucket}/a.tar")
    unit = Unit("0" * 16, UnitKind.TAR, entry.uri, entry.size_bytes, entry.etag)
    samples = list(UnitReader(unit, storage))
    assert [sample.image[0] for sample in samples] == [*range(8), 2, 0]
    num_requests = sum(request.method == "GET" for request in fault_proxy.requests)
    walk, target = -(-len(data) // 4096), -(-(30_720 + BLOCK_BYTES) // 4096)
    end = (32 << 10) // 4096  # where it is seen whether members lie apart
    assert num_requests <= 2 * walk + end + 2 * target, "something is read ahead of what the links name"


def test_a_member_says_where_its_content_is_stored():
    first, last = member("a.jpg", b"a" * 600), member("b.jpg", b"b")
    data = first + pax_sparse("s.jpg", b"s") + link("l.jpg", "a.jpg") + last + END
    members = [item for item in TarReader(Stream(data), reopen=reopener(data)) if isinstance(item, Member)]
    assert [data[item.data_offset :][: item.stored_bytes] for item in members][::3] == [b"a" * 600, b"b"]
    assert [data[item.offset : item.stop] for item in members][::3] == [first, last]
