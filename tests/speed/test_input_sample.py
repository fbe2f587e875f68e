"""Counting inputs, exactly and from a sample: the error bars must cover the truth."""

from __future__ import annotations

import random

import pytest
from conftest import jpeg, make_tar, sample_members

from pipeline.errors import InputError
from pipeline.inputs.find import find_inputs
from pipeline.records import Sample
from pipeline.speed.input_sample import Cluster, count_loose, count_tars, draw_sample, estimate
from pipeline.stages.read import UnitReader
from pipeline.storage import Storage

STORAGE = Storage()
NO_TIME = -1.0


def tars_of(path):
    return list(find_inputs([str(path)], STORAGE).tars.values())


def sample_of(path, max_images=64, max_bytes=1 << 20, storage=STORAGE):
    inputs = find_inputs([str(path)], storage)
    return draw_sample(list(inputs.tars.values()), count_loose(inputs, max_images), storage, max_images, max_bytes)


def test_local_shards_are_counted(tmp_path):
    for number in range(5):
        make_tar(tmp_path / f"{number}.tar", sample_members(number + 1))
    counted = count_tars(tars_of(tmp_path), (), STORAGE, 30.0)
    assert counted.exact
    assert counted.images == 15


def test_the_error_of_an_estimate_covers_the_truth(tmp_path):
    rng = random.Random(7)
    truth = 0
    for number in range(24):
        count = rng.randrange(3, 40)
        pad = rng.randrange(0, 20_000)
        members = [(name, data + bytes(pad if name.endswith("jpg") else 0)) for name, data in sample_members(count)]
        make_tar(tmp_path / f"{number:02d}.tar", members)
        truth += count
    drawn = sample_of(tmp_path)
    estimated = count_tars(tars_of(tmp_path), drawn.clusters, STORAGE, NO_TIME)
    assert not estimated.exact
    assert 0 < estimated.standard_error < truth
    assert abs(estimated.images - truth) <= 3 * estimated.standard_error


@pytest.mark.parametrize("seed", range(5))
def test_most_samples_of_known_shards_are_within_two_errors(seed):
    rng = random.Random(seed)
    shards = [Cluster(n, n * rng.randrange(80, 120)) for n in (rng.randrange(50, 150) for _ in range(400))]
    truth = sum(shard.num_samples for shard in shards)
    num_bytes = sum(shard.num_bytes for shard in shards)
    within = 0
    for _ in range(200):
        found = estimate(rng.sample(shards, 20), num_bytes, len(shards))
        within += abs(found.images - truth) <= 2 * found.standard_error
    assert within >= 170  # 95 % for a normal estimate; of 20 shards a little less


def test_what_was_read_to_its_end_is_exact():
    assert estimate([Cluster(10, 100), Cluster(20, 150)], 250, 2).exact
    assert estimate([], 0, 0).images == 0


def test_one_shard_has_no_standard_error():
    found = estimate([Cluster(10, 1000)], 100_000, 1)
    assert (found.images, found.standard_error, found.exact) == (1000, None, False)
    assert found.plus(5).images == 1005


def test_equal_shards_still_have_an_error():
    assert estimate([Cluster(10, 100)] * 4, 10_000, 100).standard_error >= 1


def test_loose_images_are_counted_and_drawn_from_everywhere(tmp_path):
    for number in range(300):
        (tmp_path / f"{number:03d}.jpg").write_bytes(jpeg(number % 7))
    inputs = find_inputs([str(tmp_path)], STORAGE)
    count = count_loose(inputs, 40)
    assert (count.num_images, count.num_slices) == (300, 1)
    assert count.num_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    ((_, some),) = count.entries
    assert len(some) == len({entry.uri for entry in some}) == 40
    assert some == sorted(some, key=lambda entry: entry.uri)
    assert some[-1].uri > f"{tmp_path}/200"
    drawn = draw_sample([], count, STORAGE, 20, 1 << 20)
    assert len(drawn.images) == 20


def test_a_draw_is_bounded_and_its_units_hold_what_was_drawn(tmp_path):
    for number in range(12):
        make_tar(tmp_path / f"{number:02d}.tar", sample_members(50, start=50 * number))
    drawn = sample_of(tmp_path, max_images=160)
    assert len(drawn.tars) == 8
    assert len(drawn.images) == 160
    units = drawn.units(64, 4, str(tmp_path / "scratch"), STORAGE)
    read = [item for unit in units for item in UnitReader(unit, STORAGE) if isinstance(item, Sample)]
    assert len(read) == 64
    assert {item.image for item in read} <= set(drawn.images)
    few = sample_of(tmp_path, max_images=1000, max_bytes=20_000)
    assert sum(len(image) for image in few.images) < 20_000 + 8 * max(len(image) for image in few.images)


def test_units_of_loose_images_hold_some_of_those_drawn(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number:03d}.jpg").write_bytes(jpeg(number))
    drawn = sample_of(folder, max_images=20)
    units = drawn.units(8, 4, str(tmp_path / "scratch"), STORAGE)
    read = [item.image for unit in units for item in UnitReader(unit, STORAGE)]
    assert len(read) == 8
    assert set(read) <= set(drawn.images)
    assert sorted(path.name for path in folder.iterdir()) == [f"{number:03d}.jpg" for number in range(30)]


def test_shards_on_s3_are_estimated_from_their_beginnings(s3, tmp_path):
    bucket = s3.bucket()
    truth = 0
    for number in range(12):
        count = 20 + 3 * number
        shard = make_tar(tmp_path / f"{number:02d}.tar", sample_members(count))
        s3.put(bucket, f"in/{shard.name}", shard.read_bytes())
        truth += count
    storage = s3.storage()
    drawn = sample_of(f"s3://{bucket}/in/", max_images=80, storage=storage)
    tars = list(find_inputs([f"s3://{bucket}/in/"], storage).tars.values())
    found = count_tars(tars, drawn.clusters, storage, 30.0)
    assert not found.exact
    assert abs(found.images - truth) / truth < 0.1


def test_inputs_without_an_image_are_a_wrong_request(tmp_path):
    make_tar(tmp_path / "a.tar", [("a.txt", b"words")])
    with pytest.raises(InputError, match="no image could be read"):
        sample_of(tmp_path)
