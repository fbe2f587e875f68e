"""Which engine ``auto`` is, and what is said of it."""

from __future__ import annotations

import dataclasses
import sys
from types import SimpleNamespace

import pytest

from pipeline.commands.label import label
from pipeline.engines.choice import choose_engine, unused_gpus_note
from pipeline.inputs.find import find_inputs
from pipeline.job.job_size import is_small_job
from pipeline.storage import Storage
from tests.small_jobs import options


@pytest.fixture(autouse=True)
def no_ray_around(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))


@pytest.mark.parametrize(
    ("words", "cpus", "gpus", "small", "says"),
    [
        ({}, 2, 0, False, "engine inline: one machine, 2 cores, no GPU"),
        ({}, 1, 0, False, "engine inline: one machine, 1 core, no GPU"),
        ({}, 16, 1, False, "engine inline: one machine, 16 cores, one GPU"),
        ({}, 16, 4, True, "engine ray: one machine with 4 GPUs"),
        ({}, 64, 0, False, "engine ray: one machine, 64 cores, no GPU, for 4 labelers"),
        ({}, 64, 0, True, "engine inline: one machine, 64 cores, no GPU, few images"),
        ({"num_workers": 1}, 64, 0, False, "engine inline: one machine, 64 cores, no GPU"),
        ({"num_workers": 2}, 2, 0, True, "engine ray: 2 workers are asked for"),
        ({"address": "auto"}, 2, 0, True, "engine ray: the cluster at auto"),
    ],
)
def test_ray_where_it_pays(monkeypatch, words, cpus, gpus, small, says):
    monkeypatch.setattr("pipeline.engines.choice.num_local_cpus", lambda: cpus)
    words = {"address": None, "num_workers": None, **words}
    choice = choose_engine(**words, num_gpus=lambda: gpus, is_small=lambda: small)
    assert choice.describe() == says
    assert choice.num_workers == (4 if "labelers" in says else None)
    assert choice.address == words["address"]


def test_a_ray_of_this_process_and_ray_s_own_variable_are_joined(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    choice = choose_engine(None, None, num_gpus=lambda: 0)
    assert (choice.engine, choice.address) == ("ray", "10.0.0.1:6379")
    assert choice.reason.endswith("from RAY_ADDRESS")
    sys.modules["ray"].is_initialized = lambda: True
    assert choose_engine(None, None, num_gpus=lambda: 0).describe() == "engine ray: Ray runs in this process already"


@pytest.mark.parametrize(
    ("engine", "device", "gpus", "note"),
    [
        ("inline", "cuda", 4, "--engine inline uses one of 4 GPUs; --engine ray uses all of them"),
        ("inline", "cuda", 1, ""),
        ("inline", "cpu", 4, ""),
        ("ray", "cuda", 4, ""),
    ],
)
def test_gpus_that_one_process_leaves_idle_are_said(engine, device, gpus, note):
    assert unused_gpus_note(engine, device, lambda: gpus) == note


def test_a_small_job_is_known_without_a_plan(sample_data, tmp_path):
    inputs = find_inputs([str(sample_data)], Storage())
    assert is_small_job(inputs, None)
    tar = next(iter(inputs.tars))
    inputs.tars[tar] = dataclasses.replace(inputs.tars[tar], size_bytes=10**9)
    assert not is_small_job(inputs, None)
    assert is_small_job(inputs, 100)


def test_the_default_engine_is_said_and_is_no_part_of_the_job(sample_data, tmp_path, capsys):
    words = options(sample_data, limit=10)
    del words["engine"]
    first = label(sample_data, tmp_path / "out", **words, progress="plain")
    assert first.images == 10
    assert "engine inline: one machine, " in capsys.readouterr().err
    again = label(sample_data, tmp_path / "out", **words, engine="inline", progress="plain")
    assert again.images == 0
    assert "engine" not in capsys.readouterr().err
    assert "engine" not in (tmp_path / "out" / "job.json").read_text()
