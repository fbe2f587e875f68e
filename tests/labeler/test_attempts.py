"""Marks of attempts: what they count, and that none is left by whoever can still take it away."""

from __future__ import annotations

import json
import shutil

import pytest
from conftest import make_tar, sample_members
from small_jobs import labeler, options

from pipeline import label, status, verify
from pipeline.config.members import parse_members
from pipeline.errors import ObjectChanged, StorageError
from pipeline.inputs.find import find_inputs
from pipeline.inputs.units import tar_unit
from pipeline.labeler.attempts import DEATHS_BEFORE_GIVING_UP, DEATHS_BEFORE_ISOLATION, Attempts
from pipeline.models.weights import resolve
from pipeline.output.ledger import Ledger
from pipeline.storage import Storage

UNIT = "0123456789abcdef"


def attempts(storage: Storage, out: str, run: str = "trial") -> Attempts:
    return Attempts(Ledger(out, storage), storage, run)


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path):
    if request.param == "local":
        return Storage(), str(tmp_path / "out")
    s3 = request.getfixturevalue("s3")
    return s3.storage(), f"s3://{s3.bucket()}/out"


def test_only_what_was_never_ended_counts(place):
    storage, out = place
    assert attempts(storage, out).begin(UNIT) == 0
    assert attempts(storage, out).begin(UNIT) == 1, "the first one died, or is still at work"
    assert attempts(storage, out).begin("f" * 16) == 0
    third = attempts(storage, out)
    assert third.begin(UNIT) == 2
    third.end(UNIT, 2)
    assert attempts(storage, out).begin(UNIT) == 2
    names = Ledger(out, storage).names("attempts")
    assert names == [f"{UNIT}-1.json", f"{UNIT}-2.json", f"{UNIT}-3.json", f"{'f' * 16}-1.json"]
    assert {"run", "host", "pid", "begun_at"} == set(json.loads(storage.read(f"{out}/attempts/{names[0]}")))
    Ledger(out, storage).remove_attempts()
    assert attempts(storage, out).begin(UNIT) == 0


def test_a_store_that_ignores_conditions_counts_all_the_same(tmp_path, monkeypatch):
    storage = Storage()
    monkeypatch.setattr(storage, "publish", lambda uri, data: storage.replace(uri, data) or True)
    out = str(tmp_path / "out")
    assert [attempts(storage, out).begin(UNIT) for _ in range(3)] == [0, 1, 2]


def test_a_mark_that_cannot_be_removed_stops_nobody(tmp_path, monkeypatch):
    storage = Storage()
    made = attempts(storage, str(tmp_path / "out"))
    deaths = made.begin(UNIT)

    def refuse(_uri):
        raise StorageError("no")

    monkeypatch.setattr(storage, "delete", refuse)
    made.end(UNIT, deaths)
    assert (tmp_path / "out/attempts" / f"{UNIT}-1.json").exists()


# -- what a labeler does with them -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(sample_data, tmp_path_factory):
    """A labeler and a unit with a broken image in it."""
    folder = tmp_path_factory.mktemp("attempts")
    shard = make_tar(folder / "a.tar", [*sample_members(40), ("bad.jpg", b"no image"), *sample_members(20, start=40)])
    member = resolve(parse_members(("shufflenet_v2_x0_5",))[0], str(sample_data / "weights"), Storage())
    unit = tar_unit(next(iter(find_inputs((str(shard),), Storage()).tars.values())))
    made = labeler([member], folder / "out", device_thread=False)
    yield made, unit, folder / "out"
    made.close()


@pytest.fixture
def again(made):
    """The same, and nothing published."""
    shutil.rmtree(made[2], ignore_errors=True)
    return made


def marks(out) -> list[str]:
    return [path.name for path in (out / "attempts").iterdir()]


def leave_marks(out, unit_id: str, count: int, run: str = "trial") -> None:
    for _ in range(count):
        attempts(Storage(), str(out), run).begin(unit_id)


def test_a_mark_is_there_while_a_unit_is_labelled_and_no_longer(again):
    labeler, unit, out = again
    running = labeler(unit)
    next(running)
    assert marks(out) == [f"{unit.id}-1.json"]
    assert list(running)[-1].finished
    assert marks(out) == []
    assert list(labeler(unit))[-1].finished
    assert marks(out) == []


@pytest.mark.parametrize("what", ["full", "changed", "stopped", "given up", "a bug"])
def test_nothing_is_left_of_an_attempt_that_ends_in_another_way(again, monkeypatch, what):
    labeler, unit, out = again
    leave_marks(out, unit.id, 1)

    def fails(error):
        def call(*_words, **_options):
            raise error

        return call

    if what == "full":
        monkeypatch.setattr(labeler._writer, "publish", fails(StorageError("no space left")))
        assert list(labeler(unit))[-1].failure == "unwritable"
    elif what == "changed":
        monkeypatch.setattr("pipeline.storage.local.FileStream.__init__", fails(ObjectChanged("changed")))
        assert list(labeler(unit))[-1].failure == "unavailable"
    elif what == "stopped":
        asked = iter([False])
        assert not list(labeler(unit, stopping=lambda: next(asked, True)))[-1].failure
    elif what == "given up":
        running = labeler(unit)
        next(running)
        running.close()
    else:
        monkeypatch.setattr(labeler._writer, "publish", fails(ZeroDivisionError()))
        with pytest.raises(ZeroDivisionError):
            list(labeler(unit))
    assert marks(out) == [f"{unit.id}-1.json"], "the mark of one that died stays"


def test_spurious_marks_cost_time_and_no_row(again, monkeypatch):
    labeler, unit, out = again
    list(labeler(unit))
    before = {path.relative_to(out): path.read_bytes() for path in out.rglob("*.parquet")}
    shutil.rmtree(out)
    leave_marks(out, unit.id, DEATHS_BEFORE_ISOLATION)

    def never(*_words, **_options):
        raise AssertionError("an image of a suspected unit was decoded by the labeler itself")

    monkeypatch.setattr("pipeline.labeler.decoders.decode", never)
    assert list(labeler(unit))[-1].finished
    assert {path.relative_to(out): path.read_bytes() for path in out.rglob("*.parquet")} == before
    assert len(before) == 4, "three parts, one of them with a quarantine file"


def test_a_receipt_tells_all_that_the_run_has_published_before_and_after_a_death(again):
    labeler, unit, out = again
    (*_, whole) = labeler(unit)
    for path in (out / "predictions").glob("*-last*"):
        path.unlink()
    (*_, resumed) = labeler(unit)
    (*_, repeated) = labeler(unit)
    (*_, later) = labeler(unit, parts_done=2)
    for receipt in (resumed, repeated):
        for name in ("num_samples", "num_labelled", "num_quarantined", "num_events", "parts", "finished"):
            assert getattr(receipt, name) == getattr(whole, name), name
    assert (whole.num_samples, whole.num_labelled, whole.num_quarantined) == (61, 60, {"not_an_image": 1})
    assert later.num_samples == 11, "what was there when the run began is not of this run"


def test_a_unit_that_goes_on_killing_is_given_up(again):
    labeler, unit, out = again
    leave_marks(out, unit.id, DEATHS_BEFORE_GIVING_UP)
    (receipt,) = labeler(unit)
    assert (receipt.failure, receipt.num_samples, receipt.finished) == ("crashing", 0, False)
    assert f"{DEATHS_BEFORE_GIVING_UP} labelers died" in receipt.message
    assert not (out / "predictions").exists()


def test_drivers_that_were_killed_give_up_nothing(again):
    """However often a run was killed at one unit, the next one labels it."""
    labeler, unit, out = again
    leave_marks(out, unit.id, DEATHS_BEFORE_GIVING_UP, run="an earlier one")
    leave_marks(out, unit.id, DEATHS_BEFORE_GIVING_UP - 1)
    (out / "attempts" / f"{unit.id}-3.json").write_text("damaged")
    (*_, receipt) = labeler(unit)
    assert (receipt.failure, receipt.num_samples, receipt.finished) == (None, 61, True)


@pytest.mark.slow
def test_a_job_that_comes_to_its_end_leaves_no_marks_and_overwrite_clears_them(sample_data, tmp_path, monkeypatch):
    shard, out = make_tar(tmp_path / "a.tar", sample_members(2)), tmp_path / "out"
    assert label(str(shard), out, **options(sample_data, limit=1)).exit_code == 0
    unit_id = next((out / "predictions").iterdir()).name.split("-")[2]
    leave_marks(out, unit_id, 1)
    leave_marks(out, "f" * 16, 1)
    assert (status(out).units_done, status(out).units_total, verify(out).discrepancies) == (1, 1, ())
    with monkeypatch.context() as without:
        without.setattr("pipeline.output.ledger.Ledger.remove_attempts", lambda _: None)
        label(str(shard), out, **options(sample_data, limit=1, combine="vote", overwrite=True))
        assert marks(out) == []
        leave_marks(out, "f" * 16, 1)
    label(str(shard), out, **options(sample_data, combine="vote"))
    assert marks(out) == []
