"""Images that kill or hang whoever decodes them: the job ends, they are named, and their neighbours are labelled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, jpeg, make_tar, sample_members
from small_jobs import ONE, options, rows

from pipeline import label, verify
from pipeline.inputs.find import find_inputs
from pipeline.inputs.units import tar_unit
from pipeline.labeler.attempts import Attempts
from pipeline.output.ledger import Ledger
from pipeline.storage import Storage

COMMON = ["shard", "key", "index", "offset", "num_bytes", "stage"]
POISONOUS = Path(__file__).parents[1] / "poisonous"
# Each run in a process of its own, as a person would start them, but torch is imported only once.
RUNS = """
import json, os, sys
import pipeline.commands.label, pipeline.labeler.labeler, pipeline.stages.isolation
from pipeline import label
inputs, out, options, times = json.loads(sys.argv[1])
statuses = []
while len(statuses) < times:
    pid = os.fork()
    if pid == 0:
        os._exit(label(inputs, out, **options).exit_code)
    statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(json.dumps(statuses))
"""


def poisoned(kind: str, seed: int) -> bytes:
    return jpeg(seed) + f"POISON:{kind};".encode()


def shard(path: Path, bad: dict[int, bytes], count: int = 40) -> str:
    """A tar in which some images are replaced."""
    members = sample_members(count)
    for number, data in bad.items():
        members[2 * number] = (f"{number:05d}.jpg", data)
    return str(make_tar(path, members))


def loose(folder: Path, bad: dict[int, bytes], count: int = 20) -> str:
    """A folder of images in which some are replaced."""
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:05d}.jpg").write_bytes(bad.get(number, jpeg(100 + number)))
    return str(folder)


@pytest.fixture
def poison(monkeypatch, tmp_path) -> Path:
    """Processes started from here take the poison, and note it in this file."""
    log = tmp_path / "poison.log"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(POISONOUS), str(REPOSITORY)]))
    monkeypatch.setenv("POISON_LOG", str(log))
    log.touch()
    return log


def command(inputs: str, out: Path, sample_data: Path, *more: str) -> list[str]:
    words = [sys.executable, "-m", "pipeline", "label", inputs, "--out", str(out), "-m", ONE, "--progress", "none"]
    words += ["--weights-dir", str(sample_data / "weights"), "--labels", str(sample_data / "classes.txt")]
    return [*words, "--precision", "fp32", "--engine", "ray", *more]  # the last engine counts


def same_but_for_the_culprits(out: Path, undisturbed: Path, kinds: dict[str, str]) -> None:
    """Compare with a run in which the culprits were no images at all, so that all batches are of the same images."""
    assert rows(out).equals(rows(undisturbed))
    here, there = rows(out, "quarantine"), rows(undisturbed, "quarantine")
    assert here.select(COMMON).equals(there.select(COMMON))
    found = {row["key"]: row for row in here.to_pylist()}
    assert {key: row["message"] for key, row in found.items()} == kinds
    assert {row["reason"] for row in found.values()} == {"decoder_crashed"}
    assert all(len(row["sha256"]) == 64 for row in found.values())
    for folder in ("predictions", "quarantine"):
        names = [sorted(path.name[-14:] for path in (place / folder).iterdir()) for place in (out, undisturbed)]
        assert names[0] == names[1]
    assert list((out / "attempts").iterdir()) == []
    assert verify(out).discrepancies == ()


def undisturbed(tmp_path: Path, path: str, bad: dict[int, bytes], sample_data: Path, **more) -> Path:
    """Label the same file, at the same place, with something harmless where the poison is."""
    harmless = {number: b"no image".ljust(len(data)) for number, data in bad.items()}
    make = loose if os.path.isdir(path) else shard
    before = Path(path).rename(tmp_path / "poisonous")
    make(Path(path), harmless)
    out = tmp_path / "undisturbed"
    assert label(path, out, **options(sample_data, **more)).exit_code == 0
    Path(path).rename(tmp_path / "harmless")
    before.rename(path)
    return out


def runs(inputs, out: Path, times: int, **words) -> list[int]:
    asked = json.dumps([inputs, str(out), words, times])
    ran = subprocess.run([sys.executable, "-c", RUNS, asked], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(ran.stdout.splitlines()[-1])


def test_inline_dies_twice_and_finishes_the_third_time(sample_data, tmp_path, poison):
    bad = {17: poisoned("segv", 17)}
    path, out = shard(tmp_path / "a.tar", bad), tmp_path / "out"
    words = options(sample_data, rows_per_part=10)
    assert runs(path, out, 3, **words) == [-signal.SIGSEGV, -signal.SIGSEGV, 0]
    places = [line.split()[2] for line in poison.read_text().splitlines()]
    assert places == ["-c", "-c", "isolation.py", "isolation.py"]
    kinds = {"00017": "the decoder died of it: SIGSEGV"}
    same_but_for_the_culprits(out, undisturbed(tmp_path, path, bad, sample_data, rows_per_part=10), kinds)


def test_one_that_hangs_costs_its_time_and_nothing_else(sample_data, tmp_path, poison, monkeypatch):
    """In this process: the labeler's own decoder hangs, is given up, and so is the one in isolation."""
    monkeypatch.syspath_prepend(str(POISONOUS))
    monkeypatch.setattr("pipeline.labeler.decoders.DECODE_TIMEOUT_S", 2.0)
    sound, hung = sys.modules["pipeline.stages.decode"].decode, []

    def decode(data, **words):
        if b"POISON" in data:
            hung.append(data)
            time.sleep(3600)
        return sound(data, **words)

    monkeypatch.setattr("pipeline.labeler.decoders.decode", decode)
    bad = {5: poisoned("sleep", 5)}
    path, out = shard(tmp_path / "a.tar", bad), tmp_path / "out"
    summary = label(path, out, **options(sample_data))
    assert (summary.exit_code, summary.images, summary.quarantined) == (0, 40, 1)
    assert len(hung) == 1
    assert len(poison.read_text().splitlines()) == 1
    kinds = {"00005": "decoding took longer than 2 s and was ended"}
    same_but_for_the_culprits(out, undisturbed(tmp_path, path, bad, sample_data), kinds)


@pytest.mark.slow
@pytest.mark.parametrize("make", [shard, loose])
def test_several_in_one_unit(sample_data, tmp_path, poison, make):
    bad = {3: poisoned("segv", 3), 4: poisoned("kill", 4), 18: poisoned("exit", 18)}
    path, out = make(tmp_path / ("a.tar" if make is shard else "photos"), bad), tmp_path / "out"
    ask = command(path, out, sample_data, "--engine", "inline", "--rows-per-part", "10")
    statuses = [subprocess.run(ask, cwd=tmp_path, check=False).returncode for _ in range(3)]
    assert statuses[2] == 0
    assert 0 not in statuses[:2]
    key = "{:05d}" if make is shard else "{:05d}.jpg"
    words = {3: "SIGSEGV", 4: "SIGKILL", 18: "exit status 3"}
    kinds = {key.format(number): f"the decoder died of it: {word}" for number, word in words.items()}
    same_but_for_the_culprits(out, undisturbed(tmp_path, path, bad, sample_data, rows_per_part=10), kinds)


@pytest.mark.slow
def test_the_driver_may_be_killed_as_well(sample_data, tmp_path, poison):
    """While the unit is labelled in isolation, the whole run is killed; the next one goes on as before."""
    bad = {17: poisoned("segv", 17), 35: poisoned("sleep", 35)}
    path, out = shard(tmp_path / "a.tar", bad), tmp_path / "out"
    ask = command(path, out, sample_data, "--engine", "inline", "--rows-per-part", "10")
    for _ in range(2):
        assert subprocess.run(ask, cwd=tmp_path, check=False).returncode == -signal.SIGSEGV
    driver = subprocess.Popen(ask, cwd=tmp_path)
    deadline = time.monotonic() + 120
    while "sleep" not in poison.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    published = {path: path.stat().st_mtime_ns for path in out.glob("predictions/*.parquet")}
    assert 1 <= len(published) < 4
    os.environ["POISON_LIMIT_S"] = "5"
    try:
        assert subprocess.run(ask, cwd=tmp_path, check=False).returncode == 0
    finally:
        del os.environ["POISON_LIMIT_S"]
    assert {path: path.stat().st_mtime_ns for path in published} == published
    kinds = {"00017": "the decoder died of it: SIGSEGV", "00035": "decoding took longer than 5 s and was ended"}
    same_but_for_the_culprits(out, undisturbed(tmp_path, path, bad, sample_data, rows_per_part=10), kinds)


@pytest.mark.slow
@pytest.mark.parametrize("deaths", [0, 2])
def test_an_interrupt_does_not_wait_for_a_decoder_that_hangs(sample_data, tmp_path, poison, deaths):
    """Neither in the labeler's own threads nor in isolation, and no mark is left once there was progress."""
    path, out = shard(tmp_path / "a.tar", {37: poisoned("sleep", 37)}), tmp_path / "out"
    ask = command(path, out, sample_data, "--engine", "inline", "--rows-per-part", "10")
    unit = tar_unit(find_inputs((path,), Storage()).tars[path])
    for _ in range(deaths):
        Attempts(Ledger(str(out), Storage()), Storage(), "another").begin(unit.id)
    driver = subprocess.Popen(ask, cwd=tmp_path)
    deadline = time.monotonic() + 120
    while "sleep" not in poison.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(60) == 130
    assert list((out / "attempts").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["segv", "kill", "hold"])
def test_ray_needs_one_run(sample_data, tmp_path, poison, monkeypatch, kind):
    """Two units at once, both suspected; ``hold`` stops the whole labeler, which then ends itself."""
    monkeypatch.setenv("POISON_LIMIT_S", "8")
    monkeypatch.setenv("POISON_STUCK_S", "15")
    bad = {17: poisoned(kind, 17)}
    path, out = shard(tmp_path / "a.tar", bad), tmp_path / "out"
    other = shard(tmp_path / "b.tar", {}, 60)
    ask = command(path, out, sample_data, "--rows-per-part", "10", "--progress", "json")
    ask.insert(5, other)
    ran = subprocess.run(ask, cwd=tmp_path, check=False, stdout=subprocess.PIPE, text=True)
    assert ran.returncode == 0
    places = [line.split()[2] for line in poison.read_text().splitlines()]
    assert places[:2] == ["default_worker.py"] * 2
    assert set(places[2:]) == {"isolation.py"}
    words = {
        "segv": "the decoder died of it: SIGSEGV",
        "kill": "the decoder died of it: SIGKILL",
        "hold": "decoding took longer than 8 s and was ended",
    }
    (row,) = rows(out, "quarantine").to_pylist()
    assert (row["key"], row["reason"], row["message"]) == ("00017", "decoder_crashed", words[kind])
    assert len(rows(out)) == 99
    assert verify(out).discrepancies == ()
    summary = json.loads([line for line in ran.stdout.splitlines() if '"summary"' in line][-1])
    assert (summary["images"], summary["labelled"], summary["quarantined"]) == (100, 99, 1)
