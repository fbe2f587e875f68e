"""Compressed shards: every kind, whole, in pieces, cut, damaged, and as bombs."""

from __future__ import annotations

import lzma
import random
import struct

import pytest
from byte_streams import Stream
from fuzz.properties import read_shard, shard_is_accounted_for
from fuzz.seeds import END, PACKERS, member, zstd

from pipeline.inputs.listings import is_tar_name
from pipeline.records import Reason, Sample, ShardEvent
from pipeline.stages import compression
from pipeline.stages.tar import TarReader

MEMBERS = [(f"{number:03d}.jpg", random.Random(number).randbytes(3000)) for number in range(60)]
PLAIN = b"".join(member(name, data) for name, data in MEMBERS) + END
NAMES = ("gzip", "bzip2", "xz", "zstd")
EACH = pytest.mark.parametrize("pack", PACKERS, ids=NAMES)


def read(data: bytes) -> tuple[list[tuple[str, bytes | None]], list[ShardEvent]]:
    items, _ = read_shard(data)
    samples = [(f"{item.key}.jpg", item.image) for item in items if isinstance(item, Sample)]
    return samples, [item for item in items if isinstance(item, ShardEvent)]


@EACH
@pytest.mark.parametrize("tail", [b"", bytes(1), bytes(3000), bytes(2 << 20)])
def test_a_shard_of_one_stream_padded_or_not(pack, tail):
    assert read(pack(PLAIN) + tail) == (MEMBERS, [])


@EACH
@pytest.mark.parametrize("between", [0, 4, 37, 512])
def test_a_shard_of_several_streams(pack, between):
    pieces = [PLAIN[:1000], b"", PLAIN[1000:5000], PLAIN[5000:]]
    assert read(bytes(between).join(map(pack, pieces))) == (MEMBERS, [])


@EACH
def test_a_cursor_leads_back_to_any_sample(pack):
    assert len(shard_is_accounted_for(pack(PLAIN))) == len(MEMBERS)


@EACH
def test_very_many_streams_take_time_that_grows_with_them(pack):
    streams = pack(b"") * 3000
    assert read(streams + pack(PLAIN[:5000]) + streams + pack(PLAIN[5000:]) + streams) == (MEMBERS, [])


def test_skippable_frames_of_zstd():
    skipped = struct.pack("<II", 0x184D2A5E, 5) + b"index"
    packed = skipped + zstd.compress(PLAIN[:5000]) + skipped * 2 + zstd.compress(PLAIN[5000:]) + skipped
    assert read(packed) == (MEMBERS, [])


@EACH
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.9999])
def test_a_stream_that_is_cut_off(pack, share):
    pieces = [pack(PLAIN[at : at + 20_000]) for at in range(0, len(PLAIN), 20_000)]
    packed = b"".join(pieces)
    samples, events = read(packed[: int(len(packed) * share)])
    whole = [sample for sample in samples if sample[1] is not None]
    assert whole == MEMBERS[: len(whole)]
    assert len(whole) >= int(len(MEMBERS) * share) - 8
    assert [event.reason for event in events] == [Reason.SHARD_TRUNCATED]
    assert "stream is cut off" in events[0].message or "no end-of-archive marker" in events[0].message


@EACH
def test_a_stream_of_a_few_bytes(pack):
    packed = pack(PLAIN)
    for size in range(1, 13):
        samples, events = read(packed[:size])
        assert samples == []
        assert len(events) == 1, size


@EACH
def test_damage_in_the_middle_keeps_what_came_before(pack):
    packed = [pack(PLAIN[:60_000]), pack(PLAIN[60_000:120_000]), pack(PLAIN[120_000:])]
    middle = len(packed[1]) // 2
    packed[1] = packed[1][:middle] + packed[1][middle + 40 :]
    samples, events = read(b"".join(packed))
    assert samples[:15] == MEMBERS[:15]
    assert [event.reason for event in events] == [Reason.SHARD_CORRUPT]
    assert "stream is damaged" in events[0].message


@EACH
def test_a_wrong_checksum_is_an_event(pack):
    if pack is zstd.compress:
        packed = bytearray(zstd.compress(PLAIN, options={zstd.CompressionParameter.checksum_flag: 1}))
        packed[-1] ^= 255
    else:
        packed = bytearray(pack(PLAIN))
        packed[-6 if pack is not lzma.compress else -20] ^= 255
    _, events = read(bytes(packed))
    assert [event.reason for event in events] == [Reason.SHARD_CORRUPT]


@EACH
@pytest.mark.parametrize("other", [b"garbage", b"\xff" * 5000])
def test_something_else_behind_a_stream(pack, other):
    samples, events = read(pack(PLAIN) + other)
    assert samples == MEMBERS
    assert [event.reason for event in events] == [Reason.SHARD_CORRUPT]
    assert "followed by something" in events[0].message


@EACH
def test_another_compression_behind_a_stream_is_not_mistaken(pack):
    other = PACKERS[PACKERS.index(pack) - 1]
    samples, events = read(pack(PLAIN[:60_000]) + other(PLAIN[60_000:]))
    assert samples[:15] == MEMBERS[:15]
    assert [event.reason for event in events] == [Reason.SHARD_CORRUPT]


@EACH
def test_a_shard_that_inflates_a_thousandfold_is_read(pack):
    big = member("a.jpg", bytes(5 << 20)) + member("b.jpg", b"b") + END
    assert read(pack(big)) == ([("a.jpg", bytes(5 << 20)), ("b.jpg", b"b")], [])


@pytest.mark.parametrize("pack", [lzma.compress, zstd.compress])
def test_a_bomb_ends_at_a_limit(monkeypatch, pack):
    monkeypatch.setattr(compression, "_MIN_BYTES_JUDGED", 1 << 20)
    monkeypatch.setattr(compression, "_MAX_RATIO", 100)
    samples, events = read(pack(member("a.jpg", b"a") + bytes(8 << 20)))
    assert samples == [("a.jpg", b"a")]
    assert [(event.reason, "100 times, which is the limit" in event.message) for event in events] == [
        (Reason.SHARD_CORRUPT, True)
    ]


def test_gzip_cannot_reach_the_limit_of_a_bomb():
    """Deflate's own limit is 1,032 times: what was read before is read still."""
    assert compression._MAX_RATIO > 1032


def test_a_stream_that_wants_more_memory_than_the_limit_is_a_reason(monkeypatch):
    monkeypatch.setattr(compression, "_MAX_MEMORY_BYTES", 1 << 20)
    samples, (event,) = read(lzma.compress(PLAIN))
    assert samples == []
    assert event.reason == Reason.SHARD_CORRUPT
    assert "of memory to be inflated, which is the limit" in event.message


def test_a_zstd_stream_that_needs_a_dictionary_is_a_reason():
    texts = [b"%d,%d" % (number, number * number) * 20 for number in range(2000)]
    dictionary = zstd.train_dict(texts, 2048)
    samples, (event,) = read(zstd.compress(PLAIN, zstd_dict=dictionary))
    assert samples == []
    assert event.message == "the zstd stream needs a dictionary, and dictionaries are not supported"


@pytest.mark.parametrize("name", ["BZh91AY&SY.jpg", "LZIP.jpg", "(µ/ý.jpg", "PK\x03\x04.jpg"])
def test_a_tar_whose_first_name_looks_like_a_compression_is_a_tar(name):
    data = member(name, b"a") + END
    (item,) = TarReader(Stream(data))
    assert item.name == name
    latin = bytearray(data)
    assert read_shard(bytes(latin))[1] is False


@pytest.mark.parametrize(
    "suffix", ".tar .TAR .tar.gz .tgz .tar.bz2 .tbz2 .tbz .tar.xz .txz .tar.zst .tzst .Tar.Zst".split()
)
def test_names_of_shards(suffix):
    assert is_tar_name(f"/data/shard-000{suffix}")
    assert not is_tar_name(f"/data/shard-000{suffix}.json")


@pytest.mark.parametrize("suffix", [".tar.lz4", ".zip", ".gz", ".zst", ".xz", ".7z"])
def test_names_of_no_shards(suffix):
    assert not is_tar_name(f"/data/shard-000{suffix}")
