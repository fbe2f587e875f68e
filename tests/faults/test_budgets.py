"""How much may go wrong before a job stops by itself: bad samples by rate, units by count, labelers by patience."""

from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path

import pytest
from conftest import make_tar, sample_members
from small_jobs import options

from pipeline import label, verify
from pipeline.cli.summaries import print_failures
from pipeline.engines.on_ray import RayEngine
from pipeline.engines.workload import MAX_DEATHS, DeathLimit, Workload
from pipeline.errors import EngineError, RequestError
from pipeline.job.summary import Budget
from pipeline.job.tracking import Tracker
from pipeline.records import Receipt, Unit, UnitKind


@pytest.fixture
def gaps(tmp_path: Path) -> str:
    """A brace range of 60 shards, of which only the last is there."""
    make_tar(tmp_path / "s-59.tar", sample_members(3))
    return str(tmp_path / "s-{00..59}.tar")


def test_a_job_whose_units_cannot_be_read_stops_early(gaps, sample_data, tmp_path, capsys):
    summary = label(gaps, tmp_path / "out", **options(sample_data, max_failed_units=5))
    assert (summary.exit_code, summary.failed_units_exceeded) == (4, True)
    assert 6 <= summary.failed_units < 20
    assert summary.images == 0
    print_failures(summary)
    *listed, last = capsys.readouterr().err.splitlines()
    assert len(listed) == summary.failed_units
    assert "more than --max-failed-units allows" in last
    assert not (tmp_path / "out/_SUCCESS").exists()

    for number in range(59):
        make_tar(tmp_path / f"s-{number:02d}.tar", sample_members(1, start=3 + number))
    summary = label(gaps, tmp_path / "out", **options(sample_data, max_failed_units=0))
    assert (summary.exit_code, summary.labelled) == (0, 62)
    assert verify(tmp_path / "out").discrepancies == ()


def test_within_the_budget_the_rest_is_labelled(gaps, sample_data, tmp_path):
    summary = label(gaps, tmp_path / "out", **options(sample_data))
    assert (summary.exit_code, summary.failed_units_exceeded) == (4, False)
    assert (summary.failed_units, summary.labelled) == (59, 3)


@pytest.mark.parametrize(
    ("num_units", "given", "allowed"), [(10, "auto", 100), (1_000_000, "auto", 10_000), (10, 0, 0), (10, 7, 7)]
)
def test_what_the_budget_for_units_is(num_units, given, allowed):
    units = {str(n): (Unit(str(n), UnitKind.TAR, f"/{n}.tar", 1), None) for n in range(allowed + 1)}
    tracker, budget = Tracker(units), Budget(0.5, given, num_units)
    for number in range(allowed):
        tracker.take(Receipt(str(number), failure="shard_forbidden"))
    assert not budget.exceeded_by(tracker)
    tracker.take(Receipt(str(allowed), failure="shard_forbidden"))
    assert budget.exceeded_by(tracker)


@pytest.mark.parametrize("given", [-1, "many", 1.5, True])
def test_a_budget_that_is_no_number_is_refused(sample_data, tmp_path, given):
    with pytest.raises(RequestError, match="max_failed_units"):
        label("x.tar", tmp_path / "out", **options(sample_data, max_failed_units=given))


# -- labelers that die ------------------------------------------------------------------------------------


def test_workers_may_die_without_limit_while_there_is_progress():
    limit = DeathLimit()
    for deaths in range(1000):
        assert not limit.is_reached({"a": deaths, "b": 0})
        limit.note_progress()


def test_the_limit_is_reached_when_one_worker_dies_again_and_again():
    limit = DeathLimit()
    limit.note_progress()
    assert not limit.is_reached({"a": 50, "b": 3})
    assert not limit.is_reached({"a": 50 + MAX_DEATHS - 1, "b": 3})
    assert limit.is_reached({"a": 50 + MAX_DEATHS, "b": 3})


def test_a_thousand_machines_that_go_at_once_are_no_reason_to_stop():
    assert not DeathLimit().is_reached({str(worker): MAX_DEATHS - 1 for worker in range(1000)})


class Doomed:
    """Dies as it is told: while it starts, or at the item that it is called with."""

    def __init__(self, how: str, folder: str, blobs, num_threads: int, meter) -> None:
        (Path(folder) / os.urandom(4).hex()).touch()
        self._how = how
        if how == "exit":
            os._exit(1)
        if how == "raise":
            raise ValueError("no such device")

    def __call__(self, item, stopping):
        if self._how == "dies without progress" or item["number"] % 2:
            yield {"done": None}
        yield {"done": item["number"]}
        os._exit(1)

    def close(self) -> None:
        pass


@pytest.fixture
def ray_engine(monkeypatch: pytest.MonkeyPatch):
    """A Ray for one test: what only dies is still being started again when the job has given it up."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, Path(__file__).parents[1:3])))
    engine = RayEngine()
    engine.start()
    yield engine
    engine.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # Ray Data's, when Ray ends
@pytest.mark.parametrize(
    ("how", "says"),
    [("exit", "died 3 times"), ("raise", "no such device"), ("dies without progress", "died 3 times")],
)
def test_labelers_that_only_die_end_the_job_with_a_line(ray_engine, tmp_path, monkeypatch, how, says):
    monkeypatch.setattr("pipeline.engines.workload.MAX_DEATHS", 3)
    monkeypatch.setattr("pipeline.engines.on_ray.MAX_DEATHS", 3)
    factory = partial(Doomed, how, str(tmp_path))
    work = Workload(factory, {}, [{"number": 1}] * 3, 1, False, 1, 1, is_progress=lambda _: False)
    with pytest.raises(EngineError, match=says) as raised:
        list(ray_engine.run(work, threading.Event()))
    assert "\n" not in str(raised.value)
    assert len(list(tmp_path.iterdir())) >= 3
