"""Exports of a real job: every format read back by those who will read it, and what happens when things go wrong."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import signal
import tarfile
import threading
import time
from collections import Counter
from pathlib import Path

import attacks
import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import webdataset
import yaml
from attacks import Trap
from conftest import jpeg
from PIL import Image
from typer.testing import CliRunner

from pipeline import export, label, sample
from pipeline.cli import app
from pipeline.errors import OutputError, RequestError
from pipeline.exporting import parquet_writer, tar_writer
from pipeline.exporting.target import Target

from .conftest import SAME, files, table  # isort: skip

FORMATS = ("webdataset", "imagefolder", "csv", "parquet")


@pytest.fixture(scope="module")
def datasets(labelled, tmp_path_factory):
    """Everything, in each format."""
    made = {kind: tmp_path_factory.mktemp("data") / kind for kind in FORMATS}
    for kind, to in made.items():
        summary = export(labelled.out, to, kind, engine="inline", license="cc0-1.0")
        assert (summary.exit_code, summary.labelled, summary.selected) == (0, 250, 249)
        assert summary.rejected == {"duplicate": 1}
        assert summary.exported == summary.images == 249
    return made


def loaded(place, cache, **words):
    import datasets as hugging_face

    hugging_face.disable_progress_bars()
    return hugging_face.load_dataset(str(place), cache_dir=str(cache), **words)["train"]


def checked(labelled, row: dict, data: bytes) -> tuple[str, str]:
    """An exported image has the source's bytes under the source's key; where that is."""
    place = row["shard"], row["key"]
    assert data == labelled.images[place]
    assert row["sha256"] == hashlib.sha256(data).hexdigest()
    return place


def test_webdataset_reads_the_tars(labelled, datasets):
    urls = sorted(map(str, (datasets["webdataset"] / "data").glob("*.tar")))
    places, fields = set(), Counter()
    for found in webdataset.WebDataset(urls, shardshuffle=False):
        (field,) = {name for name in found if not name.startswith("__")} - {"cls", "json"}
        fields[field] += 1
        row = json.loads(found["json"])
        places.add(checked(labelled, row, found[field]))
        assert int(found["cls"]) == row["label"]
        assert field == row["key"].rpartition(".")[2].lower().replace("jpeg", "jpg") or "." not in row["key"]
        if row["shard"].endswith(".tar"):
            assert found["__key__"] == row["key"]
    assert len(places) == 249
    assert fields.keys() == {"jpg", "png", "webp"}


def test_tars_hold_one_kind_of_image_and_no_time(datasets):
    for path in (datasets["webdataset"] / "data").iterdir():
        with tarfile.open(path) as tar:
            members = tar.getmembers()
        kinds = {member.name.rpartition("/")[2].partition(".")[2] for member in members}
        assert kinds == {path.name.split("-")[-2], "cls", "json"}
        assert {(member.mtime, member.uid, member.gname) for member in members} == {(0, 0, "")}


def test_hugging_face_reads_webdataset(labelled, datasets, tmp_path):
    to = datasets["webdataset"]
    found = loaded(to, tmp_path, name="png")
    assert {place for row in found for place in [(row["json"]["shard"], row["json"]["key"])]} <= labelled.images.keys()
    paths = [str(path) for path in sorted((to / "data").glob("*-jpg-*.tar"))]
    found = loaded("webdataset", tmp_path, data_files=paths)
    assert isinstance(found[0]["jpg"], Image.Image)
    assert set(found.column_names) == {"jpg", "cls", "json", "__key__", "__url__"}


@pytest.mark.parametrize("kind", ["parquet", "imagefolder"])
def test_hugging_face_reads_images_and_class_names(labelled, datasets, tmp_path, kind):
    found = loaded(datasets[kind], tmp_path)
    names = (datasets[kind] / "classes.txt").read_text().splitlines()
    assert found.features["label"].names == names
    assert len(found) == 249
    for row in found.select(range(0, 249, 25)):
        original = labelled.images[row["shard"], row["key"]]
        assert row["image"].size == Image.open(io.BytesIO(original)).size
        assert names[row["label"]] == row["class_name"]
    source = {(row["shard"], row["key"]): row for row in labelled.rows()}
    for row in found.remove_columns("image"):
        ours = source[row["shard"], row["key"]]
        for name in ("label", "score", "agreement", "entropy", "disagreement", "width", "height", "sha256", "index"):
            assert row[name] == ours[name]
        (member,) = ours["members"].values()
        assert row["ood_score"] == np.float32(-member["energy"])


def test_parquet_holds_the_bytes(labelled, datasets):
    paths = sorted((datasets["parquet"] / "data").iterdir())
    rows = table(paths).to_pylist()
    assert len({checked(labelled, row, row["image"]["bytes"]) for row in rows}) == 249
    count = duckdb.sql(f"SELECT count(image.bytes), avg(score) FROM '{datasets['parquet']}/data/*.parquet'").fetchall()
    assert count[0][0] == 249
    assert b'"ClassLabel"' in pq.read_schema(paths[0]).metadata[b"huggingface"]


def test_folders_hold_the_bytes_under_safe_names(labelled, datasets):
    data = datasets["imagefolder"] / "data"
    rows = pq.read_table(data / "metadata.parquet").to_pylist()
    assert {str(path.relative_to(data)) for path in data.rglob("*.*") if path.is_file()} == {
        *(row["file_name"] for row in rows),
        "metadata.parquet",
    }
    assert len({checked(labelled, row, (data / row["file_name"]).read_bytes()) for row in rows}) == 249
    names = {row["key"]: row["file_name"].partition("/") for row in rows}
    assert names["plain.jpg"][2] == "plain.jpg"
    assert names["deep/down/plain.jpg"][2] == "deep%2Fdown%2Fplain.jpg"
    assert all(len(name.encode()) < 256 for _, _, name in names.values())
    assert {row["file_name"].partition("/")[0] for row in rows} == {row["class_name"] for row in rows}


def test_csv_is_the_rows(labelled, datasets):
    paths = sorted((datasets["csv"] / "data").iterdir())
    rows = [row for path in paths for row in csv.DictReader(path.open(newline=""))]
    source = {(row["shard"], row["key"]): row for row in labelled.rows()}
    assert len(rows) == 249
    for row in rows:
        ours = source[row["shard"], row["key"]]
        assert (int(row["label"]), row["sha256"], np.float32(row["score"])) == (
            *(ours["label"], ours["sha256"]),
            np.float32(ours["score"]),
        )
    frame = pd.concat(map(pd.read_csv, paths))
    assert list(frame.columns)[:5] == ["shard", "key", "label", "class_name", "score"]


@pytest.mark.parametrize("kind", FORMATS)
def test_what_describes_the_whole(labelled, datasets, kind):
    to = datasets[kind]
    about = json.loads((to / "export.json").read_text())
    job = json.loads((labelled.out / "job.json").read_text())
    assert about["source"]["fingerprint"] == job["fingerprint"]
    assert about["source"]["members"][0]["weights_sha256"] == job["results"]["members"][0]["weights_sha256"]
    assert about["selection"]["rejected"] == {"duplicate": 1}
    assert sum(row["images"] for row in about["selection"]["classes"]) == 249
    front, _, text = (to / "README.md").read_text().removeprefix("---\n").partition("\n---\n")
    card = yaml.safe_load(front)
    assert (card["license"], card["size_categories"]) == ("cc0-1.0", ["n<1K"])
    assert "not calibrated" in text
    success = json.loads((to / "_SUCCESS").read_text())
    assert sum(success["files"].values()) == success["images"] == 249
    assert all((to / path).exists() for path in success["files"])


def test_the_first_of_two_with_the_same_bytes_stays(labelled, datasets, tmp_path):
    frame = pd.concat(map(pd.read_csv, (datasets["csv"] / "data").iterdir()))
    keys = sorted(key for (_, key), data in labelled.images.items() if data == jpeg(SAME))
    assert len(keys) == 2
    assert set(frame["key"]) & set(keys) == {keys[0]}
    summary = export(labelled.out, tmp_path / "all", "csv", engine="inline", dedupe=False)
    assert (summary.exported, summary.rejected) == (250, {})


@pytest.mark.slow
def test_both_engines_write_the_same_files(labelled, tmp_path):
    words = {"min_score": 0.4, "max_per_class": 6, "repeat_to": 9}
    summaries = [
        export(labelled.out, tmp_path / engine, "webdataset", engine=engine, **words) for engine in ("inline", "ray")
    ]
    assert summaries[0].exported == summaries[1].exported > 50
    assert all(row.images <= 6 and row.copies == 9 for row in summaries[0].classes)
    inline, ray = (files(tmp_path / engine) for engine in ("inline", "ray"))
    assert inline.pop("_SUCCESS") != b""
    ray.pop("_SUCCESS")
    assert inline == ray


@pytest.mark.parametrize("kind", ["parquet", "imagefolder"])
def test_killed_and_run_again_it_is_as_if_undisturbed(labelled, datasets, tmp_path, kind):
    words = {"format": kind, "engine": "inline", "license": "cc0-1.0"}
    to = tmp_path / "to"
    for at in (3, 4):
        trap = Trap(at=at, place="/commits/", steps=("os.link",))
        assert attacks.run(str(labelled.out), to, words, trap, "export") == -signal.SIGKILL
    committed = set((to / "commits").glob("*.json"))
    assert len(committed) >= 4
    assert not (to / "_SUCCESS").exists()
    times = {path: path.stat().st_mtime_ns for path in committed}
    summary = export(labelled.out, to, **words)
    assert (summary.exported, summary.exit_code) == (249, 0)
    assert summary.images < 249
    assert {path: path.stat().st_mtime_ns for path in committed} == times, "a part was done twice"
    ours, undisturbed = files(to), files(datasets[kind])
    assert {name for name in ours if ours[name] != undisturbed.get(name)} <= {"_SUCCESS"}
    assert ours.keys() == undisturbed.keys()


def test_two_runs_at_once_make_one_dataset(labelled, datasets, tmp_path):
    words = {"format": "webdataset", "engine": "inline", "license": "cc0-1.0"}
    runs = [attacks.start(str(labelled.out), tmp_path / "to", words, command="export") for _ in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    ours, undisturbed = files(tmp_path / "to"), files(datasets["webdataset"])
    assert ours.keys() == undisturbed.keys()
    assert {name for name in ours if ours[name] != undisturbed[name]} <= {"_SUCCESS"}


@pytest.mark.slow
def test_the_driver_is_killed_on_ray(labelled, datasets, tmp_path):
    words = {"format": "parquet", "license": "cc0-1.0"}
    run = attacks.start(str(labelled.out), tmp_path / "to", words, command="export")
    while run.process.is_alive() and not list(tmp_path.glob("to/commits/*.json")):
        time.sleep(0.01)
    run.process.kill()
    assert run.wait() == -signal.SIGKILL
    assert export(labelled.out, tmp_path / "to", **words).exported == 249
    ours, undisturbed = files(tmp_path / "to"), files(datasets["parquet"])
    assert ours.keys() == undisturbed.keys()
    assert {name for name in ours if ours[name] != undisturbed[name]} <= {"_SUCCESS"}


def test_killed_before_the_selection_is_written_it_selects_again(labelled, datasets, tmp_path):
    words = {"format": "csv", "engine": "inline", "license": "cc0-1.0"}
    trap = Trap(at=2, place="/plan/", steps=("os.rename",))
    assert attacks.run(str(labelled.out), tmp_path / "to", words, trap, "export") == -signal.SIGKILL
    assert export(labelled.out, tmp_path / "to", **words).exported == 249
    data = {name: content for name, content in files(tmp_path / "to").items() if name.startswith("data/")}
    assert data == {name: content for name, content in files(datasets["csv"]).items() if name.startswith("data/")}


def test_interrupted_it_stops_and_goes_on(labelled, tmp_path, monkeypatch):
    committed, first = Target.commit, threading.Lock()

    def commit_and_interrupt(self, name, record):
        committed(self, name, record)
        if first.acquire(blocking=False):
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Target, "commit", commit_and_interrupt)
        summary = export(labelled.out, tmp_path / "to", "webdataset", engine="inline")
    assert (summary.exit_code, summary.interrupted) == (130, True)
    assert 0 < summary.parts_done < summary.parts_total
    summary = export(labelled.out, tmp_path / "to", "webdataset", engine="inline")
    assert (summary.exit_code, summary.exported) == (0, 249)


def test_other_options_are_refused_and_overwrite_replaces(labelled, tmp_path):
    to = tmp_path / "to"
    export(labelled.out, to, "csv", engine="inline", min_score=0.5)
    before = files(to)
    with pytest.raises(OutputError, match=r"--format \(csv then, parquet now\), --min-score \(0.5 then, none now\)"):
        export(labelled.out, to, "parquet", engine="inline")
    assert files(to) == before
    export(labelled.out, to, "parquet", engine="inline", overwrite=True)
    assert {path.suffix for path in (to / "data").iterdir()} == {".parquet"}
    assert "parquet" in (to / "README.md").read_text()
    again = export(labelled.out, to, "parquet", engine="inline")
    assert (again.images, again.exported) == (0, 249)


def test_files_that_a_replaced_export_writes_late_are_removed(labelled, tmp_path, monkeypatch):
    to = tmp_path / "to"
    export(labelled.out, to, "csv", engine="inline", min_score=0.5)
    committed = Target.commit

    def commit_beside_another(self, name, record):
        (to / "data" / "part-00000000-0000000000000000-00000.csv").write_text("late")
        committed(self, name, record)

    monkeypatch.setattr(Target, "commit", commit_beside_another)
    export(labelled.out, to, "csv", engine="inline", overwrite=True)
    assert not (to / "data" / "part-00000000-0000000000000000-00000.csv").exists()


def test_an_exporter_removes_its_part_when_another_export_takes_over(labelled, tmp_path, monkeypatch):
    to = tmp_path / "to"
    committed = Target.commit

    def take_over_and_commit(self, name, record):
        self.ledger.write_json("export.json", {"fingerprint": "0" * 64})
        committed(self, name, record)

    monkeypatch.setattr(Target, "commit", take_over_and_commit)
    result = CliRunner().invoke(
        app, ["export", str(labelled.out), "--to", str(to), "--format", "csv", "--engine", "inline"]
    )
    assert "taken this place over" in str(result.exception)
    assert result.exception.exit_code == 1
    assert list((to / "data").iterdir()) == []


def test_images_that_changed_or_are_gone_are_left_out_and_said(labelled, tmp_path):
    kept = labelled.loose / "plain.jpg", labelled.loose / "upper.jpg"
    contents = [path.read_bytes() for path in kept]
    kept[0].write_bytes(jpeg(99))
    kept[1].unlink()
    shard = sorted(labelled.shards.iterdir())[0]
    os.utime(shard)  # as bytes it is what it was
    try:
        result = CliRunner().invoke(
            app,
            ["export", str(labelled.out), "--to", str(tmp_path / "to"), "--format", "parquet", "--engine", "inline"],
        )
    finally:
        for path, content in zip(kept, contents, strict=True):
            path.write_bytes(content)
    assert result.exit_code == 0
    assert "omitted   2 (1 changed, 1 missing)" in result.stdout
    assert "exported  247 of 249 selected" in result.stdout
    records = [json.loads(path.read_text()) for path in (tmp_path / "to" / "commits").iterdir()]
    omitted = {row["key"]: row["reason"] for record in records for row in record["omitted"]}
    assert omitted == {"plain.jpg": "changed", "upper.jpg": "missing"}
    assert "| changed or gone since they were labelled | 2 |" in (tmp_path / "to" / "README.md").read_text()


def test_a_missing_folder_is_an_error(labelled, tmp_path):
    labelled.loose.rename(tmp_path / "away")
    try:
        summary = export(labelled.out, tmp_path / "to", "imagefolder", engine="inline")
    finally:
        (tmp_path / "away").rename(labelled.loose)
    assert (summary.exit_code, summary.omitted) == (4, {})
    assert [failure.uri for failure in summary.failures] == [f"{labelled.loose}/"]
    assert export(labelled.out, tmp_path / "to", "imagefolder", engine="inline").exported == 249


def test_shards_that_cannot_be_read_are_named_and_tried_again(labelled, tmp_path):
    shard = sorted(labelled.shards.iterdir())[0]
    words = ["export", str(labelled.out), "--to", str(tmp_path / "to"), "--format", "webdataset", "--engine", "inline"]
    shutil.move(shard, tmp_path / "away.tar")
    try:
        shown = CliRunner().invoke(app, words)
        summary = export(labelled.out, tmp_path / "to", "webdataset", engine="inline")
    finally:
        shutil.move(tmp_path / "away.tar", shard)
    assert f"not read: {shard}: {shard}: no such file" in shown.stderr
    assert (summary.exit_code, summary.images) == (4, 0)
    assert [failure.reason for failure in summary.failures] == ["shard_missing"]
    assert not (tmp_path / "to" / "_SUCCESS").exists()
    shown = CliRunner().invoke(app, words)
    assert "exported  249 of 249 selected" in shown.stdout


def test_a_shard_with_other_images_under_the_same_name_is_not_exported(labelled, tmp_path):
    first, second = sorted(labelled.shards.iterdir())[:2]
    shutil.copy(first, tmp_path / "kept.tar")
    shutil.copy(second, first)
    try:
        summary = export(labelled.out, tmp_path / "to", "parquet", engine="inline")
    finally:
        shutil.copy(tmp_path / "kept.tar", first)
    assert summary.exit_code == 4
    (failure,) = summary.failures
    assert "none is there" in failure.message
    assert "label it again" in failure.message


def test_full_files_are_followed_by_others(labelled, datasets, tmp_path, monkeypatch):
    for module in (parquet_writer, tar_writer):
        monkeypatch.setattr(module, "MAX_FILE_BYTES", 50_000)
    monkeypatch.setattr(parquet_writer, "_ROWS_PER_GROUP", 4)
    for kind in ("webdataset", "parquet"):
        summary = export(labelled.out, tmp_path / kind, kind, engine="inline")
        assert summary.exported == 249
        assert len(list((tmp_path / kind / "data").iterdir())) > len(list((datasets[kind] / "data").iterdir()))
    rows = table(sorted((tmp_path / "parquet" / "data").iterdir())).to_pylist()
    assert len({checked(labelled, row, row["image"]["bytes"]) for row in rows}) == 249


def test_a_promise_that_cannot_be_made_exports_nothing(labelled, tmp_path):
    words = ["export", str(labelled.out), "--to", str(tmp_path / "to"), "--format", "csv", "--engine", "inline"]
    result = CliRunner().invoke(app, [*words, "--target-precision", "0.999"])
    assert isinstance(result.exception, RequestError)
    assert "more are needed, and only 11 other images are left" in str(result.exception)
    assert not (tmp_path / "to").exists()
    truth = tmp_path / "truth.csv"
    truth.write_text("key,label\nnowhere,0\n")
    result = CliRunner().invoke(app, [*words, "--target-precision", "0.9", "--truth", str(truth)])
    assert "of its 1 key none is among the labelled images. It has nowhere; the output has " in str(result.exception)
    assert not (tmp_path / "to").exists()


def test_truths_drawn_from_distinct_images_all_count(labelled, tmp_path):
    """Of some images with the same bytes it is the one that was drawn that stays."""
    drawn = sample(labelled.out, save=tmp_path / "drawn.csv", num=1000, unique=True, images=False)
    assert drawn.images == 249
    frame = pd.read_csv(tmp_path / "drawn.csv")
    labels = {row["key"]: row["class_name"] for row in labelled.rows()}
    frame["truth"] = [labels[key] for key in frame["key"]]
    frame.to_csv(tmp_path / "truth.csv", index=False)
    words = {"target_precision": 0.9, "truth": tmp_path / "truth.csv", "engine": "inline"}
    assert export(labelled.out, tmp_path / "to", "csv", **words).promise.num_truths == 249
    # where no class fits, every label is wrong
    scores = {row["key"]: row["score"] for row in labelled.rows()}
    frame.loc[frame["key"].map(scores).rank(method="first") <= 100, "truth"] = "none"
    frame.drop(columns="drawn", errors="ignore").to_csv(tmp_path / "none.csv", index=False)
    words["truth"] = tmp_path / "none.csv"
    with pytest.raises(RequestError, match=r"with 249 truths \(100 of them none, which counts as wrong\): at least"):
        export(labelled.out, tmp_path / "none", "csv", **words | {"target_precision": 0.99})
    summary = export(labelled.out, tmp_path / "none", "csv", **words | {"target_precision": 0.8})
    assert 100 < summary.exported < 200
    said = "249 truths: 249 used; 100 of them none: no class fits, so they count as wrong"
    assert summary.truth.in_words == said
    assert f"What was counted: {said}." in (tmp_path / "none" / "README.md").read_text()


def test_a_promise_is_recorded(labelled, tmp_path):
    summary = export(labelled.out, tmp_path / "to", "csv", engine="inline", target_precision=0.88)
    assert summary.promise.threshold == summary.threshold
    assert repr(summary).startswith("ExportSummary(promise='")
    assert f"{100 * summary.promise.target:.6g} % of the labels are right; risk" in repr(summary)
    about = json.loads((tmp_path / "to" / "export.json").read_text())
    assert about["promise"]["threshold"] == summary.threshold
    frame = pd.concat(map(pd.read_csv, (tmp_path / "to" / "data").iterdir()))
    assert np.float32(frame["score"].min()) >= np.float32(summary.threshold)
    assert summary.rejected["target_precision"] > 0
    assert summary.truth.used == about["truth"]["used"] == summary.promise.num_truths
    assert "88 % of the labels are right" in (tmp_path / "to" / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"to": "{out}"}, "is OUT itself"),
        ({"to": "{out}/predictions/x"}, "OUT's own predictions"),
        ({"to": "{shards}/dataset"}, "which images are read from"),
        ({"to": "{loose}"}, "which images are read from"),
        ({"to": "ftp://x"}, "unknown scheme"),
        ({"to": "s3://key:secret@bucket/x"}, r"s3://\*\*\*@bucket/x: holds credentials"),
        ({"to": "{parent}"}, "holds something else"),
        ({"min_score": 0.99999}, "of 250 images none passes"),
        ({"truth": "t.csv"}, "give both"),
        ({"min_score": 2}, "min_score"),
        ({"format": "tar"}, "format"),
        ({"colour": 1}, "unknown option 'colour'"),
    ],
)
def test_requests_that_are_wrong_write_nothing(labelled, tmp_path, words, says):
    places = {"out": labelled.out, "shards": labelled.shards, "loose": labelled.loose, "parent": labelled.out.parent}
    words = {"to": str(tmp_path / "to"), "format": "csv", "engine": "inline"} | words
    before = set(labelled.out.parent.rglob("*"))
    with pytest.raises(RequestError, match=says):
        export(labelled.out, **(words | {"to": words["to"].format(**places)}))
    assert set(labelled.out.parent.rglob("*")) == before
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_job_is_exported_only_on_request(labelled, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(labelled.out, out)
    (out / "_SUCCESS").unlink()
    sorted((out / "predictions").glob("*-last.parquet"))[0].unlink()
    with pytest.raises(OutputError, match=r"is not finished: 3 of 4 units are labelled.*--partial"):
        export(out, tmp_path / "to", "csv", engine="inline")
    summary = export(out, tmp_path / "to", "csv", engine="inline", partial=True)
    assert 200 < summary.exported < 249
    assert not summary.complete
    assert "**The job was not finished**" in (tmp_path / "to" / "README.md").read_text()
    with pytest.raises(OutputError, match="it differs in the output that it is made of"):
        export(labelled.out, tmp_path / "to", "csv", engine="inline")


def test_on_s3(s3, sample_data: Path):
    bucket = s3.bucket()
    shard = s3.put(bucket, "in/a.tar", (sample_data / "shard-000.tar").read_bytes())
    out, to = f"s3://{bucket}/out", f"s3://{bucket}/to"
    common = {"engine": "inline", "s3_endpoint": s3.endpoint}
    words = {"weights_dir": str(sample_data / "weights"), "labels": str(sample_data / "classes.txt"), "limit": 40}
    assert (
        label(
            shard.rpartition("/")[0] + "/", out, model="shufflenet_v2_x0_5", precision="fp32", **words, **common
        ).exit_code
        == 0
    )
    summary = export(out, to, "webdataset", min_score=0.3, **common)
    assert (summary.exit_code, summary.exported) == (0, summary.selected)
    listed = s3.client.list_objects_v2(Bucket=bucket, Prefix="to/")["Contents"]
    names = {item["Key"].removeprefix("to/") for item in listed}
    success = json.loads(s3.client.get_object(Bucket=bucket, Key="to/_SUCCESS")["Body"].read())
    assert success["files"].keys() == {name for name in names if name.startswith("data/")}
    assert {"README.md", "classes.txt", "export.json"} <= names
    samples = 0
    for name in success["files"]:
        body = s3.client.get_object(Bucket=bucket, Key=f"to/{name}")["Body"].read()
        with tarfile.open(fileobj=io.BytesIO(body)) as tar:
            samples += sum(member.name.endswith(".cls") for member in tar)
    assert samples == summary.exported > 10
    assert export(out, to, "webdataset", min_score=0.3, **common).images == 0
    with pytest.raises(OutputError, match="which images are read from"):
        export(out, f"s3://{bucket}/in/to", "webdataset", **common)
