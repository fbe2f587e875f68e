"""Where OUT is: a disk that is full, one that is read-only or becomes so."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attacks
import pytest
from attacks import Trap


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


def test_a_full_disk_ends_the_job_and_room_mends_it(job, small_disk):
    out = small_disk / "out"
    first = attacks.start(job.inputs, out, job.words)
    assert first.wait() == 1
    assert "No space left" in first.message
    assert "same command goes on" in first.message
    published = set((out / "predictions").glob("*.parquet"))
    assert published
    assert not list(out.rglob(".tmp-*"))
    remount(small_disk, "size=32m")
    assert attacks.run(job.inputs, out, job.words) == 0
    job.check(out)


def test_a_disk_that_is_full_from_the_start_is_refused_and_left_as_it_was(job, small_disk):
    with (small_disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(bytes(4096)):
            pass
    refused = attacks.start(job.inputs, small_disk / "out", job.words)
    assert refused.wait() == 2
    assert "OUT cannot be written" in refused.message
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_a_read_only_out_is_refused(job, small_disk):
    remount(small_disk, "ro")
    refused = attacks.start(job.inputs, small_disk / "out", job.words)
    try:
        assert refused.wait() == 2
    finally:
        remount(small_disk, "rw")
    assert "Read-only file system" in refused.message


@pytest.mark.slow
def test_an_out_that_becomes_read_only_ends_the_job(job, small_disk, tmp_path):
    remount(small_disk, "size=32m")
    out = small_disk / "out"
    gate = attacks.Gate()
    trap = Trap(at=9, place="/predictions/", steps=("open",), meet=gate.hold)
    held = attacks.start(job.inputs, out, job.words, trap)
    gate.wait_until_held()
    remount(small_disk, "ro")
    gate.open()
    assert held.wait() == 1
    assert "Read-only file system" in held.message
    refused = attacks.start(job.inputs, out, job.words)
    assert refused.wait() == 2
    remount(small_disk, "rw")
    assert attacks.run(job.inputs, out, job.words) == 0
    job.check(out)
    shutil.rmtree(out)
