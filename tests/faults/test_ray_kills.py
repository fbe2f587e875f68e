"""Ray's processes killed one kind after the other, at seeded moments: nothing is lost, nothing is doubled."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY

pytestmark = pytest.mark.slow

_PATIENCE_S = 300.0
_PATH = f"{REPOSITORY / 'tests' / 'slowed'}:{REPOSITORY}"


def start(job, out: Path, *more: str, slowed_s: float = 0.3) -> subprocess.Popen:
    """The command, with a Ray of its own unless told otherwise; each part takes so much longer."""
    words = job.words
    command = [sys.executable, "-m", "pipeline", "label", job.inputs, "--out", str(out), "--progress", "none"]
    command += ["-m", words["model"], "--weights-dir", words["weights_dir"], "--labels", words["labels"]]
    command += ["--rows-per-part", str(words["rows_per_part"]), "--precision", words["precision"]]
    command += ["--max-bad-rate", "1", "--engine", "ray", *more]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": _PATH, "SLOWED_S": str(slowed_s)})


def num_parts(out: Path) -> int:
    return len(list(out.glob("predictions/*.parquet")))


def wait_for_parts(out: Path, number: int, process: subprocess.Popen) -> bool:
    """Wait until so many parts are there; False when the job has ended."""
    deadline = time.monotonic() + _PATIENCE_S
    while num_parts(out) < number:
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline, "the job hangs"
        time.sleep(0.01)
    return process.poll() is None


def descendants(pid: int) -> dict[int, str]:
    """The processes below a process, with the names that they give themselves."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    found: dict[int, str] = {}
    level = {pid}
    while level := {child for child, parent in parents.items() if parent in level}:
        found |= {child: names[child] for child in level}
    return found


def wait_for_ray(process: subprocess.Popen) -> None:
    """Wait until a job has a raylet, or has ended."""
    deadline = time.monotonic() + _PATIENCE_S
    while process.poll() is None and not any("raylet" in name for name in descendants(process.pid).values()):
        assert time.monotonic() < deadline, "the job hangs"
        time.sleep(0.1)


def send(number: int, *pids: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@pytest.mark.parametrize("victim", ["driver", "everything", "driver, as a spot machine is told to go"])
def test_driver_killed_again_and_again_until_the_job_is_done(job, tmp_path, victim: str):
    """Two moments each at least, five as a rule."""
    rng, out = random.Random(victim), tmp_path / "out"
    ends = []
    for _ in range(40):
        process = start(job, out)
        wait_for_ray(process)  # what is published before that comes from a labeler that has outlived its driver
        before = num_parts(out)
        if wait_for_parts(out, before + 1, process):
            below = descendants(process.pid)  # all are there by now
            wait_for_parts(out, before + rng.randrange(2, 9), process)
            send(signal.SIGTERM if "told" in victim else signal.SIGKILL, process.pid)
            if victim == "everything":
                send(signal.SIGKILL, *below)
        ends.append(process.wait(_PATIENCE_S))
        if ends[-1] == 0:
            break
        assert not (out / "_SUCCESS").exists()
    assert set(ends[:-1]) == {130 if "told" in victim else -signal.SIGKILL}
    assert len(ends) > 2
    job.check(out)


@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGTERM])
def test_labelers_killed_cost_nothing(job, tmp_path, signal_):
    """One run that is never started again; its labeler dies at up to ten moments."""
    rng, out = random.Random(signal_), tmp_path / "out"
    process = start(job, out)
    kills = 0
    while wait_for_parts(out, num_parts(out) + rng.randrange(3, 8), process):
        labelers = [pid for pid, name in descendants(process.pid).items() if "MapWorker" in name]
        send(signal_, *labelers)
        kills += len(labelers)
    assert process.wait(_PATIENCE_S) == 0
    assert kills >= 5
    job.check(out)


@pytest.mark.parametrize("graceful", [False, True], ids=["kill", "sigterm"])
def test_nodes_that_come_and_go_cost_nothing(job, tmp_path, monkeypatch, graceful: bool):
    """The driver's machine stays; of the two others one goes, again and again, and another one comes."""
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", _PATH)
    monkeypatch.setenv("SLOWED_S", "2.5")
    rng, out = random.Random(graceful), tmp_path / "out"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        process = start(job, out, "--ray-address", cluster.address)
        num_gone = 0
        while wait_for_parts(out, num_parts(out) + rng.randrange(4, 9), process):
            cluster.remove_node(nodes.pop(0), allow_graceful=graceful)
            nodes.append(cluster.add_node(num_cpus=1))
            num_gone += 1
        assert process.wait(_PATIENCE_S) == 0
        assert num_gone >= 2
    finally:
        ray.shutdown()
        cluster.shutdown()
    job.check(out)
