"""The job end to end: real tars, real networks, both engines, interruptions, both failure budgets."""

from __future__ import annotations

import glob
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import jpeg, make_tar, sample_members
from small_jobs import ALL, ONE, options, rows

from pipeline import evaluate, label, status, verify
from pipeline.errors import (
    EngineError,
    InputError,
    ModelError,
    OutputError,
    PublishError,
    RequestError,
    StorageError,
    WeightsError,
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, sample_data: Path) -> Path:
    """The sample data, labelled by three members with the inline engine, in small parts."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    summary = label(str(sample_data), out, **options(sample_data, model=ALL, rows_per_part=30))
    assert summary.exit_code == 0
    return out


def test_every_sample_is_in_exactly_one_table(undisturbed, sample_data):
    predictions, quarantine = rows(undisturbed), rows(undisturbed, "quarantine")
    keys = predictions["key"].to_pylist() + quarantine["key"].to_pylist()
    assert len(keys) == len(set(keys)) == 245
    reasons = dict(zip(quarantine["key"].to_pylist(), quarantine["reason"].to_pylist(), strict=True))
    assert reasons == {
        "broken_truncated": "truncated_image",
        "broken_text": "not_an_image",
        "broken_empty": "empty",
        "broken_missing": "no_image",
        "broken_damaged_png": "corrupt_image",
        "broken_html": "not_an_image",
        "broken_huge": "too_large",
    }
    found = verify(undisturbed)
    assert found.discrepancies == ()
    assert (found.samples, found.predictions, found.quarantined) == (245, 238, 7)


def test_the_columns_are_those_of_the_contract(undisturbed):
    table = pq.read_table(sorted(glob.glob(f"{undisturbed}/predictions/*.parquet"))[0])
    fields = {field.name: str(field.type) for field in table.schema}
    own = "struct<labels: list<element: int32>, scores: list<element: float>, energy: float>"
    members = ", ".join(f"{name}: {own}" for name in ALL.split(","))
    assert fields == {
        "shard": "dictionary<values=string, indices=int32, ordered=0>",
        "key": "string",
        "field": "dictionary<values=string, indices=int32, ordered=0>",
        "index": "int64",
        "sha256": "string",
        "width": "int32",
        "height": "int32",
        "label": "int32",
        "class_name": "dictionary<values=string, indices=int32, ordered=0>",
        "score": "float",
        "labels": "list<element: int32>",
        "scores": "list<element: float>",
        "agreement": "float",
        "entropy": "float",
        "disagreement": "float",
        "members": f"struct<{members}>",
        "truth": "int32",
    }
    first = table.slice(0, 1).to_pylist()[0]
    assert first["label"] == first["labels"][0]
    assert first["score"] == first["scores"][0]
    assert len(first["labels"]) == 5


def test_duckdb_reads_the_output_as_it_is(undisturbed):
    duckdb = pytest.importorskip("duckdb")
    found = duckdb.sql(f"select count(*), count(distinct key), avg(score) from '{undisturbed}/predictions/*.parquet'")
    count, keys, score = found.fetchall()[0]
    assert (count, keys) == (238, 238)
    assert 0.3 < score < 1


def test_the_consensus_beats_its_members_on_the_sample_data(undisturbed):
    found = evaluate(undisturbed)
    assert found.images == 238
    assert found.consensus.top1 > max(accuracy.top1 for accuracy in found.members.values())
    assert 0.85 < found.consensus.top1 < 0.97


def test_rows_are_in_sample_order_and_parts_chain(undisturbed):
    success = json.loads((undisturbed / "_SUCCESS").read_text())
    assert sum(success["predictions"].values()) == 238
    assert sum(success["quarantine"].values()) == 7
    for name in success["predictions"]:
        index = pq.read_table(undisturbed / "predictions" / name, columns=["index"])["index"].to_pylist()
        assert index == sorted(index)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_kill_minus_nine_then_the_same_command(undisturbed, sample_data, tmp_path, engine):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pipeline", "label", str(sample_data), "--out", str(out), "-m", ALL]
    command += ["--weights-dir", str(sample_data / "weights"), "--labels", str(sample_data / "classes.txt")]
    command += ["--engine", engine, "--rows-per-part", "30", "--progress", "none", "--precision", "fp32"]
    process = subprocess.Popen(command, cwd=tmp_path)
    deadline = time.monotonic() + 120
    while len(list(out.glob("predictions/*.parquet"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(2 if engine == "ray" else 0)  # orphaned actors live on for a second
    before = {path: path.stat().st_mtime_ns for path in out.glob("predictions/*.parquet")}
    assert 2 <= len(before) < 9
    assert not (out / "_SUCCESS").exists()
    assert verify(out).exit_code == 1

    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == 0
    for path, modified in before.items():
        assert path.stat().st_mtime_ns == modified, "a part was done twice"
    assert rows(out).equals(rows(undisturbed))
    assert verify(out).exit_code == 0


def test_a_large_tar_resumes_inside(sample_data, tmp_path):
    members = sample_members(25)
    plain = make_tar(tmp_path / "a.tar", members)
    label(str(plain), tmp_path / "whole", **options(sample_data, rows_per_part=4))
    shutil.copytree(tmp_path / "whole", tmp_path / "torn")
    (tmp_path / "torn/_SUCCESS").unlink()
    for path in sorted((tmp_path / "torn/predictions").iterdir())[3:]:
        path.unlink()
    summary = label(str(plain), tmp_path / "torn", **options(sample_data))
    assert summary.images == 25 - 12
    assert summary.parts == 4
    assert rows(tmp_path / "torn").equals(rows(tmp_path / "whole"))


def test_odd_tars_and_nasty_files_go_through(shared, sample_data, tmp_path):
    inputs = [str(shared / "data/odd-tars"), str(shared / "data/nasty")]
    files = [path for path in sorted((shared / "data/nasty").iterdir()) if "13000" not in path.name]  # that takes 1 s
    members = [(path.name, path.read_bytes()) for path in files]
    packed = make_tar(tmp_path / "packed.tar", [(f"{i:03d}/{name}", data) for i, (name, data) in enumerate(members)])
    out = tmp_path / "out"
    summary = label([*inputs, str(packed)], out, **options(sample_data))
    assert summary.exit_code == 0
    found = verify(out)
    assert found.discrepancies == ()
    assert found.samples == found.predictions + found.quarantined
    assert summary.events == {"shard_truncated": 2, "shard_corrupt": 2}
    everything = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert all(name == "packed.tar" or name.startswith("out") for name in everything)
    assert not list(tmp_path.parent.glob("evil*"))
    assert status(out).finished


def test_more_inputs_later_and_a_changed_shard(sample_data, tmp_path):
    one = make_tar(tmp_path / "one.tar", sample_members(5))
    two = make_tar(tmp_path / "two.tar", sample_members(5, start=5))
    out = tmp_path / "out"
    label(str(one), out, **options(sample_data))
    first = {path.name: path.stat().st_mtime_ns for path in (out / "predictions").iterdir()}
    summary = label([str(one), str(two)], out, **options(sample_data))
    assert summary.images == 5
    assert {name: (out / "predictions" / name).stat().st_mtime_ns for name in first} == first

    make_tar(one, sample_members(7, start=20))
    summary = label([str(one), str(two)], out, **options(sample_data))
    assert summary.images == 7
    assert len(rows(out)) == 12
    assert verify(out).exit_code == 0


def test_success_is_withdrawn_while_there_is_work(sample_data, tmp_path, monkeypatch):
    shards = [str(make_tar(tmp_path / f"{n}.tar", sample_members(3, start=3 * n))) for n in range(2)]
    out = tmp_path / "out"
    label(shards[0], out, **options(sample_data))
    assert (out / "_SUCCESS").exists()
    monkeypatch.setattr("pipeline.stages.write.Writer.publish", broken)
    with pytest.raises(PublishError, match="same command"):
        label(shards, out, **options(sample_data))
    assert not (out / "_SUCCESS").exists()
    monkeypatch.undo()
    assert label(shards, out, **options(sample_data)).images == 3
    assert verify(out).exit_code == 0


def broken(*_words, **_options):
    raise StorageError("no space left")


def test_a_damaged_part_is_named_when_a_job_goes_on(sample_data, tmp_path):
    shard = make_tar(tmp_path / "a.tar", sample_members(6))
    out = tmp_path / "out"
    label(str(shard), out, **options(sample_data, rows_per_part=2))
    first, _, last = sorted((out / "predictions").iterdir())
    last.unlink()
    sorted((out / "predictions").iterdir())[1].write_bytes(b"damaged")
    with pytest.raises(PublishError, match="not a part of shardlabel"):
        label(str(shard), out, **options(sample_data))
    assert first.exists()


def test_a_success_of_another_shape_is_written_again(sample_data, tmp_path):
    make_tar(tmp_path / "a.tar", sample_members(3))
    words = options(sample_data)
    label(str(tmp_path / "a.tar"), tmp_path / "out", **words)
    whole = json.loads((tmp_path / "out/_SUCCESS").read_text())
    (tmp_path / "out/_SUCCESS").write_text('{"predictions": []}')
    with pytest.raises(OutputError, match=r"_SUCCESS: damaged, .*predictions"):
        verify(tmp_path / "out")
    label(str(tmp_path / "a.tar"), tmp_path / "out", **words)
    assert json.loads((tmp_path / "out/_SUCCESS").read_text())["predictions"] == whole["predictions"]


def test_an_engine_that_loses_a_unit_is_noticed(sample_data, tmp_path, monkeypatch):
    shard = make_tar(tmp_path / "a.tar", sample_members(2))
    monkeypatch.setattr("pipeline.engines.inline.InlineEngine.run", lambda *_: iter(()))
    with pytest.raises(EngineError, match="1 unit came back unfinished"):
        label(str(shard), tmp_path / "out", **options(sample_data))


def test_limit_then_everything(sample_data, tmp_path):
    shard = make_tar(tmp_path / "a.tar", sample_members(9))
    out = tmp_path / "out"
    assert label(str(shard), out, **options(sample_data, limit=4)).labelled == 4
    assert rows(out)["key"].to_pylist() == [f"{number:05d}" for number in range(4)]
    assert verify(out).exit_code == 0
    label(str(shard), out, **options(sample_data))
    assert len(rows(out)) == 9
    assert verify(out).exit_code == 0


def test_keep_copies_fields(sample_data, tmp_path):
    shard = make_tar(tmp_path / "a.tar", [("x.jpg", jpeg()), ("x.txt", "Bärbel".encode()), ("y.jpg", jpeg(1))])
    label(str(shard), tmp_path / "out", **options(sample_data, keep="txt,json"))
    table = rows(tmp_path / "out")
    assert table["txt"].to_pylist() == ["Bärbel", None]
    assert table["json"].to_pylist() == [None, None]


def test_loose_images_and_their_tar_have_the_same_labels(sample_data, tmp_path):
    folder = tmp_path / "photos" / "ünï code"
    folder.mkdir(parents=True)
    for number in range(12):
        (folder / f"{number:05d}.jpg").write_bytes(jpeg(number))
    shard = make_tar(tmp_path / "a.tar", sample_members(12))
    label(str(tmp_path / "photos"), tmp_path / "loose", **options(sample_data, precision="auto"))
    label(str(shard), tmp_path / "packed", **options(sample_data, precision="auto"))
    loose, packed = rows(tmp_path / "loose"), rows(tmp_path / "packed")
    assert loose["key"].to_pylist()[0] == "ünï code/00000.jpg"
    for column in ("label", "sha256", "width", "members"):
        assert loose[column].to_pylist() == packed[column].to_pylist()


def test_a_missing_shard_of_a_range_is_listed_and_tried_again(sample_data, tmp_path):
    make_tar(tmp_path / "s-0.tar", sample_members(3))
    out = tmp_path / "out"
    pattern = str(tmp_path / "s-{0..1}.tar")
    summary = label(pattern, out, **options(sample_data))
    assert (summary.exit_code, summary.failed_units, summary.labelled) == (4, 1, 3)
    assert summary.failures[0].uri.endswith("s-1.tar")
    assert rows(out, "quarantine")["reason"].to_pylist() == ["shard_missing"]
    assert not (out / "_SUCCESS").exists()
    assert status(out).unreadable == (str(tmp_path / "s-1.tar"),)

    make_tar(tmp_path / "s-1.tar", sample_members(3, start=3))
    summary = label(pattern, out, **options(sample_data))
    assert (summary.exit_code, summary.labelled) == (0, 3)
    assert not list((out / "quarantine").iterdir())
    assert verify(out).exit_code == 0


def test_too_many_bad_images_stop_the_job(sample_data, tmp_path):
    shards = [
        make_tar(tmp_path / f"{shard}.tar", [(f"{number:05d}.jpg", b"no image") for number in range(600)])
        for shard in range(3)
    ]
    options_ = options(sample_data, max_bad_rate=0.5, rows_per_part=200)
    summary = label([str(shard) for shard in shards], tmp_path / "out", **options_)
    assert summary.exit_code == 3
    assert summary.bad_rate_exceeded


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        ({"model": "resnet5O"}, ModelError, "resnet50"),
        ({"model": f"{ONE},{ONE}"}, ModelError, ONE),
        ({"labels": None}, None, None),
        ({"labels": "/nowhere.txt"}, InputError, "/nowhere.txt"),
        ({"weights_dir": "/nowhere"}, WeightsError, "/nowhere"),
        ({"inputs": "/nowhere.tar"}, InputError, "/nowhere.tar"),
        ({"inputs": "gs://bucket/x.tar"}, InputError, "gs://"),
        ({"top_k": 0}, RequestError, "top_k"),
        ({"nonsense": 1}, RequestError, "nonsense"),
        ({"keep": "label"}, RequestError, "label"),
        ({"device": "cuda"}, InputError, "cuda"),
        ({"decode": "gpu", "device": "cpu"}, InputError, "--decode gpu: there is no GPU"),
    ],
)
def test_a_wrong_request_writes_nothing(sample_data, tmp_path, words, error, says):
    import torch

    if words.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    shard = make_tar(tmp_path / "a.tar", sample_members(1))
    call = {"inputs": str(shard), **options(sample_data)} | words
    inputs = call.pop("inputs")
    if error is None:
        assert label(inputs, tmp_path / "out", **call).exit_code == 0
        return
    with pytest.raises(error, match=says):
        label(inputs, tmp_path / "out", **call)
    assert not (tmp_path / "out").exists()


def test_out_of_another_job_is_refused_without_overwrite(sample_data, tmp_path):
    shard = make_tar(tmp_path / "a.tar", sample_members(2))
    out = tmp_path / "out"
    label(str(shard), out, **options(sample_data))
    with pytest.raises(OutputError, match=r"differs in combine \(mean then, vote now\)\."):
        label(str(shard), out, **options(sample_data, combine="vote"))
    with pytest.raises(OutputError, match="members"):
        label(str(shard), out, **options(sample_data, model="squeezenet1_1"))
    summary = label(str(shard), out, **options(sample_data, combine="vote", overwrite=True))
    assert summary.labelled == 2
    assert verify(out).exit_code == 0


def test_precision_and_part_size_of_the_first_run_are_kept(sample_data, tmp_path, monkeypatch):
    shard = make_tar(tmp_path / "a.tar", sample_members(2))
    out = tmp_path / "out"
    monkeypatch.setattr("pipeline.job.description.is_in_hardware", lambda precision, _device: precision == "fp32")
    summary = label(str(shard), out, **options(sample_data, precision="bf16", rows_per_part=7))
    assert (
        "--precision bf16: this machine's CPU does not compute in bfloat16, "
        "so it is slow here; fp32 is faster, and exact" in summary.notes
    )
    assert label(str(shard), out, **options(sample_data, precision="auto")).images == 0
    with pytest.raises(OutputError, match="precision"):
        label(str(shard), out, **options(sample_data, precision="fp32"))


def test_three_members_vote_and_pool(sample_data, tmp_path):
    tables = {}
    for rule in ("mean", "geometric", "vote"):
        out = tmp_path / rule
        label(str(sample_data), out, **options(sample_data, model=ALL, combine=rule, limit=40))
        tables[rule] = rows(out).to_pylist()
    for row in tables["vote"]:
        tops = [member["labels"][0] for member in row["members"].values()]
        assert row["score"] == pytest.approx(tops.count(row["label"]) / 3, abs=1e-6)
        assert row["agreement"] == pytest.approx(tops.count(row["label"]) / 3, abs=1e-6)
    differing = sum(a["label"] != b["label"] for a, b in zip(tables["mean"], tables["vote"], strict=True))
    assert 0 < differing < 20
