"""Several jobs that want one OUT at the same time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import attacks
import pytest
from attacks import Gate, Trap
from small_jobs import rows

from pipeline import verify

SQUEEZE = "squeezenet1_1"


def job_json(out: Path) -> dict:
    return json.loads((out / "job.json").read_text())


def held_at(gate: Gate, place: str, at: int = 1, steps: tuple[str, ...] = ("os.link",)) -> Trap:
    return Trap(at=at, place=place, steps=steps, meet=gate.hold)


def test_two_of_the_same_label_side_by_side(job, tmp_path):
    """Both have read that there is no job yet; both label everything; each part is there once."""
    out, gate = tmp_path / "out", Gate()
    first = attacks.start(job.inputs, out, job.words, held_at(gate, "/job.json"))
    gate.wait_until_held()
    second = attacks.start(job.inputs, out, job.words)
    while not (out / "job.json").exists():
        assert second.process.is_alive()
    gate.open()
    assert (first.wait(), second.wait()) == (0, 0)
    job.check(out)


def test_of_two_different_ones_the_second_is_refused(job, tmp_path):
    """Both have read that there is no job yet; only one can write that it is its own."""
    out, gate = tmp_path / "out", Gate()
    loser = attacks.start(job.inputs, out, {**job.words, "model": SQUEEZE}, held_at(gate, "/job.json"))
    gate.wait_until_held()
    assert attacks.run(job.inputs, out, job.words) == 0
    gate.open()
    assert loser.wait() == 2
    assert "was made by a different job; it differs in members" in loser.message
    job.check(out)


def test_two_with_different_inputs_share_one_plan(job, tmp_path):
    """The same job with more shards, while the first one is about to write its plan: neither forgets the other's."""
    out, gate = tmp_path / "out", Gate()
    halves = [sorted(map(str, job.shards.iterdir()))[at::2] for at in (0, 1)]
    first = attacks.start(halves[0], out, job.words, held_at(gate, "/plan/"))
    gate.wait_until_held()
    assert attacks.run(halves[1], out, job.words) == 0
    gate.open()
    assert first.wait() == 0
    job.check(out)


@pytest.mark.slow
def test_the_one_that_ends_first_does_not_declare_the_other_one_finished(job, tmp_path):
    out, gate = tmp_path / "out", Gate()
    halves = [sorted(map(str, job.shards.iterdir()))[at::2] for at in (0, 1)]
    first = attacks.start(halves[0], out, job.words, held_at(gate, "/predictions/", at=2))
    gate.wait_until_held()
    more = Gate()
    second = attacks.start(halves[1], out, job.words, held_at(more, "/predictions/", at=2))
    more.wait_until_held()  # its units are planned, and not labelled
    gate.open()
    assert first.wait() == 0
    assert not (out / "_SUCCESS").exists()
    more.open()
    assert second.wait() == 0
    job.check(out)


def test_overwrite_takes_out_away_from_a_job_at_work(job, tmp_path):
    """The older job notices before its next part, and takes back the one that it was publishing."""
    out, gate = tmp_path / "out", Gate()
    older = attacks.start(job.inputs, out, {**job.words, "model": SQUEEZE}, held_at(gate, "/predictions/", at=5))
    gate.wait_until_held()
    assert attacks.run(job.inputs, out, job.words) == 2
    assert attacks.run(job.inputs, out, {**job.words, "overwrite": True}) == 0
    gate.open()
    assert older.wait() == 1
    assert "another job has taken this output over" in older.message
    job.check(out)


@pytest.mark.slow
def test_what_a_zombie_publishes_after_an_overwrite_is_removed(job, tmp_path):
    """A labeler that was cut off publishes a part of the older job when the new one has long begun."""
    out, other = tmp_path / "out", tmp_path / "other"
    assert attacks.run(job.inputs, other, {**job.words, "model": SQUEEZE}) == 0
    shutil.copytree(other, out)
    zombie = sorted((other / "predictions").iterdir())[0]
    gate = Gate()
    newer = attacks.start(job.inputs, out, {**job.words, "overwrite": True}, held_at(gate, "/predictions/", at=5))
    gate.wait_until_held()
    assert not (out / "predictions" / zombie.name).exists()
    shutil.copy(zombie, out / "predictions")
    assert any("foreign" in line for line in verify(out).discrepancies)
    gate.open()
    assert newer.wait() == 0
    job.check(out)


@pytest.mark.slow
def test_a_takeover_that_is_killed_is_taken_up(job, tmp_path):
    """Killed after the new job.json is there, and before all that the older job wrote is gone."""
    out = tmp_path / "out"
    less = sorted(map(str, job.shards.iterdir()))[1:4]
    assert attacks.run(less, out, {**job.words, "model": SQUEEZE}) == 0
    num_parts = len(list((out / "predictions").iterdir()))
    assert num_parts > 3
    words = {**job.words, "overwrite": True}
    assert attacks.run(job.inputs, out, words, Trap(at=3, place="part-", steps=("os.remove",))) < 0
    assert len(list((out / "predictions").iterdir())) == num_parts - 2
    assert attacks.run(job.inputs, out, job.words) == 0
    job.check(out)
    assert len(job_json(out)["inputs"]) == 1


@pytest.mark.slow
def test_a_takeover_while_the_older_job_is_planning(job, tmp_path):
    """Its plan comes after the new job has cleared OUT, and is passed by."""
    out, gate = tmp_path / "out", Gate()
    less = sorted(map(str, job.shards.iterdir()))[1:4]
    older = attacks.start(less, out, {**job.words, "model": SQUEEZE}, held_at(gate, "/plan/"))
    gate.wait_until_held()
    done = Gate()
    newer = attacks.start(job.inputs, out, {**job.words, "overwrite": True}, held_at(done, "/plan/"))
    done.wait_until_held()
    gate.open()
    assert older.wait() in {1, 2}
    assert "another job has taken this output over" in older.message
    done.open()
    assert newer.wait() == 0
    job.check(out)


@pytest.mark.slow
def test_many_of_the_same_at_once(job, tmp_path):
    out = tmp_path / "out"
    running = [attacks.start(job.inputs, out, job.words) for _ in range(4)]
    assert [one.wait() for one in running] == [0] * 4
    job.check(out)
    assert len(rows(out)) == len(rows(job.out))
