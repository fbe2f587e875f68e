"""kill -9 at every kind of moment, then the same command: the rows of an undisturbed run, and a clean audit."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import attacks
import pytest
from attacks import Trap
from small_jobs import rows

from pipeline import verify

SEED = 5
KILLED = -signal.SIGKILL


def parts(out: Path, folder: str = "predictions") -> set[str]:
    return {path.name for path in (out / folder).glob("*.parquet")}


@pytest.mark.slow
def test_killed_again_and_again_until_it_is_done(job, tmp_path):
    """One output, killed at seeded moments, each time a little after it has gone on."""
    rng, out = random.Random(SEED), tmp_path / "out"
    kills = 0
    while attacks.run(job.inputs, out, job.words, Trap(at=rng.randrange(60, 110))) == KILLED:
        kills += 1
        assert not (out / "_SUCCESS").exists()
    assert kills >= 3
    job.check(out)


@pytest.mark.slow
@pytest.mark.parametrize("share", sorted(random.Random(SEED).random() for _ in range(20)))
def test_killed_at_a_seeded_moment(job, tmp_path, share: float):
    out = tmp_path / "out"
    assert attacks.run(job.inputs, out, job.words, Trap(at=1 + int(share * job.num_steps))) == KILLED
    before = {path: path.stat().st_mtime_ns for path in out.glob("predictions/*.parquet")}
    assert attacks.run(job.inputs, out, job.words) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before, "a part was done twice"
    job.check(out)


def test_killed_between_quarantine_and_predictions(job, tmp_path):
    """The quarantine part is there, the predictions part that commits the same samples is not."""
    out = tmp_path / "out"
    trap = Trap(at=4, place="/quarantine/", steps=("os.remove",))
    assert attacks.run(job.inputs, out, job.words, trap) == KILLED
    uncommitted = parts(out, "quarantine") - parts(out)
    assert len(uncommitted) in {1, 2}  # another unit may be at the same point
    assert attacks.run(job.inputs, out, job.words) == 0
    assert uncommitted <= parts(out)
    job.check(out)


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 12])
def test_killed_between_probabilities_and_predictions(job, tmp_path, at):
    """What members said in full is there, the predictions part that commits it is not."""
    out, words = tmp_path / "out", job.words | {"keep_probs": True}
    trap = Trap(at=at, place="/probabilities/", steps=("os.remove",))
    assert attacks.run(job.inputs, out, words, trap) == KILLED
    stored = {path.name for path in out.glob("probabilities/*/*.parquet")}
    assert len(stored - parts(out)) >= 1
    assert attacks.run(job.inputs, out, words) == 0
    assert rows(out).equals(rows(job.out))
    assert {path.name for path in out.glob("probabilities/*/*.parquet")} == parts(out)
    assert verify(out).discrepancies == ()


@pytest.mark.slow
def test_killed_inside_a_large_tar_goes_on_inside(job, tmp_path):
    out = tmp_path / "out"
    large = next(name for name in parts(job.out) if "00009-last" in name)[:30]
    assert attacks.run(job.inputs, out, job.words, Trap(at=6, place=large, steps=("os.link",))) == KILLED
    assert attacks.run(job.inputs, out, job.words) == 0
    job.check(out)


@pytest.mark.parametrize(
    "place",
    [
        "/predictions/",
        *(pytest.param(place, marks=pytest.mark.slow) for place in ("/quarantine/", "/plan/", "/out/.tmp")),
    ],
)
def test_killed_in_the_middle_of_a_write(job, tmp_path, place):
    """The kernel kills it after 100 bytes of a file: a torn temporary file stays, and harms nobody."""
    out = tmp_path / "out"
    code = attacks.run(job.inputs, out, job.words, Trap(at=1, place=place, steps=("open",), torn=True))
    assert code == -signal.SIGXFSZ
    torn = list(out.rglob(".tmp-*"))
    assert 100 in [path.stat().st_size for path in torn]
    assert attacks.run(job.inputs, out, job.words) == 0
    job.check(out)
    assert all(path.exists() for path in torn)  # a writer that is alive may be using them
    for path in torn:
        os.utime(path, (time.time() - 7200,) * 2)
    assert attacks.run(job.inputs, out, job.words) == 0
    assert not list(out.rglob(".tmp-*"))
