"""Images decoded in a process of their own: the same pixels, and only the culprit is to blame."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import jpeg

from pipeline.errors import EngineError, ImageError
from pipeline.stages.decode import decode
from pipeline.stages.isolation import IsolatedDecoder

POISONOUS = Path(__file__).parents[1] / "poisonous"


@pytest.fixture
def poison(monkeypatch, tmp_path):
    """Children take the poison; here is noted when they do."""
    monkeypatch.syspath_prepend(str(POISONOUS))
    monkeypatch.setenv("POISON_LOG", str(tmp_path / "poison.log"))
    return tmp_path / "poison.log"


@pytest.fixture
def isolated():
    with contextlib.closing(IsolatedDecoder(limit_s=4.0)) as made:
        yield made


def poisoned(kind: str, seed: int = 5) -> bytes:
    return jpeg(seed) + f"POISON:{kind};".encode()


def refusal(isolated, data: bytes) -> tuple[str, str]:
    with pytest.raises(ImageError) as caught:
        isolated.decode(data)
    return caught.value.reason, caught.value.message


def outcome(how, data: bytes, fast_to_px: int | None):
    try:
        return how(data, fast_to_px=fast_to_px)
    except ImageError as error:
        return error.args


def test_pixels_and_how_they_lie_and_refusals_are_the_same(shared, isolated):
    for path in sorted((shared / "data/nasty").iterdir()):
        if path.name.startswith("bomb_") and path.suffix != ".jpg":
            continue
        data = path.read_bytes()
        for fast_to_px in (None, 64):
            here, there = (outcome(how, data, fast_to_px) for how in (decode, isolated.decode))
            if isinstance(here, tuple):
                assert there == here, path.name
                continue
            assert (there.width, there.height) == (here.width, here.height), path.name
            assert there.pixels_CHW.shape == here.pixels_CHW.shape, path.name
            if min(here.pixels_CHW.shape) > 1:
                assert there.pixels_CHW.stride() == here.pixels_CHW.stride(), path.name
            assert np.array_equal(there.pixels_CHW.numpy(), here.pixels_CHW.numpy()), path.name


@pytest.mark.slow
def test_the_culprit_is_named_and_its_neighbours_are_decoded(poison, isolated):
    assert refusal(isolated, poisoned("segv")) == ("decoder_crashed", "the decoder died of it: SIGSEGV")
    assert len(poison.read_text().split("\n")) - 1 == 1, "the first image of a process is beyond doubt, and tried once"
    assert isolated.decode(jpeg(1)).width == 64


@pytest.mark.slow
def test_death_by_the_hand_of_others_or_of_an_earlier_image_is_not_held_against_it(poison, isolated):
    assert isolated.decode(poisoned("haunt")).width == 64
    assert isolated.decode(jpeg(1)).width == 64
    os.kill(isolated._child._process.pid, signal.SIGKILL)
    assert isolated.decode(jpeg(1)).width == 64
    assert refusal(isolated, poisoned("kill")) == ("decoder_crashed", "the decoder died of it: SIGKILL")
    assert refusal(isolated, poisoned("exit")) == ("decoder_crashed", "the decoder died of it: exit status 3")
    assert [line.split()[0] for line in poison.read_text().splitlines()] == ["haunt", "kill", "kill", "exit"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sleep", "hold"])
def test_one_that_hangs_is_ended(poison, isolated, kind):
    assert isolated.decode(jpeg(1)).width == 64
    pid = isolated._child._process.pid
    reason, message = refusal(isolated, poisoned(kind))
    assert (reason, message) == ("decoder_crashed", "decoding took longer than 4 s and was ended")
    assert not Path(f"/proc/{pid}").exists()
    assert isolated.decode(jpeg(1)).width == 64


@pytest.mark.slow
def test_a_decoder_that_wants_all_memory_is_refused_it(poison, isolated):
    reason, _ = refusal(isolated, poisoned("hungry"))
    assert reason == "decoder_crashed"
    assert isolated.decode(jpeg(1)).width == 64


def test_a_process_that_does_not_start_is_no_fault_of_the_image(monkeypatch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import os\nos._exit(7)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with contextlib.closing(IsolatedDecoder(4.0)) as isolated, pytest.raises(EngineError, match="exit status 7"):
        isolated.decode(jpeg())


@pytest.mark.slow
@pytest.mark.parametrize("busy", [False, True])
def test_no_process_outlives_its_labeler(poison, tmp_path, busy):
    """Idle, it sees that the labeler is gone; in an image that hangs, it is ended by an alarm."""
    code = """
import os, signal, sys, threading
from pipeline.stages import isolation
isolation._ORPHAN_S = 2
isolated = isolation.IsolatedDecoder(2.0)
data = open(sys.argv[1], "rb").read()
isolated.decode(data)
print(isolated._child._process.pid, flush=True)
if sys.argv[2] == "True":
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL)).start()
    isolated.decode(data + b"POISON:hold;")
os.kill(os.getpid(), signal.SIGKILL)
"""
    (tmp_path / "image.jpg").write_bytes(jpeg())
    search = os.pathsep.join([str(POISONOUS), str(POISONOUS.parents[1])])
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "image.jpg"), str(busy)],
        env=os.environ | {"PYTHONPATH": search},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert ran.returncode == -signal.SIGKILL
    child = Path(f"/proc/{ran.stdout.strip()}")
    deadline = time.monotonic() + 60
    while child.exists() and "Z" not in (child / "stat").read_text().split()[2] and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not child.exists() or (child / "stat").read_text().split()[2] == "Z"
