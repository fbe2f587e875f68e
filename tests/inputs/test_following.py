"""A combined output follows the inputs of its source: touched, changed, gone, relocated; real outputs throughout."""

from __future__ import annotations

import os
import shutil

import pyarrow.parquet as pq
import pytest
from conftest import jpeg, make_tar

from pipeline import combine, label, relocate, verify
from pipeline.errors import ObjectForbidden
from pipeline.storage import Storage


@pytest.fixture
def run(sample_data, tmp_path):
    def run(out, inputs=tmp_path / "in", **more):
        options = {
            "weights_dir": str(sample_data / "weights"),
            "labels": str(sample_data / "classes.txt"),
            "engine": "inline",
            "precision": "fp32",
        }
        return label(inputs if isinstance(inputs, list) else str(inputs), out, model="squeezenet1_1", **options | more)

    return run


def rows(out, folder="predictions") -> list[dict]:
    return [row for path in (out / folder).glob("*.parquet") for row in pq.read_table(path).to_pylist()]


@pytest.fixture
def follow(run, tmp_path):
    """Label a folder into a source, combine that, and prove that the combined output holds the source's rows."""
    source, out = tmp_path / "source", tmp_path / "out"

    def label_source(*inputs, **more):
        return run(source, *inputs, keep_probs=True, **more)

    def combine_it():
        summary = combine(source, out, engine="inline", top_k=3)
        assert summary.exit_code == 0
        for place in (source, out):
            assert verify(place, deep=True).discrepancies == ()
        for folder in ("predictions", "quarantine"):
            wanted, found = (sorted((row["shard"], row["key"]) for row in rows(o, folder)) for o in (source, out))
            assert found == wanted
        assert combine(source, out, engine="inline", top_k=3).images == 0
        return summary

    (tmp_path / "in").mkdir()
    return label_source, combine_it


def touch(path):
    os.utime(path, ns=(1, 1))


def test_a_combination_follows_shards_that_were_touched_or_are_gone(follow, tmp_path):
    label_source, combine_it = follow
    for name in "abc":
        make_tar(tmp_path / "in" / f"{name}.tar", [("0.jpg", jpeg(1)), ("1.jpg", b"no picture"), ("2.jpg", jpeg(2))])
    label_source()
    combine_it()
    touch(tmp_path / "in" / "a.tar")
    (text,) = verify(tmp_path / "out").discrepancies
    assert f"label {tmp_path / 'source'} again" in text
    assert "run the same combine command again" in text
    label_source()
    assert combine_it().images == 0
    (tmp_path / "in" / "b.tar").unlink()
    (text,) = verify(tmp_path / "out").discrepancies
    assert f"label {tmp_path / 'source'} again with --prune" in text
    label_source(prune=True)
    assert combine_it().images == 0
    assert len(rows(tmp_path / "out")) == 4
    make_tar(tmp_path / "in" / "c.tar", [("0.jpg", jpeg(4))])
    label_source()
    assert combine_it().images == 1
    assert len(rows(tmp_path / "out")) == 3


def test_a_combination_follows_loose_images_that_were_touched_changed_or_are_gone(follow, tmp_path):
    label_source, combine_it = follow
    for at in range(5):
        (tmp_path / "in" / f"{at}.jpg").write_bytes(b"no picture" if at == 4 else jpeg(at))
    label_source()
    combine_it()
    touch(tmp_path / "in" / "0.jpg")
    (tmp_path / "in" / "1.jpg").unlink()
    label_source(prune=True)
    assert combine_it().images == 0
    (tmp_path / "in" / "2.jpg").write_bytes(jpeg(7))
    (tmp_path / "in" / "4.jpg").unlink()
    label_source(prune=True)
    assert combine_it().images == 1
    assert sorted(row["key"] for row in rows(tmp_path / "out")) == ["0.jpg", "2.jpg", "3.jpg"]
    (tmp_path / "in" / "2.jpg").unlink()  # all of its unit
    label_source(prune=True)
    assert combine_it().images == 0


def test_a_combination_follows_inputs_that_were_relocated(follow, tmp_path):
    label_source, combine_it = follow
    make_tar(tmp_path / "in" / "a.tar", [("0.jpg", jpeg(1)), ("1.jpg", jpeg(2))])
    (tmp_path / "in" / "x").mkdir()
    for at in range(3):
        (tmp_path / "in" / "x" / f"{at}.jpg").write_bytes(jpeg(at))
    label_source([str(tmp_path / "in" / "a.tar"), str(tmp_path / "in" / "x")])
    combine_it()
    shutil.copytree(tmp_path / "in", tmp_path / "there")
    (tmp_path / "there" / "x" / "1.jpg").unlink()
    relocate(tmp_path / "source", tmp_path / "in", tmp_path / "there")
    combine_it()
    assert sum(row["shard"].startswith(str(tmp_path / "there")) for row in rows(tmp_path / "out")) == 4


def test_a_combination_keeps_the_version_of_an_input_that_it_knows_better(follow, run, tmp_path):
    """The combined output itself was labelled since its source was."""
    label_source, combine_it = follow
    make_tar(tmp_path / "in" / "a.tar", [("0.jpg", jpeg(1))])
    (tmp_path / "in" / "x").mkdir()
    (tmp_path / "in" / "x" / "0.jpg").write_bytes(jpeg(2))
    (tmp_path / "in" / "x" / "1.jpg").write_bytes(jpeg(3))
    inputs = [str(tmp_path / "in" / "a.tar"), str(tmp_path / "in" / "x")]
    label_source(inputs)
    combine_it()
    touch(tmp_path / "in" / "a.tar")
    touch(tmp_path / "in" / "x" / "0.jpg")
    (tmp_path / "in" / "x" / "1.jpg").write_bytes(jpeg(4))
    make_tar(tmp_path / "in" / "b.tar", [("0.jpg", jpeg(1))])
    run(tmp_path / "out", [*inputs, str(tmp_path / "in" / "b.tar")], top_k=3)
    assert verify(tmp_path / "out").exit_code == 0
    assert combine(tmp_path / "source", tmp_path / "out", engine="inline", top_k=3).images == 0
    assert verify(tmp_path / "out").exit_code == 0
    assert len(rows(tmp_path / "out")) == 4  # with those of the shard and of the version that only it has
    label_source(inputs)
    combine(tmp_path / "source", tmp_path / "out", engine="inline", top_k=3)
    assert verify(tmp_path / "out").exit_code == 0
    assert len(rows(tmp_path / "out")) == 4


def test_a_run_that_is_killed_before_it_writes_the_plan_is_made_good(follow, tmp_path, monkeypatch):
    label_source, combine_it = follow
    make_tar(tmp_path / "in" / "a.tar", [("0.jpg", jpeg(1))])
    (tmp_path / "in" / "x").mkdir()
    for at in range(3):
        (tmp_path / "in" / "x" / f"{at}.jpg").write_bytes(jpeg(at))
    label_source([str(tmp_path / "in" / "a.tar"), str(tmp_path / "in" / "x")])
    combine_it()
    shutil.copytree(tmp_path / "in", tmp_path / "there")
    (tmp_path / "there" / "x" / "1.jpg").unlink()
    relocate(tmp_path / "source", tmp_path / "in", tmp_path / "there")
    monkeypatch.setattr("pipeline.inputs.plan.Plan.write", None)
    with pytest.raises(TypeError):
        combine(tmp_path / "source", tmp_path / "out", engine="inline", top_k=3)
    monkeypatch.undo()
    assert verify(tmp_path / "out").exit_code == 1
    combine_it()


def test_an_image_that_could_be_read_later_is_combined_later(follow, tmp_path):
    """The source labels its slice again under the same id."""
    label_source, combine_it = follow
    for at in range(3):
        (tmp_path / "in" / f"{at}.jpg").write_bytes(jpeg(at))
    (tmp_path / "in" / "3.jpg").symlink_to(tmp_path / "later.jpg")
    label_source()
    combine_it()
    (tmp_path / "later.jpg").write_bytes(jpeg(5))
    label_source()
    combine_it()
    assert len(rows(tmp_path / "out")) == 4


def test_an_image_that_was_planned_and_could_be_read_later_is_combined_later(follow, tmp_path, monkeypatch):
    """Its version is as planned: neither the id of its slice nor the key list tells that it was labelled again."""
    label_source, combine_it = follow
    for at in range(4):
        (tmp_path / "in" / f"{at}.jpg").write_bytes(jpeg(at))
    fetch = Storage.fetch

    def forbidden(self, entry):
        if entry.uri.endswith(("/1.jpg", "/2.jpg")):
            raise ObjectForbidden(f"{entry.uri}: not allowed")
        return fetch(self, entry)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "fetch", forbidden)
        label_source()
        assert combine_it().images == 4  # two of them without a label
    label_source()
    combine_it()
    assert (len(rows(tmp_path / "out")), rows(tmp_path / "out", "quarantine")) == (4, [])
