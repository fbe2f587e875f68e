"""A run that is stopped: what is published counts, and parts are small while a job is small."""

from __future__ import annotations

import itertools
import json
import os
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
from pipeline.storage import Storage

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

        def gather_and_stop(result, part, receipt):
            gather(result, part, receipt)
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

    monkeypatch.undo()
    summary = label(str(photos), out, **options(sample_data))
    assert (summary.exit_code, summary.images) == (0, NUM_IMAGES - published)
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
