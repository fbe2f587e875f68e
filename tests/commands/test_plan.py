"""Plan: counts are exact, times follow from rates, and nothing is written."""

from __future__ import annotations

import dataclasses
import json

import pytest
from conftest import jpeg, make_tar, sample_members
from made_up_rates import on_cpu

from pipeline import label, plan, status
from pipeline.cli.speed_tables import print_plan
from pipeline.commands.plan import estimate_job
from pipeline.errors import InputError, RequestError, WeightsError

QUICK = {"seconds": 0.2, "batch_size": 4, "decode_threads": 2, "device": "cpu"}


@pytest.fixture(autouse=True)
def _short_rounds(monkeypatch):
    monkeypatch.setattr("pipeline.speed.measure._LEAST_S", 0.1)


def words(sample_data, **more) -> dict:
    found = {
        "model": "shufflenet_v2_x0_5",
        "weights_dir": str(sample_data / "weights"),
        "labels": str(sample_data / "classes.txt"),
    }
    return found | more


def test_time_cost_and_size_follow_from_the_rates():
    time = estimate_job(on_cpu(job=40.0), 1_000_000, units=100, rows_per_part=10_000, workers=64, price_per_hour=3.0)
    assert time.images_per_s == pytest.approx(6400)
    assert time.seconds == pytest.approx(156.25)
    assert time.worker_hours == pytest.approx(64 * 156.25 / 3600)
    assert time.cost == pytest.approx(3 * time.worker_hours)
    assert time.output_bytes == 1_000_000 * 200 + 100 * 9000
    assert not any("idle" in line for line in time.assumptions)


def test_more_workers_than_units_do_not_help():
    time = estimate_job(on_cpu(job=40.0), 1000, units=3, rows_per_part=10_000, workers=8, price_per_hour=None)
    assert time.images_per_s == pytest.approx(300)
    assert time.cost is None
    assert "5 of the 8 workers stay idle: there are only 3 units" in time.assumptions


def test_shards_are_counted_and_nothing_is_written(sample_data, tmp_path):
    for number in range(3):
        make_tar(tmp_path / f"{number}.tar", sample_members(5 + number))
    before = sorted(tmp_path.iterdir())
    found = plan(tmp_path, **QUICK, **words(sample_data), workers=2, price_per_hour=1.0)
    assert (found.shards, found.units, found.loose_images) == (3, 3, 0)
    assert (found.images, found.images_standard_error) == (18, 0.0)
    assert found.size_bytes == sum(path.stat().st_size for path in before)
    assert found.time is not None
    assert found.time.images_per_s == pytest.approx(2 * found.rates.one("job").images_per_s)
    assert found.time.cost > 0
    assert all(rate.configured for rate in found.rates.stages)
    assert sorted(tmp_path.iterdir()) == before
    assert json.loads(json.dumps(dataclasses.asdict(found)))["images"] == 18


def test_counting_alone_needs_no_weights(tmp_path):
    for number in range(7):
        (tmp_path / f"{number}.png").write_bytes(jpeg(number))
    make_tar(tmp_path / "x.tar", sample_members(4))
    found = plan([tmp_path / "x.tar", tmp_path / "0.png", tmp_path / "1.png"], measure=False)
    assert (found.shards, found.loose_images, found.images, found.units) == (1, 2, 6, 3)
    assert (found.time, found.rates) == (None, None)


def test_a_missing_shard_of_a_range_is_counted_as_such(sample_data, tmp_path):
    make_tar(tmp_path / "s-0.tar", sample_members(2))
    found = plan(str(tmp_path / "s-{0..2}.tar"), measure=False)
    assert (found.shards, found.unreadable, found.images) == (3, 2, 2)


def test_shards_on_s3_are_estimated(s3, sample_data, tmp_path):
    bucket = s3.bucket()
    for number in range(10):
        shard = make_tar(tmp_path / f"{number}.tar", sample_members(300 + number))
        s3.put(bucket, f"in/{shard.name}", shard.read_bytes())
    found = plan(f"s3://{bucket}/in/", **QUICK, **words(sample_data), s3_endpoint=s3.endpoint)
    assert found.images_standard_error > 0
    assert found.images == pytest.approx(3045, rel=0.1)
    keys = s3.client.list_objects_v2(Bucket=bucket)["Contents"]
    assert len(keys) == 10


def test_wrong_requests_are_refused(sample_data, tmp_path):
    make_tar(tmp_path / "a.tar", sample_members(2))
    with pytest.raises(WeightsError, match=r"none\.pth: no such file"):
        plan(tmp_path / "a.tar", model=f"resnet18={tmp_path}/none.pth")
    with pytest.raises(InputError, match="no such file"):
        plan(tmp_path / "b.tar", **words(sample_data))
    with pytest.raises(RequestError, match="price_per_hour"):
        plan(tmp_path / "a.tar", price_per_hour=-1)
    with pytest.raises(RequestError, match="unknown option 'out'"):
        plan(tmp_path / "a.tar", out="x")
    with pytest.raises(RequestError, match="inputs: missing"):
        plan([])


def test_the_table_shows_what_is_known_and_what_is_estimated(sample_data, tmp_path, capsys):
    make_tar(tmp_path / "a.tar", sample_members(6))
    found = plan(tmp_path / "a.tar", **QUICK, **words(sample_data), price_per_hour=2.0)
    print_plan(found)
    said = capsys.readouterr().out
    assert "images       6 (counted)" in said
    assert "bottleneck   the members' forward passes" in said
    print_plan(dataclasses.replace(found, images=5_000_000, images_standard_error=20_000.0))
    assert "about 5,000,000 +- 40,000 (95 %" in capsys.readouterr().out
    print_plan(dataclasses.replace(found, images_standard_error=None, time=None, rates=None))
    assert "beginning of one shard" in capsys.readouterr().out


def test_status_puts_a_plan_beside_what_came_of_it(sample_data, tmp_path, shardlabel):
    make_tar(tmp_path / "a.tar", sample_members(9))
    planned = plan(tmp_path / "a.tar", **QUICK, **words(sample_data))
    (tmp_path / "plan.json").write_text(json.dumps(dataclasses.asdict(planned)))
    label(tmp_path / "a.tar", tmp_path / "out", engine="inline", **words(sample_data))
    found = status(tmp_path / "out", plan=tmp_path / "plan.json")
    compared = {each.what: each for each in found.comparisons}
    assert (compared["images"].planned, compared["images"].actual) == (9, 9)
    assert (compared["units"].planned, compared["units"].actual) == (1, 1)
    assert compared["images_per_s"].planned > 0
    assert compared["images_per_s"].actual > 0
    assert compared["bytes_per_image"].actual == pytest.approx(compared["bytes_per_image"].planned, rel=0.5)
    assert "9, actual 9" in shardlabel("status", "out", "--plan", "plan.json", cwd=tmp_path).stdout
    for other in (
        "[]",
        '{"units": "a", "images": 1, "time": null}',
        '{"units": 1, "images": 1, "time": {}}',
        "[" * 10**5,
    ):
        (tmp_path / "other.json").write_text(other)
        with pytest.raises(InputError, match=r"not what `shardlabel plan --json` prints|not JSON"):
            status(tmp_path / "out", plan=tmp_path / "other.json")
    with pytest.raises(InputError, match="--plan"):
        status(tmp_path / "out", plan=tmp_path / "none.json")
