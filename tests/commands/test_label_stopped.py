"""A run that is stopped: what is published counts, and parts are small while a job is small."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import threading

import pytest
from conftest import jpeg, make_tar, sample_members
from small_jobs import options, rows

from pipeline import label, status, verify
from pipeline.inputs.units import read_units
from pipeline.job.progress import Json, Silent
from pipeline.labeler import image_path
from pipeline.labeler.tasks import ChunkResult
from pipeline.output.ledger import Ledger
from pipeline.output.runs import known_rate
from pipeline.storage import Entry, Storage

NUM_IMAGES = 80


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(NUM_IMAGES):
        (folder / f"{number:03d}.jpg").write_bytes(b"no image" if number % 20 == 7 else jpeg(number))
    return folder


@pytest.fixture(scope="module")
def undisturbed(photos, sample_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert label(str(photos), out, **options(sample_data)).exit_code == 0
    return out


def part_rows(out) -> set[int | None]:
    return {unit.rows_per_part for unit in read_units(Ledger(str(out), Storage()), Storage())}


@pytest.fixture
def stop_at(monkeypatch):
    """Presses Ctrl-C when so many images of a unit are done, and waits until it was heard."""

    def arm(images: int, number: int = signal.SIGINT) -> None:
        gather, done, heard = ChunkResult.gather, itertools.count(1), threading.Event()
        note = Silent.note
        monkeypatch.setattr(Json, "note", lambda self, line: (note(self, line), heard.set()))

        def gather_and_stop(result, part, receipt, aliases):
            gather(result, part, receipt, aliases)
            if 16 * next(done) >= images and not heard.is_set():
                os.kill(os.getpid(), number)
                assert heard.wait(20)

        monkeypatch.setattr(ChunkResult, "gather", gather_and_stop)

    return arm


@pytest.mark.parametrize(("images", "published"), [(16, 0), (48, 32), (80, 64)])
def test_what_is_published_counts_after_a_stop(
    photos, undisturbed, sample_data, tmp_path, monkeypatch, stop_at, capsys, images, published
):
    monkeypatch.setattr(image_path, "_GRACE_S", 0)
    out = tmp_path / "out"
    stop_at(images, signal.SIGINT if published else signal.SIGTERM)
    summary = label(str(photos), out, progress="json", **options(sample_data))
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    last = [line for line in said if line["event"] == "progress"][-1]
    found = status(out)
    assert summary.exit_code == 130
    assert summary.images == found.images == last["images"] == last["published"] == published
    assert (summary.labelled, summary.quarantined_by_reason) == (found.labelled, found.quarantined)
    assert (said[-1]["event"], said[-1]["images"], said[-1]["parts"]) == ("summary", published, published // 32)

    assert (summary.labelled_in_out, summary.quarantined_in_out) == (found.labelled, sum(found.quarantined.values()))

    monkeypatch.undo()
    summary = label(str(photos), out, **options(sample_data))
    assert (summary.exit_code, summary.images) == (0, NUM_IMAGES - published)
    assert (summary.labelled_in_out, summary.quarantined_in_out) == (NUM_IMAGES - 4, 4)
    assert status(out).images_per_s == pytest.approx(summary.images_per_s, rel=0.05)
    assert rows(out).equals(rows(undisturbed))
    assert rows(out, "quarantine").equals(rows(undisturbed, "quarantine"))
    assert sorted(os.listdir(out / "predictions")) == sorted(os.listdir(undisturbed / "predictions"))
    assert verify(out).exit_code == 0


def test_a_part_that_is_nearly_done_is_finished_first(photos, sample_data, tmp_path, stop_at):
    stop_at(16)
    summary = label(str(photos), tmp_path / "out", progress="json", **options(sample_data))
    assert (summary.exit_code, summary.images, status(tmp_path / "out").images) == (130, 32, 32)


def test_sizes_are_recorded_and_what_was_planned_keeps_them(undisturbed, photos, sample_data, tmp_path):
    assert part_rows(undisturbed) == {32}
    fixed = tmp_path / "fixed"
    label(str(photos), fixed, **options(sample_data, rows_per_part=10_000))
    assert part_rows(fixed) == {None}
    assert len(os.listdir(fixed / "predictions")) == 1
    make_tar(tmp_path / "a.tar", sample_members(2))
    label(str(tmp_path / "a.tar"), fixed, **options(sample_data))  # more inputs go on as it was begun
    assert part_rows(fixed) == {None}


def test_an_output_of_an_older_version_goes_on_as_it_was(photos, sample_data, tmp_path):
    out = tmp_path / "out"
    label(str(photos), out, limit=40, **options(sample_data, rows_per_part=10_000))
    job = json.loads((out / "job.json").read_text())
    del job["part_sizes"]
    (out / "job.json").write_text(json.dumps(job))
    assert label(str(photos), out, **options(sample_data)).exit_code == 0
    assert part_rows(out) == {None}
    assert json.loads((out / "job.json").read_text())["results"]["rows_per_part"] == 10_000


def test_a_copy_has_the_rate_of_the_last_run_or_none(undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "copy", copy_function=shutil.copyfile)
    assert status(tmp_path / "copy").images_per_s == status(undisturbed).images_per_s > 0
    job = json.loads((undisturbed / "job.json").read_text())
    assert [set(run) for run in job["runs"]] == [{"run", "started_at", "ended_at", "images", "seconds"}]
    for runs, entry, known in (
        ([], 0, False),
        ([{"started_at": 10.0}], 11, True),
        ([{"started_at": 10.0}], 900, False),
    ):
        parts = [(Entry("", 1, "", at), 30) for at in (20.0, 30.0, 50.0)]
        assert known_rate({"runs": runs}, Entry("", 1, "", entry), parts) == ((2.0, True) if known else (None, False))


def test_the_summary_tells_all_time_and_all_images(photos, sample_data, tmp_path, shardlabel):
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options(sample_data).items()]
    first = shardlabel("label", photos, "-o", tmp_path / "out", "--limit", 40, *words)
    assert re.search(r"images +40 in [\d.,]+ s, [\d.,]+ s of them starting; [\d.,]+ images/s", first.stdout), first
    assert "in OUT" not in first.stdout
    then = shardlabel("label", photos, "-o", tmp_path / "out", *words)
    assert re.search(r"in OUT +80 images: 76 labelled, 4 quarantined", then.stdout), then
    assert re.search(r"rate +[\d.,]+ images/s in the last run", shardlabel("status", tmp_path / "out").stdout)
