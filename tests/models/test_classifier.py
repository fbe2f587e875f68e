"""A classifier's logits are those of the plain network, however it is made fast."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import math
import threading
import types
from typing import ClassVar

import pytest
import torch
from torch import nn
from torchvision import models as tv
from torchvision.transforms.v2 import functional as F  # noqa: N812

from pipeline.config.members import MemberRequest
from pipeline.models import classifier as module
from pipeline.models import forward as forward_module
from pipeline.models import graphs
from pipeline.models.classifier import Classifier, find_near_ties, round_up_margin
from pipeline.models.tuning import Tuning
from pipeline.models.weights import resolve
from pipeline.storage import Storage

pytestmark = pytest.mark.usefixtures("with_bfloat16")

CPU = torch.device("cpu")
OPTIONS = {
    # as the published weights make torchvision build them
    "googlenet": {"aux_logits": False, "transform_input": True, "init_weights": False},
    "inception_v3": {"aux_logits": False, "transform_input": True, "init_weights": False},
}


def trained(arch: str, num_classes: int = 10) -> nn.Module:
    """A plain network whose batch norms are not identities."""
    torch.manual_seed(3)
    network = tv.get_model(arch, weights=None, num_classes=num_classes, **OPTIONS.get(arch, {}))
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    network.train()
    with torch.no_grad():
        network(torch.randn(4, 3, 96, 96) * 0.8)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(0.7, 1.3)
                layer.bias.normal_(0, 0.2)
                layer.running_mean.add_(torch.randn_like(layer.running_mean) * layer.running_var.sqrt() * 0.2)
    return network.eval().requires_grad_(False)


SMALL_CROPS = "?resize=110&crop=96"  # what probes and measurements take a fifth of their time with


def member(arch, network, tmp_path, options=""):
    torch.save(network.state_dict(), tmp_path / "x.pth")
    return resolve(MemberRequest.parse(f"{arch}={tmp_path / 'x.pth'}{options}"), None, Storage())


@functools.lru_cache(maxsize=8)
def built(resolved, precision, batch_size):
    return Classifier(resolved.spec, resolved.blob, CPU, precision, batch_size=batch_size)


def classifier_of(resolved, precision, batch_size=None):
    """A classifier that a test may change, of networks that are built once."""
    found = copy.copy(built(resolved, precision, batch_size))
    found._first, found._second = copy.copy(found._first), copy.copy(found._second)
    return found


def crops(batch=4, px=224, seed=0):
    """Smooth random pictures, uint8."""
    coarse = torch.randint(0, 256, (batch, 3, 9, 9), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return F.resize(coarse, [px, px])


def published(arch, images):
    """The tail of the published transform: what follows its crop."""
    preset = tv.get_model_weights(arch).DEFAULT.transforms()
    return torch.stack([F.normalize(F.to_dtype(image, scale=True), preset.mean, preset.std) for image in images])


@pytest.mark.parametrize(
    "arch",
    "resnet18 mobilenet_v2 densenet121 googlenet inception_v3 squeezenet1_0 shufflenet_v2_x0_5 mnasnet0_5".split(),
)
def test_fused_logits_are_those_of_the_plain_network(tmp_path, arch):
    network = trained(arch)
    resolved = member(arch, network, tmp_path)
    images = crops(2, 128)
    with torch.inference_mode():
        expected = network(published(arch, images))
        actual = Classifier(resolved.spec, resolved.blob, CPU, "fp32").logits(images)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_var *= 1.01
        other = network(published(arch, images))
    scale = expected.abs().max()
    assert (actual - expected).abs().max() < 1e-4 * scale
    if arch != "squeezenet1_0":  # it has no batch norms
        assert (other - expected).abs().max() > 3e-4 * scale  # the bound above would notice a small mistake
    assert expected.std(dim=0).max() > 1e-3 * scale  # and the pictures do count


def test_crops_are_normalised_as_published(tmp_path):
    resolved = member("squeezenet1_1", trained("squeezenet1_1"), tmp_path)
    classifier = Classifier(resolved.spec, resolved.blob, CPU, "fp32")
    seen = []
    classifier._first._network = lambda inputs: seen.append(inputs.clone()) or torch.zeros(len(inputs), 10)
    images = crops(3, 64)
    before = images.clone()
    classifier.logits(images)
    torch.testing.assert_close(seen[0].contiguous(), published("squeezenet1_1", images), atol=1e-6, rtol=0)
    assert torch.equal(images, before)


@pytest.fixture(scope="module")
def near_ties_member(tmp_path_factory):
    """A network in whose last layer class 1 is nearly class 0, and so on: half of all top-1 are near ties."""
    network = trained("resnet18", 8)
    weight, bias = network.fc.weight, network.fc.bias
    generator = torch.Generator().manual_seed(1)
    weight[4:] = weight[:4] + torch.randn(weight[:4].shape, generator=generator) * 1e-4
    bias[4:] = bias[:4]
    return network, member("resnet18", network, tmp_path_factory.mktemp("ties"), SMALL_CROPS)


def test_mixed_keeps_every_top_1_that_bf16_loses(near_ties_member):
    network, resolved = near_ties_member
    images = crops(48, 96, seed=5)
    with torch.inference_mode():
        exact = network(published("resnet18", images)).argmax(dim=1)
        low = classifier_of(resolved, "bf16").logits(images)
        mixed = classifier_of(resolved, "mixed").logits(images)
    assert (low.argmax(dim=1) != exact).any()  # otherwise there is nothing to keep
    assert torch.equal(mixed.argmax(dim=1), exact)


def test_what_is_near_a_tie():
    logits = torch.tensor([[5.0, 0.0], [0.5, 0.0], [0.3, 0.0], [0.0, 3.0], [-9.0, -9.2]])
    assert find_near_ties(logits, 0.4).tolist() == [False, False, True, False, True]
    assert find_near_ties(logits, 0.6).tolist() == [False, True, True, False, True]
    assert find_near_ties(logits, math.inf).all()
    assert find_near_ties(torch.zeros(2, 1), 0.4).tolist() == [False, False]


def test_margins_go_up_to_the_next_of_four_steps_to_a_doubling():
    assert [round_up_margin(margin) for margin in (0.25, 0.26, 0.5, 0.9)] == pytest.approx(
        [0.25, 0.2973, 0.5, 1.0], abs=1e-4
    )
    assert round_up_margin(0.0) == 0.0
    assert round_up_margin(math.nan) == round_up_margin(math.inf) == math.inf


def with_larger_logits(network, factor, tmp_path):
    """The same network with a head of larger weights."""
    louder = copy.deepcopy(network)
    louder.fc.weight.mul_(factor)
    louder.fc.bias.mul_(factor)
    return member("resnet18", louder, tmp_path, SMALL_CROPS)


def test_the_margin_follows_what_rounding_does_to_a_network(near_ties_member, tmp_path):
    network, _ = near_ties_member
    # of small logits a share of their spread; of large ones the error, which differs from CPU to CPU by some times
    members = [with_larger_logits(network, factor, tmp_path) for factor in (0.1, 1, 1000)]
    leads = [Classifier(item.spec, item.blob, CPU, "mixed").near_tie_margin for item in members]
    assert 0.001 < leads[0] < leads[1] < leads[2]


def test_a_network_that_rounds_too_badly_runs_in_fp32(near_ties_member, tmp_path):
    network, _ = near_ties_member
    loud = with_larger_logits(network, 10_000, tmp_path)
    images = crops(4, 96)
    with torch.inference_mode():
        exact = 10_000 * network(published("resnet18", images))
    logits, again = Classifier(loud.spec, loud.blob, CPU, "mixed").first_pass(images)
    assert again is None
    torch.testing.assert_close(logits, exact, atol=1.0, rtol=1e-4)


@pytest.mark.parametrize(("precision", "again"), [("fp32", []), ("bf16", []), ("fp16", [2, 3]), ("mixed", [1, 2, 3])])
def test_only_what_is_near_a_tie_or_not_a_number_is_computed_again(near_ties_member, precision, again):
    _, resolved = near_ties_member
    classifier = classifier_of(resolved, precision)
    logits = torch.tensor([[5.0, 0.0], [0.1, 0.0], [torch.nan, 0.0], [torch.inf, 0.0], [0.0, 3.0]])
    classifier._first._run = lambda _network, inputs: logits[inputs[:, 0, 0, 0].long()].clone()
    if classifier._second is not None:
        classifier._second._run = lambda _network, inputs: torch.full((len(inputs), 2), 7.0)
    classifier._normalise = lambda crops: crops.float()
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1)
    found = classifier.logits(images)
    assert [row for row in range(5) if found[row].tolist() == [7.0, 7.0]] == again


def test_where_memory_runs_out_fewer_images_are_taken_at_once(near_ties_member, caplog):
    network, resolved = near_ties_member
    classifier = classifier_of(resolved, "fp32", batch_size=16)
    whole, taken = classifier._first._network, []

    def small(inputs):
        taken.append(len(inputs))
        if len(inputs) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(inputs)

    classifier._first._network = small
    images = crops(12, 96)
    with torch.inference_mode():
        expected = network(published("resnet18", images))
    with caplog.at_level(logging.WARNING):
        torch.testing.assert_close(classifier.logits(images), expected, atol=1e-4, rtol=1e-4)
    assert taken == [12, 8, 4, 4, 4]
    assert "out of memory; 4 images at a time" in caplog.text
    classifier._first._network = lambda _inputs: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        classifier.logits(images)


@pytest.mark.parametrize(("precision", "bound"), [("bf16", 0.1), ("mixed", 0.1), ("fp16", 0.02)])
def test_low_precision_is_near(near_ties_member, precision, bound):
    network, resolved = near_ties_member
    images = crops(4, 96)
    with torch.inference_mode():
        exact = network(published("resnet18", images))
        logits = classifier_of(resolved, precision).logits(images)
    assert logits.dtype == torch.float32
    assert 0 < (logits - exact).abs().max() < bound * exact.abs().max()


def test_what_mixed_means_depends_on_the_device(near_ties_member):
    _, resolved = near_ties_member
    wanted = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16, "mixed": torch.bfloat16}
    for precision, dtype in wanted.items():
        classifier = classifier_of(resolved, precision)
        assert classifier.low_precision == dtype
    classifier.device = torch.device("cuda")
    assert classifier.low_precision == torch.float16


def test_on_a_cpu_without_bfloat16_mixed_is_fp32(near_ties_member, monkeypatch, caplog):
    _, resolved = near_ties_member
    monkeypatch.setattr(module, "is_in_hardware", lambda precision, device: (precision, device) != ("mixed", "cpu"))
    with caplog.at_level(logging.INFO):
        classifier = Classifier(resolved.spec, resolved.blob, CPU, "mixed")
    assert [record.getMessage() for record in caplog.records] == [
        "resnet18 runs in fp32: this CPU does not compute in bfloat16"
    ]
    images = crops(2, 96)
    with torch.inference_mode():
        logits, again = classifier.first_pass(images)
        assert torch.equal(logits, classifier_of(resolved, "fp32").logits(images))
    assert again is None
    assert classifier.low_precision is None


def test_without_a_compiler_it_goes_on_and_warns_once(near_ties_member, monkeypatch, caplog):
    network, resolved = near_ties_member

    def broken(*_args, **_options):
        def call(_inputs):
            raise RuntimeError("no working C++ compiler\nsecond line")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    classifier = Classifier(resolved.spec, resolved.blob, CPU, "fp32", compiled=True)
    images = crops(2, 96)
    with caplog.at_level(logging.WARNING), torch.inference_mode():
        first, second = classifier.logits(images), classifier.logits(images)
        expected = network(published("resnet18", images))
    torch.testing.assert_close(first, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(first, second)
    assert [record.getMessage() for record in caplog.records] == [
        "resnet18 runs without torch.compile: no working C++ compiler"
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_compiled_logits_are_the_same(tmp_path, caplog):
    network = trained("squeezenet1_1")
    resolved = member("squeezenet1_1", network, tmp_path)
    classifier = Classifier(resolved.spec, resolved.blob, CPU, "fp32", compiled=True)
    with torch.inference_mode():
        for batch in (3, 5):
            images = crops(batch, 64)
            actual, expected = classifier.logits(images), network(published("squeezenet1_1", images))
            assert (actual - expected).abs().max() < 1e-4 * expected.abs().max()
    assert classifier._first._compiled is not None, caplog.text


class StandInMemory:
    """The memory of CUDA graphs, on the CPU."""

    def __init__(self):
        self.lock = threading.RLock()
        self.fails = False

    def inputs(self, size, input_px):
        return torch.zeros(size, 3, input_px, input_px)

    def check_device(self):
        if self.fails:
            raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")


class StandInGraph:
    """Stands for a CUDA graph: what was captured for one size, and how it was replayed."""

    refuses: ClassVar[bool] = False
    captured: ClassVar[list[int]] = []
    replayed: ClassVar[list[tuple[int, int]]] = []

    def __init__(self, network, memory, size, input_px):
        if self.refuses:
            raise RuntimeError("called a synchronizing CUDA operation\nmore")
        self.network, self.size = network, size
        self.captured.append(size)

    def __call__(self, inputs):
        self.replayed.append((len(inputs), self.size))
        stale = torch.full((self.size - len(inputs), *inputs.shape[1:]), torch.nan)
        return self.network(torch.cat([inputs, stale]))[: len(inputs)]


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Passes are padded and captured as on a GPU, with sizes of 1, 2 and the batch size."""
    memory = StandInMemory()
    monkeypatch.setattr(module, "graph_memory_of", lambda _device: memory)
    monkeypatch.setattr(forward_module, "CapturedGraph", StandInGraph)
    monkeypatch.setattr(graphs, "_SMALLER_SIZES", (1, 2))
    monkeypatch.setattr(StandInGraph, "captured", [])
    monkeypatch.setattr(StandInGraph, "replayed", [])
    return memory


def test_on_a_gpu_all_passes_have_a_few_sizes_that_were_captured(near_ties_member, as_on_a_gpu, monkeypatch, caplog):
    network, resolved = near_ties_member
    monkeypatch.setattr(module, "_NUM_PROBES", 3)
    classifier = Classifier(resolved.spec, resolved.blob, CPU, "mixed", batch_size=5)
    assert (StandInGraph.captured, classifier.near_tie_margin) == ([], 0.0)  # the thread that computes does it
    images = crops(13, 96)
    with torch.inference_mode():
        expected = network(published("resnet18", images))
    logits, again = classifier.first_pass(images)
    assert StandInGraph.captured == [5, 2, 1] * 2
    assert classifier.near_tie_margin > 0
    margin_at = [(5, 5)] * 2  # three pictures, in each precision: a full pass, of which the rest is left out
    assert StandInGraph.replayed == [*margin_at, (5, 5), (5, 5), (3, 5)]
    assert again.any()
    classifier.second_pass(logits, images, torch.arange(7))
    assert StandInGraph.replayed[-2:] == [(5, 5), (2, 2)]
    torch.testing.assert_close(logits[:7], expected[:7], atol=1e-4, rtol=1e-4)
    assert torch.equal(classifier.logits(images).argmax(dim=1), expected.argmax(dim=1))

    classifier._first.shrink()
    assert sorted(classifier._first._captured) == [1, 2]
    StandInGraph.replayed.clear()
    classifier.first_pass(images)
    assert StandInGraph.replayed == [(1, 1)]  # the passes of 3 have no graph
    assert not caplog.records


def test_what_cannot_be_captured_runs_kernel_by_kernel_in_the_same_sizes(
    near_ties_member, as_on_a_gpu, monkeypatch, caplog
):
    network, resolved = near_ties_member
    monkeypatch.setattr(StandInGraph, "refuses", True)
    classifier = Classifier(resolved.spec, resolved.blob, CPU, "fp32", batch_size=5)
    whole, taken = classifier._first._network, []
    classifier._first._network = lambda inputs: taken.append(len(inputs)) or whole(inputs)
    with caplog.at_level(logging.INFO):
        classifier.warm_up()
    said = "resnet18, {} images: not captured as a CUDA graph: called a synchronizing CUDA operation"
    assert caplog.messages == [said.format(size) for size in (5, 2, 1)]
    images = crops(8, 96)
    with torch.inference_mode():
        expected = network(published("resnet18", images))
    torch.testing.assert_close(classifier.logits(images), expected, atol=1e-4, rtol=1e-4)
    assert taken == [5, 5]
    as_on_a_gpu.fails = True  # a capture that ends with a device that is lost is an error
    with pytest.raises(torch.AcceleratorError, match="ECC"):
        classifier._first.capture()


@pytest.mark.parametrize(
    ("num_images", "passes"),
    [
        (256, [128, 128]),
        (253, [128, 125]),
        (65, [65]),
        (60, [32, 28]),
        (40, [32, 8]),
        (33, [32, 1]),
        (30, [30]),
        (3, [3]),
    ],
)
def test_batches_are_split_into_passes_of_which_little_is_padding(num_images, passes):
    assert graphs.pass_sizes(128) == (8, 32, 128)
    assert graphs.split_into_passes(num_images, graphs.pass_sizes(128)) == passes


def test_the_sizes_of_passes_end_with_the_batch_size():
    assert [graphs.pass_sizes(size) for size in (4, 32, 72, 300)] == [(4,), (8, 32), (8, 32, 72), (8, 32, 128, 300)]
    assert graphs.split_into_passes(7, (4,)) == [4, 3]


def test_a_network_that_waits_for_the_device_is_refused_before_a_capture_begins(monkeypatch):
    """In torch 2.11 the allocator does not get over a capture that fails. What torch.cuda does is a stand-in's here."""
    modes, captures = [0], []

    @contextlib.contextmanager
    def capture(_graph, **options):
        captures.append(options)
        yield

    stream = types.SimpleNamespace(wait_stream=lambda _other: None)
    replay = types.SimpleNamespace(replay=lambda: None)
    for name, stand_in in {
        "current_stream": lambda _device: stream,
        "Stream": lambda _device: stream,
        "stream": contextlib.nullcontext,
        "CUDAGraph": lambda: replay,
        "graph": capture,
        "get_sync_debug_mode": lambda: modes[-1],
        "set_sync_debug_mode": modes.append,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    memory = StandInMemory()
    memory.device, memory.pool = torch.device("cuda"), (1, 2)
    kinds: list[int | str] = []

    def computes(inputs):
        kinds.append(modes[-1])
        return inputs.mean(dim=(2, 3))

    def waits(inputs):
        if modes[-1] == "error":
            raise RuntimeError("called a synchronizing CUDA operation")
        return inputs.mean(dim=(2, 3))

    found = graphs.CapturedGraph(computes, memory, 4, 2)
    assert kinds == [0, 0, "error", 0]
    assert captures == [{"pool": (1, 2), "capture_error_mode": "thread_local"}]
    assert found(torch.ones(3, 3, 2, 2)).shape == (3, 3)
    with pytest.raises(RuntimeError, match="synchronizing"):
        graphs.CapturedGraph(waits, memory, 4, 2)
    assert len(captures) == 1
    assert modes[-1] == 0


def test_on_a_cpu_the_size_that_was_found_is_used(near_ties_member, monkeypatch):
    network, resolved = near_ties_member
    monkeypatch.setattr("pipeline.models.tuning._TOO_SLOW_S", math.inf)  # a slow machine measures, too
    tuning = FoundTuning()
    classifier = Classifier(resolved.spec, resolved.blob, CPU, "mixed", tuning=tuning)
    assert (classifier.batch_size, classifier._second.batch_size) == (16, 4)
    assert Classifier(resolved.spec, resolved.blob, CPU, "mixed", batch_size=2, tuning=tuning).batch_size == 2
    assert tuning.keys == ["resnet18 8 torch.bfloat16"]
    images = crops(3, 96)
    with torch.inference_mode():
        expected = network(published("resnet18", images)).argmax(dim=1)
    assert torch.equal(classifier.logits(images).argmax(dim=1), expected)


class FoundTuning(Tuning):
    """Finds 16 best, having tried it."""

    def __init__(self):
        super().__init__(num_threads=2, may_measure=True)
        object.__setattr__(self, "keys", [])

    def best_batch_size(self, key, images_per_s):
        self.keys.append(key)
        assert images_per_s(4) > 0
        return 16
