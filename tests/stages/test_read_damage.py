"""Real shards, damaged in one place: the rest is read as before, losses are reported, and nothing is invented."""

from __future__ import annotations

import dataclasses
import io
import random
import tarfile
import time
from collections.abc import Iterator

import pytest
from conftest import SAMPLE_DATA, SHARED
from fuzz.damage import KINDS, Damage, damaged, with_tar_checksums
from fuzz.properties import Items, read_shard, shard_is_accounted_for
from fuzz.seeds import END, PACKERS, member, tars

from pipeline.records import Reason, Sample, ShardEvent

SHARD = SAMPLE_DATA / "shard-000.tar"
REAL = [*sorted(SAMPLE_DATA.glob("*.tar")), *sorted((SHARED / "data" / "shards").glob("*.tar"))]
LONGEST = 20_000


def samples_of(items: Items) -> list[Sample]:
    return [item for item in items if isinstance(item, Sample)]


def content(sample: Sample) -> tuple[object, ...]:
    """All of a sample but for where it is."""
    return sample.key, sample.image, sample.cls, tuple(sorted(sample.kept.items())), sample.reason


def looks_whole(data: bytes) -> bool:
    """Whether the damage left a shorter archive that nothing can tell from a good one."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.getmembers()
        return len(data) >= tar.offset + 512 and not data[tar.offset :].strip(b"\0")


def out_of_reach(damage: Damage, ends: list[int], num_bytes: int) -> int:
    """From which offset on samples must be as they were; ``ends`` are those of the samples, in order.

    Where bytes are gone, the member that they are gone from takes as many from those that follow, and
    half a header is no header.
    """
    if damage.kind == "cut":
        return num_bytes
    reach = damage.at + damage.num_bytes
    if damage.kind == "remove":
        reach = next((end for end in ends if end > damage.at), damage.at) + damage.num_bytes + 512
    return next((end for end in ends if end >= reach), num_bytes)


def check(data: bytes, damage: Damage) -> None:
    """Compare what is read of a damaged shard with what was read of it before."""
    originals = samples_of(read_shard(data)[0])
    ends = [sample.offset for sample in originals[1:]] + [len(data)]
    after_damage = damage.done_to(data)
    items = shard_is_accounted_for(after_damage)
    found = samples_of(items)
    untouched = [sample for sample, end in zip(originals, ends, strict=True) if end <= damage.at]
    # a message may say how to sort the shard: what its end looks like is among the damage
    assert [dataclasses.replace(item, message="") for item in items[: len(untouched)]] == [
        dataclasses.replace(sample, message="") for sample in untouched
    ]

    safe = out_of_reach(damage, ends, len(data))
    known, seen = {content(sample) for sample in originals}, {content(sample) for sample in found}
    for sample in originals:
        assert sample.offset < safe or content(sample) in seen, f"{sample.key} is lost, {damage}"
    moved = len(after_damage) - len(data)
    altered = [sample for sample in found if content(sample) not in known]
    assert all(sample.offset < safe + max(0, moved) for sample in altered), f"samples were made up, {damage}"
    if known - seen and not altered and len(items) == len(found):
        assert looks_whole(after_damage), f"samples vanished without a word, {damage}"


def drawn(seed: str, data: bytes, kind: str, times: int) -> Iterator[Damage]:
    rng = random.Random(seed)
    left = times
    while left:
        damage = Damage.drawn(rng, len(data), LONGEST, blocks=rng.random() < 0.5)
        if damage.kind == kind:
            left -= 1
            yield damage


@pytest.mark.parametrize("kind", KINDS)
def test_damage_in_one_place(kind):
    data = SHARD.read_bytes()
    for damage in drawn(kind, data, kind, 20):
        check(data, damage)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_damage_in_one_place_at_length(path, kind):
    data = path.read_bytes()
    for damage in drawn(f"{path.name} {kind}", data, kind, 100):
        check(data, damage)


@pytest.mark.parametrize("pack", [bytes, *PACKERS])
def test_damage_in_several_places(pack):
    """Reading ends, every byte is accounted for, and a resumed unit gets exactly the rest."""
    rng = random.Random(7)
    for data in tars():
        for _ in range(12 if pack is bytes else 3):
            shard_is_accounted_for(pack(damaged(data, rng)))


@pytest.mark.parametrize("pack", PACKERS)
def test_damage_to_a_packed_shard_in_several_places(pack):
    rng = random.Random(8)
    for data in tars():
        packed = pack(data)
        for _ in range(5):
            shard_is_accounted_for(damaged(packed, rng))


def test_damage_with_right_checksums_in_several_places():
    """What an attacker writes: fields, maps of sparse files and targets of links of any kind."""
    rng = random.Random(9)
    for data in tars():
        for _ in range(8):
            shard_is_accounted_for(with_tar_checksums(damaged(data, rng)))


# -- found by attack -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["/" * 1_000_000, "d/" * 500_000 + "a.jpg", "a" * 1_000_000 + ".jpg"])
@pytest.mark.parametrize("fmt", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_name_that_no_path_can_have_is_damage(name, fmt):
    """Such names would fill the memory, and splitting the first one at its dot took webdataset's expression hours."""
    items = shard_is_accounted_for(member(name, b"1", fmt) + member("b.jpg", b"2") + END)
    assert [item.reason if isinstance(item, ShardEvent) else item.key for item in items] == [Reason.SHARD_CORRUPT, "b"]


def test_names_are_split_in_time_that_grows_with_them():
    slashes = "/" * 4_000
    begun = time.monotonic()
    items, _ = read_shard(b"".join(member(slashes + str(number), b"\xff\xd8\xff") for number in range(1_000)) + END)
    assert len(samples_of(items)) == 1_000
    assert time.monotonic() - begun < 10


def test_a_sample_of_very_many_fields_takes_time_that_grows_with_them():
    blocks = b"".join(member(f"a.{number}", fmt=tarfile.USTAR_FORMAT) for number in range(60_000))
    begun = time.monotonic()
    (sample,), _ = read_shard(blocks + member("a.jpg", b"1") + END)
    assert sample.image == b"1"
    assert time.monotonic() - begun < 20


def test_a_sample_of_long_fields_has_a_short_message():
    blocks = b"".join(member(f"a.{number}{'x' * 3000}", fmt=tarfile.GNU_FORMAT) for number in range(20))
    (sample,), _ = read_shard(blocks + END)
    assert sample.reason == Reason.NO_IMAGE
    assert len(sample.message) < 1_000
