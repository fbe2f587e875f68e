"""A labeler with host processes against one in a single process: the same files, whatever dies meanwhile."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import jpeg, make_tar
from small_jobs import labeler, labeler_config

from pipeline.config.members import parse_members
from pipeline.errors import DeviceError, EngineError
from pipeline.hosts.crop_memory import CropLayout, CropMemory
from pipeline.hosts.messages import Setup
from pipeline.hosts.worker import HostedWorker, LabelerFactory, crop_layout, labeler_in_host
from pipeline.inputs.find import find_inputs
from pipeline.inputs.units import tar_unit
from pipeline.labeler.backends import InProcessBackend
from pipeline.machine import process_memory_bytes
from pipeline.metrics import PROCESS_MEMORY, NoMeter
from pipeline.models.preprocessing import Geometry
from pipeline.models.weights import resolve
from pipeline.storage import Storage

POISONOUS = Path(__file__).parents[1] / "poisonous"


@pytest.fixture(scope="module")
def members(sample_data):
    return [resolve(parse_members(("squeezenet1_1",))[0], str(sample_data / "weights"), Storage())]


@pytest.fixture(scope="module")
def units(tmp_path_factory):
    """Several parts with broken images among them, a small one, one without a sound image, one that kills."""
    folder = tmp_path_factory.mktemp("shards")
    broken = {"a": {0, 1, 17, 24, 25, 48}, "c": {0, 1, 2}}
    for name, size in {"a": 60, "b": 7, "c": 3, "d": 40}.items():
        images = [[f"{at:05d}.jpg", b"no picture" if at in broken.get(name, ()) else jpeg(at)] for at in range(size)]
        if name == "d":
            images[13][1] += b"POISON:segv;"
        make_tar(folder / f"{name}.tar", images)
    return [tar_unit(entry) for entry in find_inputs((str(folder),), Storage()).tars.values()]


class Readings:
    """A meter that keeps what it is told."""

    def __init__(self):
        self.counts = Counter()
        self.gauges = {}

    def add(self, metric, value, **labels):
        self.counts[metric.name, *labels.values()] += value

    observe = set = add

    def sample(self, metric, read, **labels):
        self.gauges[metric.name, *labels.values()] = read


def hosted(members, out, meter=None, **more) -> HostedWorker:
    config = labeler_config(members, out, **more)
    blobs = {member.spec.alias: member.blob for member in members}
    make_backend = partial(InProcessBackend, config, blobs, device_thread=True)
    return HostedWorker(config, 2, partial(labeler_in_host, config), make_backend, meter or NoMeter())


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kill_hosts(worker) -> None:
    for host in worker._hosts:
        with contextlib.suppress(ProcessLookupError):
            os.kill(host._process._pid, signal.SIGKILL)


def label(worker, unit, stopping=lambda: False) -> list[dict]:
    return list(worker({"unit": unit.to_dict(), "parts_done": 0}, stopping))


def files(out) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.parquet")}


@pytest.fixture(scope="module")
def made(members, tmp_path_factory):
    """A labeler with two host processes that images may kill, its OUT, and its meter."""
    out, meter = tmp_path_factory.mktemp("out"), Readings()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(POISONOUS), *sys.path])
        worker = hosted(members, out, meter, keep_probs=True)
        worker._hosts[0]._process.ready.result(60.0)
    yield worker, out, meter
    worker.close()


def test_the_files_are_the_same_and_what_kills_is_in_quarantine(made, members, units, tmp_path, caplog):
    worker, out, meter = made
    with ThreadPoolExecutor(worker.units_at_once) as pool:
        receipts = [found[-1] for found in pool.map(partial(label, worker), units)]
    assert [receipt["finished"] for receipt in receipts] == [True] * 4
    assert receipts[3]["num_quarantined"] == {"decoder_crashed": 1}
    alone = labeler(members, tmp_path / "alone", device_thread=True, keep_probs=True)
    for unit in units[:3]:
        list(alone(unit))
    alone.close()
    expected, found = files(tmp_path / "alone"), files(out)
    assert len(expected) == 5 + 5 + 3
    assert {name: found.get(name) for name in expected} == expected
    assert len(found) == len(expected) + 5  # of the poisonous one two parts, one with a quarantine
    assert meter.counts["images", "labelled"] >= 54 + 7 + 39
    assert meter.counts["labeler_deaths",] == caplog.text.count("has died") >= 2
    assert "its images are decoded in a child process" in caplog.text  # said in a host process
    wait_for(lambda: meter.gauges[PROCESS_MEMORY.name,]() > process_memory_bytes())  # of more than this process


def test_a_process_that_is_killed_is_replaced_and_its_unit_begun_again(made, units, tmp_path):
    worker, _, _ = made
    receipts = []

    def kill() -> bool:  # asked all the time
        if not receipts:
            receipts.append(None)
            kill_hosts(worker)
        return False

    found = label(worker, dataclasses.replace(units[0], id="c" * 16), kill)
    assert receipts == [None]
    assert (found[-1]["finished"], found[-1]["num_labelled"], len(found[-1]["parts"])) == (True, 54, 3)


def test_what_fails_in_a_process_fails_here(made, units):
    worker, _, _ = made
    with pytest.raises(KeyError, match="unit"):
        list(worker({"parts_done": 0}, lambda: False))


def test_an_ensemble_that_fails_ends_the_unit_and_not_the_processes(made, units, members, monkeypatch):
    worker, _, _ = made
    unit = dataclasses.replace(units[1], id="f" * 16)
    with monkeypatch.context() as broken:
        broken.setattr(worker._backend._ensemble, "second_pass", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            label(worker, unit)
    assert label(worker, unit)[-1]["num_labelled"] == 7


def test_a_device_that_fails_for_good_ends_the_labeler(made, units, monkeypatch):
    worker, out, _ = made
    unit = dataclasses.replace(units[1], id="a" * 16)

    def fail(*_):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(worker._backend._ensemble, "first_pass", fail)
    with pytest.raises(DeviceError, match="illegal memory access"):
        label(worker, unit)
    assert len(list(out.glob(f"attempts/{unit.id}-*"))) == 1  # which counts as a death


def test_a_template_that_is_gone_is_started_again(made, units):
    worker, _, _ = made
    worker._template._process.kill()
    kill_hosts(worker)
    unit = dataclasses.replace(units[1], id="e" * 16)
    assert label(worker, unit)[-1]["num_labelled"] == 7


def test_a_process_ends_with_the_labelers(made):
    process = made[0]._hosts[1]._process
    process.channel.close()
    wait_for(lambda: not Path(f"/proc/{process._pid}").exists())


def test_a_stop_ends_a_unit_soon(made, units):
    worker, _, _ = made
    unit = dataclasses.replace(units[0], id="d" * 16)
    stop = threading.Event()
    stop.set()
    assert not any(receipt["finished"] for receipt in label(worker, unit, stop.is_set))


def _die(*_args, **_options):
    os._exit(3)


def test_processes_that_die_at_once_end_the_job_in_a_line(made, units):
    worker, _, _ = made
    for host in worker._hosts:
        host._setup = Setup(_die)
    kill_hosts(worker)
    with pytest.raises(EngineError, match="died again and again with nothing done in between"):
        label(worker, units[1])


def test_crops_lie_apart_and_their_batch_is_known():
    small, large = Geometry(20, 16, "bilinear"), Geometry(40, 32, "bilinear")
    memory = CropMemory.make(CropLayout((small, large), 3, 2))
    other = CropMemory(memory.layout, os.dup(memory.descriptor))
    for number in range(2):
        for geometry, slots in memory.batch(number).items():
            slots.fill_(10 * number + geometry.crop_px)
    for number in range(2):
        assert {int(v) for v in other.batch(number)[large].unique()} == {10 * number + 32}
        only = other.batch(number, [small])
        assert list(only) == [small]
        assert torch.equal(only[small], torch.full((3, 3, 16, 16), 10 * number + 16, dtype=torch.uint8))
        assert other.number_of(only) == number
        assert other.number_of(other.batch(number)) == number
    with pytest.raises(IndexError, match="batch 2 of 2"):
        memory.batch(2)
    memory.close()
    other.close()


@pytest.mark.parametrize(
    ("device", "decode", "threads", "units", "at_once"),
    [
        ("cuda", "exact", 16, 100, 8),
        ("cuda", "exact", 16, 3, 6),
        ("cuda", "exact", 7, 100, 2),
        ("cuda", "gpu", 16, 100, 2),
        ("cpu", "exact", 16, 100, 2),
    ],
)
def test_processes_are_used_where_many_threads_feed_a_device(members, device, decode, threads, units, at_once):
    config = labeler_config(members, "out", device=device, decode=decode)
    settings = {name: getattr(config, name) for name in config.__slots__ if name != "num_threads"}
    assert LabelerFactory(settings, units).units_at_once(threads) == at_once


def test_there_are_batches_for_all_that_can_be_under_way(members):
    config = labeler_config(members, "out", device="cuda", batch_size=None)
    assert crop_layout(config, 4, 2).num_batches == 2 * (2 + 1 + 1)
    reusing = labeler_config(members, "out", device="cuda", batch_size=None, reused={"a": "b"})
    assert crop_layout(reusing, 4, 2).num_batches == 2 * crop_layout(config, 4, 2).num_batches
