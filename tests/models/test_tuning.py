"""Sizes of forward passes: tried once on a machine, and remembered there."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from pipeline.models.tuning import Tuning, default_batch_size, is_worth_tuning, measure_rate, pick_batch_size

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("rates", "chosen", "tried"),
    [
        ({64: 100.0, 128: 150.0, 256: 200.0}, 256, [64, 128, 256]),
        ({64: 100.0, 128: 149.0, 256: 150.0}, 128, [64, 128, 256]),
        ({64: 100.0, 128: 90.0, 256: 80.0}, 64, [64, 128, 256]),
        ({64: 100.0, 128: 0.0, 256: 500.0}, 64, [64, 128]),
        ({64: 0.0, 128: 0.0, 256: 0.0}, 64, [64]),
    ],
)
def test_the_smallest_size_that_is_nearly_as_fast_is_taken(rates, chosen, tried):
    seen = []

    def images_per_s(size):
        seen.append(size)
        return rates[size]

    assert pick_batch_size((64, 128, 256), images_per_s) == chosen
    assert seen == tried


@pytest.mark.parametrize(
    ("device", "dtype", "large_linear", "size"),
    [
        (CPU, torch.float32, False, 4),
        (CPU, torch.bfloat16, False, 8),
        (CPU, torch.float32, True, 16),
        (GPU, torch.float16, False, 128),
        (GPU, torch.float16, True, 128),
    ],
)
def test_without_trying_the_size_follows_from_the_network_and_the_device(device, dtype, large_linear, size):
    network = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Linear(5000, 5000 if large_linear else 10))
    assert default_batch_size(device, dtype, network) == size


def test_trying_is_for_jobs_of_minutes():
    assert not is_worth_tuning(4_000_000_000, 300, 2)
    assert is_worth_tuning(4_000_000_000, 300_000, 2)
    assert not is_worth_tuning(4_000_000_000, 200_000, 64)


def test_what_was_tried_is_remembered_for_this_network_and_this_machine_only(tmp_path, monkeypatch):
    memory = tmp_path / "new" / "sizes.json"
    tuning = Tuning(2, may_measure=True, cache_file=memory)
    assert tuning.best_batch_size("alexnet", {4: 100.0, 8: 130.0, 16: 150.0}.__getitem__) == 16
    assert tuning.best_batch_size("resnet18", {4: 100.0, 8: 99.0, 16: 90.0}.__getitem__) == 4

    def never(size):
        raise AssertionError(f"{size} was tried again")

    later = Tuning(2, may_measure=False, cache_file=memory)
    assert (
        later.best_batch_size("alexnet", never),
        later.best_batch_size("resnet18", never),
        later.best_batch_size("vgg11", never),
    ) == (16, 4, None)
    assert Tuning(4, cache_file=memory).best_batch_size("alexnet", never) is None
    monkeypatch.setattr("pipeline.models.tuning.cpu_name", lambda: "another CPU")
    assert later.best_batch_size("alexnet", never) is None
    assert [path.name for path in memory.parent.iterdir()] == ["sizes.json"]


@pytest.mark.parametrize("content", ["not JSON", "[1, 2]", json.dumps({"x": 4}), ""])
def test_a_damaged_memory_is_tried_anew(tmp_path, content):
    memory = tmp_path / "sizes.json"
    memory.write_text(content)
    tuning = Tuning(1, may_measure=True, cache_file=memory)
    assert tuning.best_batch_size("it", {4: 1.0, 8: 2.0, 16: 1.0}.__getitem__) == 8
    assert Tuning(1, cache_file=memory).best_batch_size("it", lambda _size: 0.0) == 8


def test_a_memory_that_cannot_be_written_costs_only_the_next_trial(tmp_path):
    (tmp_path / "file").write_text("in the way")
    tuning = Tuning(1, may_measure=True, cache_file=tmp_path / "file" / "sizes.json")
    assert tuning.best_batch_size("it", {4: 1.0, 8: 2.0, 16: 1.0}.__getitem__) == 8


def test_every_lane_runs_with_one_torch_thread_and_counts():
    threads = set()

    def call():
        threads.add(torch.get_num_threads())
        torch.zeros(1000).sum()

    assert measure_rate(call, 8, 2) > 0
    assert threads == {1}


def test_what_fails_in_a_lane_is_not_lost():
    def call():
        raise MemoryError("no room")

    with pytest.raises(MemoryError):
        measure_rate(call, 8, 2)


def test_what_is_too_slow_is_not_tried_for_long(monkeypatch):
    monkeypatch.setattr("pipeline.models.tuning._TOO_SLOW_S", -1.0)
    calls = []
    assert measure_rate(lambda: calls.append(1), 8, 2) == 0.0
    assert len(calls) == 2
