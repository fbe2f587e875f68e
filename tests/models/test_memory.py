"""Whether an ensemble fits: the arithmetic, on real networks."""

from __future__ import annotations

import functools
import pickle
from dataclasses import replace

import pytest
from torch import nn

from pipeline.errors import ModelError
from pipeline.models.catalog import Architecture, find
from pipeline.models.cost import measure_cost
from pipeline.models.memory import FittedBatch, WorkerMemory, estimate_memory, fit_batch_size
from pipeline.models.networks import NetworkShape, to_blob
from pipeline.models.weights import MemberSpec, ResolvedMember

ROOMY = 1 << 40


@functools.cache
def member(arch: str) -> ResolvedMember:
    architecture = find(arch)
    spec = MemberSpec(arch, arch, 1.0, 10, architecture.published[0].recipe, "0" * 64, f"{arch}.pth")
    return ResolvedMember(spec, to_blob(architecture.build(10)))


SMALL, LARGE = "shufflenet_v2_x0_5", "resnet18"


def place(
    memory_bytes: int = ROOMY, *, device: str = "cpu", num_threads: int = 2, own_process: bool = False
) -> WorkerMemory:
    return WorkerMemory(device, memory_bytes, num_threads, own_process)


def enough_for(members, batch_size: int, precision="fp32", **where) -> WorkerMemory:
    """A place that is just large enough."""
    total = estimate_memory(members, precision, place(**where)).total_bytes(batch_size)
    return place(-(-total * 10 // 9), **where)


def test_what_fits_is_left_as_it_is():
    assert fit_batch_size([member(SMALL)], "fp32", place(), None) == FittedBatch(None)
    assert fit_batch_size([member(SMALL)], "fp32", place(), 64) == FittedBatch(64)


def test_each_image_costs_the_largest_members_activations():
    both = estimate_memory([member(SMALL), member(LARGE)], "fp32", place())
    large = measure_cost(NetworkShape(find(LARGE), 10, 224)).peak_activation_bytes
    assert both.image_bytes == large + 3 * 224 * 224
    assert both.total_bytes(5) - both.total_bytes(4) == 2 * both.image_bytes
    on_gpu = estimate_memory([member(SMALL), member(LARGE)], "fp32", place(device="cuda"))
    assert on_gpu.num_passes == 1
    assert on_gpu.image_bytes == 2 * large + (2 * 4 + 8) * 3 * 224 * 224  # in graphs and beside; as floats, and queued


def test_weights_add_up_and_low_precision_has_copies():
    few, many = (
        estimate_memory([member(name) for name in names], "fp32", place()) for names in ([LARGE], [LARGE, SMALL])
    )
    assert many.fixed_bytes - few.fixed_bytes == len(member(SMALL).blob)
    mixed = estimate_memory([member(LARGE)], "mixed", place())
    assert mixed.fixed_bytes - few.fixed_bytes == len(member(LARGE).blob) // 2


def test_a_process_of_its_own_loads_everything_anew():
    here, there = (estimate_memory([member(LARGE)], "fp32", place(own_process=own)) for own in (False, True))
    assert there.fixed_bytes - here.fixed_bytes == (600 << 20) + 2 * len(member(LARGE).blob)


@pytest.mark.parametrize("fitting", [1, 3])
def test_the_largest_batch_that_fits_is_taken_and_noted(fitting):
    members = [member(SMALL), member(LARGE)]
    found = fit_batch_size(members, "fp32", enough_for(members, fitting), None)
    assert found.batch_size == fitting
    assert found.note is not None
    assert (
        f"memory: {fitting} image{'s' * (fitting > 1)} in a forward pass instead of 4, which would take" in found.note
    )
    assert fit_batch_size(members, "fp32", enough_for(members, 4), None) == FittedBatch(
        4
    )  # the usual number, and not what suits best
    assert fit_batch_size(members, "fp32", enough_for(members, 16), None) == FittedBatch(None)


def test_a_requested_batch_size_shrinks_too():
    members = [member(LARGE)]
    found = fit_batch_size(members, "fp32", enough_for(members, 20), 32)
    assert found.batch_size == 20
    assert "instead of 32" in str(found.note)


def test_on_a_gpu_batches_are_multiples_of_eight():
    members = [member(LARGE)]
    found = fit_batch_size(members, "mixed", enough_for(members, 77, "mixed", device="cuda"), None)
    assert (found.batch_size, "instead of 128" in str(found.note)) == (72, True)
    assert "GPU memory" in str(found.note)
    assert fit_batch_size(members, "mixed", enough_for(members, 5, "mixed", device="cuda"), None).batch_size == 5


def test_what_does_not_fit_is_refused_with_the_sizes_and_what_to_do():
    members = [member(SMALL), member(LARGE)]
    tight = enough_for(members, 1, own_process=True)
    assert fit_batch_size(members, "fp32", tight, None).batch_size == 1
    with pytest.raises(ModelError) as refused:
        fit_batch_size(members, "fp32", place(tight.memory_bytes - (80 << 20), own_process=True), None)
    message = str(refused.value)
    assert "\n" not in message
    for word in (
        "the members do not fit in memory: weights of shufflenet_v2_x0_5 1 MB, resnet18 45 MB, 46 MB together",
        "with one image at a time in each of 2 threads a worker needs 9",
        "(90% of the memory)",
        "leave members out",
        "a larger machine",
        "fewer --workers",
    ):
        assert word in message
    assert "--decode-threads" not in message  # one thread less is 72 MB less
    assert refused.value.exit_code == 2
    assert str(pickle.loads(pickle.dumps(refused.value))) == message


def test_fewer_threads_are_proposed_where_they_would_do():
    alone = [member(LARGE)]
    enough = enough_for(alone, 1, num_threads=5)
    assert fit_batch_size(alone, "fp32", enough, None).batch_size == 1
    with pytest.raises(ModelError, match=r"the network does not fit .*; take fewer --decode-threads; or take a larger"):
        fit_batch_size(alone, "fp32", place(enough.memory_bytes - 1000, num_threads=5), None)


def test_decoding_takes_memory_of_a_gpu():
    members = [member(SMALL)]
    tight = enough_for(members, 8, "mixed", device="cuda")
    assert fit_batch_size(members, "mixed", tight, 8) == FittedBatch(8)
    decoding = replace(tight, decoding_bytes=1 << 30)
    with pytest.raises(ModelError, match="leave --decode gpu out"):
        fit_batch_size(members, "mixed", decoding, 8)


def test_a_gpu_that_is_too_small_is_called_so():
    with pytest.raises(ModelError, match=r"1.2 GB of the 900 MB \(90% of the GPU memory\).*; take a larger GPU$"):
        fit_batch_size([member(LARGE)], "mixed", place(1_000_000_000, device="cuda"), None)


def test_a_network_that_cannot_be_measured_counts_with_its_weights(monkeypatch, tmp_path):
    class Refusing(nn.Module):
        def forward(self, _images):
            raise ValueError("not here")

    measure_cost.cache_clear()
    monkeypatch.setenv("HOME", str(tmp_path))  # where no cost is known yet
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(Architecture, "build", lambda *_: Refusing())
    assert estimate_memory([member(LARGE)], "fp32", place()).image_bytes == 3 * 224 * 224
    measure_cost.cache_clear()
