"""Inputs that cannot be read or are left out: each is counted and named, and a later run mends what it can."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import jpeg, make_tar, sample_members
from modes import modes_count
from small_jobs import options, rows

from pipeline import label, plan, status, verify
from pipeline.errors import OutputError, StorageError
from pipeline.storage.local import LocalStore
from pipeline.text.retrying import unread_rows


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with three images."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(["a.jpg", "b.jpg", "sub/c.jpg"]):
        (folder / name).write_bytes(jpeg(number))
    return folder


@pytest.fixture
def run(tmp_path: Path, sample_data: Path) -> Callable:
    """Label into one OUT."""
    return lambda *inputs, **more: label(
        [str(word) for word in inputs], tmp_path / "out", **options(sample_data, **more)
    )


def test_a_shard_without_a_sample_is_not_passed_over_in_silence(tmp_path: Path, run):
    empty, hidden = tmp_path / "zeros.tar", make_tar(tmp_path / "hidden.tar", [(".Trashes/a.jpg", jpeg(0))])
    empty.write_bytes(bytes(10_240))
    for _ in range(2):
        summary = run(empty, hidden)
        assert (summary.exit_code, summary.images, summary.passed_over) == (4, 0, 1)
        assert {unread.uri: (unread.reason, unread.message) for unread in summary.unread} == {
            str(path): ("empty", "it is a sound archive, but holds no sample") for path in (empty, hidden)
        }
    mended = run(empty, hidden, make_tar(tmp_path / "sound.tar", sample_members(2)))
    assert (mended.exit_code, mended.images, mended.unread) == (0, 2, ())
    assert verify(tmp_path / "out").discrepancies == ()


def test_names_that_look_alike_as_text_are_two_keys(tmp_path: Path, run):
    names = [rb"\xff.jpg", b"\xff.jpg", rb"\x5cxff.jpg", rb"back\slash.jpg"]
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(names):
        (folder / os.fsdecode(name)).write_bytes(jpeg(number))
    summary = run(folder)
    assert (summary.labelled, summary.exit_code) == (4, 0)
    keys = rows(tmp_path / "out").column("key").to_pylist()
    assert sorted(keys) == sorted([r"\x5cxff.jpg", r"\xff.jpg", r"\x5cx5cxff.jpg", r"back\slash.jpg"])
    assert verify(tmp_path / "out", deep=True).discrepancies == ()


# -- links and modes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "target"),  # it leads nowhere, or to itself
    [("photos", "gone.jpg"), ("photos/*", "z.jpg"), ("photos/**/*.jpg", "sub/../gone"), ("@list", "z.jpg")],
)
def test_a_link_that_leads_nowhere_is_one_image_that_could_not_be_read(
    photos: Path, run, monkeypatch: pytest.MonkeyPatch, word: str, target: str
):
    monkeypatch.chdir(photos.parent)
    (photos / "z.jpg").symlink_to(target)
    Path("list").write_text("photos/a.jpg\nphotos/b.jpg\nphotos/z.jpg\n")
    summary = run(word)
    assert (summary.exit_code, summary.unread_images, summary.failed_units) == (4, 1, 0)
    (unread,) = summary.unread_examples
    assert unread.uri == f"{photos}/z.jpg"
    assert unread.reason == "shard_missing"
    found = verify("out")
    assert found.discrepancies == ()  # its row is in quarantine
    assert (found.samples, found.quarantined) == (summary.images, 1)
    again = run(word)
    assert (again.exit_code, again.images, again.unread_images) == (4, 0, 1)
    # mended: the image is there
    (photos / "z.jpg").unlink()
    (photos / "z.jpg").write_bytes(jpeg(9))
    assert [line for line in verify("out").discrepancies if "changed since they were planned" in line]
    mended = run(word)
    assert (mended.exit_code, mended.unread_images) == (0, 0)
    assert rows(Path("out")).num_rows == verify("out").samples == summary.images
    assert verify("out").discrepancies == ()


def test_a_link_that_led_nowhere_and_is_gone_is_forgotten(photos: Path, run, tmp_path: Path):
    (photos / "z.jpg").symlink_to("gone.jpg")
    (photos / "more").symlink_to("/nowhere/photos")  # of a folder, perhaps
    summary = run(photos)
    assert [failure.uri for failure in summary.failures] == [f"{photos}/more"]
    assert (summary.exit_code, summary.unread_images) == (4, 1)
    (photos / "z.jpg").unlink()
    (photos / "more").unlink()
    summary = run(photos)
    assert (summary.exit_code, summary.failed_units, summary.unread_images) == (0, 0, 0)
    assert verify(tmp_path / "out").discrepancies == ()
    assert rows(tmp_path / "out").num_rows == 3


@pytest.mark.parametrize("word", ["", "/*", "/*.tar"])
def test_shards_behind_broken_links_fail_as_in_a_list(tmp_path: Path, run, sample_data: Path, word: str):
    shards = tmp_path / "shards"
    shards.mkdir()
    make_tar(shards / "a.tar", sample_members(2))
    (shards / "b.tar").symlink_to("nowhere.tar")
    (shards / "c.tar").symlink_to("d.tar")
    (shards / "d.tar").symlink_to("c.tar")
    (tmp_path / "list").write_text("".join(f"{shards}/{name}.tar\n" for name in "abcd"))
    listed = label(f"@{tmp_path}/list", tmp_path / "listed", **options(sample_data))
    summary = run(f"{shards}{word}")
    assert summary.exit_code == listed.exit_code == 4
    assert sorted(failure.uri[-5:] for failure in summary.failures) == ["b.tar", "c.tar", "d.tar"]
    assert summary.labelled == 2
    assert status(tmp_path / "out").unreadable != ()
    assert verify(tmp_path / "out").exit_code == 1  # nobody knows what was in them
    for name in "bcd":
        (shards / f"{name}.tar").unlink()
    make_tar(shards / "b.tar", sample_members(2, start=5))
    summary = run(f"{shards}{word}")
    assert (summary.exit_code, summary.labelled) == (0, 2)
    assert verify(tmp_path / "out").discrepancies == ()


@pytest.mark.parametrize("word", ["", "/*", "/*/*.jpg", "/**/*.jpg"])
def test_what_nobody_may_open_is_named_and_read_when_it_may(photos: Path, tmp_path: Path, run, word: str):
    (photos / "closed").mkdir()
    (photos / "closed" / "d.jpg").write_bytes(jpeg(3))
    (photos / "sub" / "e.jpg").write_bytes(jpeg(4))
    (photos / "closed").chmod(0)
    (photos / "sub" / "e.jpg").chmod(0)
    with modes_count():
        summary = run(f"{photos}{word}")
        assert (summary.exit_code, run(f"{photos}{word}").exit_code) == (4, 4)
        counted = plan(f"{photos}{word}", measure=False)
        verified = verify(tmp_path / "out")
    assert (verified.exit_code, verified.unread_by_reason) == (1, {"shard_forbidden": 1})
    assert unread_rows(status(tmp_path / "out").quarantined) == unread_rows(summary.quarantined_by_reason) != []
    assert [(failure.uri, failure.reason) for failure in summary.failures] == [(f"{photos}/closed/", "shard_forbidden")]
    assert "Permission denied" in summary.failures[0].message
    assert [(image.uri, image.reason) for image in summary.unread_examples] == [
        (f"{photos}/sub/e.jpg", "shard_forbidden")
    ]
    assert (counted.unreadable, counted.unreadable_images) == (1, 1)
    (photos / "closed").chmod(0o755)
    (photos / "sub" / "e.jpg").chmod(0o644)
    summary = run(f"{photos}{word}")
    assert summary.exit_code == 0
    assert "changed since the last run: 1 image, labelled again, images in further units" in summary.notes
    labelled = {row["shard"] + row["key"] for row in rows(tmp_path / "out").to_pylist()}
    assert labelled >= {f"{photos}/closed/d.jpg", f"{photos}/sub/e.jpg"}
    assert verify(tmp_path / "out").discrepancies == ()


def test_what_is_not_a_file_does_not_block(photos: Path, tmp_path: Path, run):
    os.mkfifo(photos / "pipe.jpg")
    summary = run(photos)
    assert (summary.exit_code, summary.labelled, summary.unread_images) == (4, 3, 1)
    assert "not a regular file" in summary.unread_examples[0].message
    assert verify(tmp_path / "out").discrepancies == ()


def test_inputs_that_are_all_unreadable_are_a_wrong_request(photos: Path, tmp_path: Path, shardlabel):
    empty = tmp_path / "links"
    empty.mkdir()
    for name in ("a.jpg", "b.tar", "more"):
        (empty / name).symlink_to("nowhere")
        refused = shardlabel("label", empty, "--out", tmp_path / "out", "--engine", "inline")
        assert refused.returncode == 2
        assert f"none of the inputs can be read: {empty}/" in refused.stderr
        (empty / name).unlink()
    assert not (tmp_path / "out").exists()


def test_the_command_names_what_it_could_not_read(photos: Path, tmp_path: Path, shardlabel, sample_data: Path):
    for number in range(25):
        (photos / f"gone-{number:02d}.jpg").symlink_to("nowhere")
    words = [photos, "--out", tmp_path / "out", "--engine", "inline", "-m", "shufflenet_v2_x0_5"]
    words += ["--weights-dir", sample_data / "weights", "--labels", sample_data / "classes.txt"]
    for _ in range(2):
        done = shardlabel("label", *words)
        assert done.returncode == 4
        lines = done.stderr.splitlines()
        assert f"not read: {photos}/gone-00.jpg: no such file" in lines
        assert "not read: 5 more images; see OUT/quarantine" in lines
        assert lines[-1] == "shardlabel: 25 images could not be read; run the same command to try them again"


# -- left out ---------------------------------------------------------------------------------------------

OTHERS = ["f", "x.jpg.1", "y.jpg_large", "notes.TXT", "more.txt", "d.tar.lz4", ".DS_Store", "._a.jpg", "__MACOSX/q.jpg"]
COUNTS = {".txt": 2, "": 1, ".1": 1, ".jpg_large": 1, ".tar.lz4": 1}


@pytest.mark.parametrize("word", ["photos", "photos/*", "photos/**", "./photos/"])
def test_what_is_left_out_for_its_name_is_counted_and_stays_known(
    photos: Path, tmp_path: Path, run, monkeypatch: pytest.MonkeyPatch, word: str, shardlabel
):
    monkeypatch.chdir(tmp_path)
    for name in OTHERS:
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(b"x")
    summary = run(word)
    assert (summary.exit_code, summary.images) == (0, 3)
    assert summary.left_out == COUNTS
    assert run(word).left_out == COUNTS  # not doubled
    assert status("out").left_out == verify("out").left_out == plan(word, measure=False).left_out == COUNTS
    assert verify("out").discrepancies == ()
    line = "6 files, for their names (2 .txt, 1 without extension, 1 .1, 1 .jpg_large, 1 .tar.lz4)"
    assert f"left out      {line}" in shardlabel("status", "out").stdout
    assert f"left out of the inputs: {line}" in shardlabel("verify", "out").stdout
    assert line in shardlabel("plan", word, "--no-measure").stdout
    assert json.loads(shardlabel("status", "out", "--json").stdout)["left_out"] == COUNTS
    assert json.loads(shardlabel("verify", "out", "--json").stdout)["left_out"] == COUNTS
    for name in ("notes.TXT", "more.txt"):
        (photos / name).unlink()
    assert ".txt" not in run(word).left_out


def test_a_folder_as_img2dataset_dali_and_energon_leave_it_is_labelled_without_a_word(tmp_path: Path, run):
    """img2dataset 1.47.0, DALI 2.4, megatron-energon 7.4.1."""
    folder = tmp_path / "set"
    (folder / ".nv-meta").mkdir(parents=True)
    for number in range(2):
        make_tar(folder / f"{number:05d}.tar", sample_members(2, start=10 * number))
        for ending in (".parquet", "_stats.json", ".idx", ".tar.idx"):
            (folder / f"{number:05d}{ending}").write_bytes(b"x")
    for name in ("index.sqlite", "split.yaml", "dataset.yaml", ".info.json"):
        (folder / ".nv-meta" / name).write_bytes(b"x")
    summary = run(folder)
    assert (summary.images, summary.units_total, summary.left_out, summary.notes) == (4, 2, {}, ())
    assert verify(tmp_path / "out").left_out == plan(folder, measure=False).left_out == {}


def test_what_several_inputs_leave_out_is_added_up(photos: Path, tmp_path: Path, run):
    shards = tmp_path / "shards"
    shards.mkdir()
    make_tar(shards / "a.tar", sample_members(2))
    (shards / "b.idx").write_bytes(b"")  # that of a shard which is not there
    (photos / "a.idx").write_bytes(b"")
    assert run(photos).left_out == {".idx": 1}
    assert run(shards).left_out == {".idx": 2}
    assert run(shards, photos).left_out == {".idx": 2}
    (photos / "a.idx").unlink()
    assert run(photos).left_out == {".idx": 1}
    assert status(tmp_path / "out").left_out == {".idx": 1}


def test_one_folder_by_two_names_leaves_out_once(photos: Path, run):
    (photos / "a.idx").write_bytes(b"")
    assert run(photos, f"{photos}/").left_out == {".idx": 1}
    assert run(f"{photos}/../{photos.name}").left_out == {".idx": 1}


def test_a_closed_file_that_is_left_out_anyway_is_left_out(photos: Path, run, monkeypatch: pytest.MonkeyPatch):
    for name in ("LICENSE", "a.jpg.bak"):
        (photos / name).write_bytes(b"x")
    monkeypatch.setattr("pipeline.storage.local._may_read", lambda path, _status: "LICENSE" not in path)
    summary = run(photos)
    assert (summary.exit_code, summary.left_out) == (0, {"": 1, ".bak": 1})


def test_images_beside_a_dead_link_that_is_called_a_tar_are_labelled(photos: Path, shardlabel):
    (photos / "old.tar").symlink_to("gone.tar")
    planned = json.loads(shardlabel("plan", photos, "--no-measure", "--json").stdout)
    assert (planned["loose_images"], planned["unreadable"]) == (3, 1)
    assert planned["notes"] == [f"{photos}/ holds 1 tar and 3 loose images: both are labelled"]


def test_an_input_of_which_all_is_left_out_is_refused_with_the_counts(tmp_path: Path, shardlabel):
    folder = tmp_path / "others"
    folder.mkdir()
    for name in ("a.tar.lz4", "b", "c.jpg.1"):
        (folder / name).write_bytes(b"x")
    for word in (folder, f"{folder}/*"):
        refused = shardlabel("label", word, "--out", tmp_path / "out")
        assert refused.returncode == 2
        assert "left out: 3 files, for their names (1 without extension, 1 .1, 1 .tar.lz4)" in refused.stderr


# -- OUT --------------------------------------------------------------------------------------------------


def test_an_out_without_modes_links_and_sync_of_folders_is_an_out_like_others(
    photos: Path, tmp_path: Path, run, monkeypatch: pytest.MonkeyPatch
):
    """As on FAT and on many network shares."""
    synced = os.fsync

    def refuse(*words: object, **more: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def sync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        synced(handle)

    for name, lacking in (("chmod", refuse), ("link", refuse), ("fsync", sync)):
        monkeypatch.setattr(os, name, lacking)
    summary = run(photos)
    assert (summary.exit_code, summary.labelled, summary.notes) == (0, 3, ())
    (photos / "new.jpg").write_bytes(jpeg(7))
    assert (run(photos).labelled, run(photos).images) == (1, 0)
    assert verify(tmp_path / "out").discrepancies == ()
    assert not list((tmp_path / "out").rglob(".tmp-*"))


@pytest.mark.parametrize("fails_at", ["job.json", "keys-", "units.parquet"])
def test_an_out_that_cannot_be_begun_is_left_as_it_was(
    photos: Path, tmp_path: Path, run, monkeypatch: pytest.MonkeyPatch, fails_at: str
):
    def full(self: LocalStore, uri: str, data: bytes) -> bool:
        if fails_at in uri:
            raise StorageError(f"{uri}: No space left on device")
        return publish(self, uri, data)

    publish, replace = LocalStore.publish, LocalStore.replace
    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "publish", full)
        patch.setattr(LocalStore, "replace", lambda self, uri, data: full(self, uri, data) or replace(self, uri, data))
        with pytest.raises(OutputError, match="No space left"):
            run(photos)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    assert run(photos).exit_code == 0
    assert verify(tmp_path / "out").discrepancies == ()
