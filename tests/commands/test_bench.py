"""The benchmark on real photographs and networks: what is measured, what is left behind. No times are asserted."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pytest
from conftest import jpeg, make_tar, sample_members

from pipeline import bench
from pipeline.cli.speed_tables import print_benchmark
from pipeline.errors import InputError, Interrupted
from pipeline.models.number_formats import is_in_hardware
from pipeline.speed.bottleneck import find_bottleneck

QUICK = {"seconds": 0.2, "batch_size": 4, "decode_threads": 2, "device": "cpu"}


def words(sample_data, *members: str, **more) -> dict:
    found = {
        "model": members or ("shufflenet_v2_x0_5",),
        "weights_dir": str(sample_data / "weights"),
        "labels": str(sample_data / "classes.txt"),
    }
    return QUICK | found | more


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """The place where temporary files go."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _short_rounds():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.speed.measure._LEAST_S", 0.1)
        yield


@pytest.fixture(scope="module")
def measured(sample_data):
    """Two of the sample networks on the sample photographs."""
    return bench(str(sample_data), **words(sample_data, "shufflenet_v2_x0_5", "squeezenet1_1"))


def test_every_stage_is_measured_in_the_same_rounds(measured):
    stages = measured.rates.stages
    assert [s.stage for s in stages if s.configured] == [
        *("read", "hash", "decode", "resize", "forward", "forward", "ensemble", "write", "host", "limit", "job")
    ]
    assert {s.member for s in stages if s.stage == "forward"} == {"shufflenet_v2_x0_5", "squeezenet1_1"}
    tried = {"fp32", "mixed", "bf16"} if is_in_hardware("mixed", "cpu") else {"fp32"}  # others are slower, and inexact
    assert {s.what for s in stages if s.stage == "forward"} == tried
    lengths = {len(s.rounds) for s in stages if s.configured}
    assert len(lengths) == 1
    assert lengths.pop() >= 3
    for one in stages:
        assert one.images_per_s > 0
        assert sorted(one.rounds)[0] <= one.images_per_s <= sorted(one.rounds)[-1]


def test_members_with_one_recipe_share_the_resize(measured):
    assert measured.rates.num_geometries == 1
    assert len(measured.rates.all_of("resize")) == 1


def test_the_verdict_follows_from_the_rates(measured):
    verdict = measured.verdict
    assert verdict == find_bottleneck(measured.rates)
    assert verdict.bottleneck == "forward"
    assert verdict.limit_images_per_s == measured.rates.one("limit").images_per_s
    assert 0 < verdict.share < 3
    assert 0 < verdict.sharing.hash_share < 1


def test_the_table_names_what_matters(measured, capsys):
    print_benchmark(measured)
    said = capsys.readouterr().out
    for text in (
        "squeezenet1_1",
        "256 to 224, bilinear",
        "write Parquet",
        "all but decoding and members",
        "limit",
        "% of the limit",
        "sharing",
    ):
        assert text in said
    assert "bottleneck  the members' forward passes" in said


@pytest.mark.slow
def test_the_size_of_a_part_is_about_that_of_a_real_one(measured, sample_data, tmp_path):
    from pipeline import label

    named = words(sample_data, "shufflenet_v2_x0_5", "squeezenet1_1")
    named.pop("seconds")
    label(str(sample_data), tmp_path / "out", engine="inline", max_bad_rate=1.0, **named)
    files = list((tmp_path / "out/predictions").iterdir())
    rates = measured.rates
    said = 238 * rates.row_bytes + len(files) * rates.part_bytes
    assert said == pytest.approx(sum(file.stat().st_size for file in files), rel=0.25)


def test_nothing_is_left_behind_and_inputs_stay_as_they_are(sample_data, tmp_path, scratch):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number}.jpg").write_bytes(jpeg(number))
    before = sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())
    found = bench(folder, **words(sample_data))
    assert found.rates.images == 12
    assert sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir()) == before
    assert list(scratch.iterdir()) == []


@pytest.mark.slow
def test_large_photographs_are_decoded_both_ways(sample_data, tmp_path):
    make_tar(tmp_path / "a.tar", [(f"{n}.jpg", jpeg(n, size=(900, 700))) for n in range(6)])
    rates = bench(tmp_path / "a.tar", **words(sample_data)).rates
    assert [(s.what, s.configured) for s in rates.stages if s.stage == "decode"] == [("exact", True), ("fast", False)]
    fast = bench(tmp_path / "a.tar", **words(sample_data, decode="fast")).rates
    assert [(s.what, s.configured) for s in fast.stages if s.stage == "decode"] == [("fast", True)]


@pytest.mark.slow
def test_broken_images_among_the_samples_do_no_harm(sample_data, tmp_path):
    members = [*sample_members(5), ("bad.jpg", b"nothing"), ("none.txt", b"no image"), ("empty.jpg", b"")]
    make_tar(tmp_path / "a.tar", members)
    assert bench(tmp_path / "a.tar", **words(sample_data)).rates.images == 6


def test_inputs_of_broken_images_are_a_wrong_request(sample_data, tmp_path):
    make_tar(tmp_path / "a.tar", [("bad.jpg", b"nothing")])
    with pytest.raises(InputError, match="of 1 image from the inputs none can be decoded"):
        bench(tmp_path / "a.tar", **words(sample_data))


@pytest.mark.slow
def test_it_reads_from_s3(s3, sample_data, tmp_path):
    bucket = s3.bucket()
    s3.put(bucket, "in/a.tar", make_tar(tmp_path / "a.tar", sample_members(8)).read_bytes())
    found = bench(f"s3://{bucket}/in/", s3_endpoint=s3.endpoint, **words(sample_data))
    assert found.rates.images == 8
    assert found.rates.one("job").images_per_s > 0


def test_a_signal_stops_it_and_takes_its_files_away(sample_data, scratch):
    def stop() -> None:
        while not list(scratch.iterdir()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Interrupted):
        bench(str(sample_data), **words(sample_data, seconds=120.0))
    thread.join()
    assert list(scratch.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def command(*more: str, cwd) -> subprocess.CompletedProcess[str]:
    quick = ["--seconds", "0.2", "--batch-size", "4", "--decode-threads", "1", "--device", "cpu", "--json"]
    line = [sys.executable, "-m", "pipeline", "bench", *quick, *more]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_command_prints_json_and_shows_progress_beside_it(sample_data, tmp_path):
    result = command("-m", "shufflenet_v2_x0_5", "--weights-dir", str(sample_data / "weights"), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["rates"]["members"] == ["shufflenet_v2_x0_5"]
    assert found["verdict"]["bottleneck"] in {"read", "decode", "forward"}
    assert "steps, warming up" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_weights_is_one_line_and_exit_2(sample_data, tmp_path, shardlabel):
    result = shardlabel("bench", sample_data, "-m", "resnet18=none.pth", cwd=tmp_path)
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "none.pth" in result.stderr


@pytest.mark.slow
def test_the_command_alone_measures_what_ships(tmp_path):
    assert len(json.loads(command(cwd=tmp_path).stdout)["rates"]["members"]) == 3


def test_the_result_is_inert(measured):
    assert json.loads(json.dumps(dataclasses.asdict(measured)))["rates"]["num_threads"] == 2
