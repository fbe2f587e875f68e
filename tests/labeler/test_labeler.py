"""A labeler whose forward passes run in a thread of their own, as on a GPU, against one that runs them in place."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import jpeg, make_tar
from PIL import Image
from small_jobs import labeler, options

from pipeline import label
from pipeline.config.members import parse_members
from pipeline.errors import DeviceError
from pipeline.inputs.find import find_inputs
from pipeline.inputs.units import tar_unit
from pipeline.labeler.chunks import gpu_chunk_images
from pipeline.labeler.labeler import UNITS_AT_ONCE, Labeler
from pipeline.models.preprocessing import Geometry
from pipeline.models.weights import resolve
from pipeline.stages.decode import decode
from pipeline.stages.nvjpeg import DeviceDecoder
from pipeline.storage import Storage

NUM_CLASSES = 14
ROWS_PER_PART = 25


@pytest.fixture(scope="module")
def members(sample_data):
    words = ("shufflenet_v2_x0_5", "squeezenet1_1")
    return [resolve(request, str(sample_data / "weights"), Storage()) for request in parse_members(words)]


@pytest.fixture(scope="module")
def units(tmp_path_factory):
    """Three tars; the first is of several parts, with broken images all over it, the last has nothing sound."""
    folder = tmp_path_factory.mktemp("shards")
    broken = {0, 1, 17, 24, 25, 48}
    sizes = {"a": 60, "b": 7, "c": 3}
    for name, size in sizes.items():
        bad = broken if name == "a" else set(range(size)) if name == "c" else set()
        images = [(f"{at:05d}.jpg", b"no picture" if at in bad else jpeg(at)) for at in range(size)]
        make_tar(folder / f"{name}.tar", images)
    return [tar_unit(entry) for entry in find_inputs((str(folder),), Storage()).tars.values()]


def run(made: Labeler, units):
    with ThreadPoolExecutor(UNITS_AT_ONCE) as pool:
        receipts = list(pool.map(lambda unit: list(made(unit))[-1], units))
    made.close()
    return receipts


def rows(out) -> list[dict]:
    found = [row for path in (out / "predictions").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    return sorted(found, key=lambda row: (row["shard"], row["index"]))


@pytest.fixture(scope="module")
def both(members, units, tmp_path_factory):
    outs = {apart: tmp_path_factory.mktemp("out") for apart in (False, True)}
    receipts = {apart: run(labeler(members, out, device_thread=apart), units) for apart, out in outs.items()}
    return outs, receipts


def test_the_rows_are_the_same(both):
    outs, _ = both
    here, apart = rows(outs[False]), rows(outs[True])
    assert len(here) == 60 - 6 + 7
    for one, other in zip(here, apart, strict=True):
        scores, other_scores = one.pop("scores"), other.pop("scores")
        np.testing.assert_allclose(scores, other_scores, atol=1e-5)
        for name in ("score", "agreement", "entropy", "disagreement"):
            assert one.pop(name) == pytest.approx(other.pop(name), abs=1e-5)
        for name, own in one.pop("members").items():
            assert own["labels"] == other["members"][name]["labels"]
        other.pop("members")
        assert one == other


def test_every_sample_is_counted_once_and_in_its_part(both, units):
    outs, receipts = both
    assert sorted(p.name for p in (outs[False] / "predictions").iterdir()) == sorted(
        p.name for p in (outs[True] / "predictions").iterdir()
    )
    for done, unit in zip(receipts[True], units, strict=True):
        expected = {"a": (60, 54, 3), "b": (7, 7, 1), "c": (3, 0, 1)}[unit.uri[-5]]
        assert (done.num_samples, done.num_labelled, len(done.parts)) == expected
        assert done.finished
        assert done.failure is None
        assert done.num_quarantined == ({"not_an_image": expected[0] - expected[1]} if unit.uri[-5] != "b" else {})


def test_a_part_of_no_rows_has_no_row_group(both, units):
    """Hugging Face ``datasets`` refuses all files beside one with a row group of no rows."""
    files = [pq.ParquetFile(path) for path in (both[0][False] / "predictions").iterdir()]
    assert sorted(file.metadata.num_row_groups for file in files) == [0, *[1] * (len(files) - 1)]


def test_the_seconds_of_every_stage_are_told(both):
    for receipts in both[1].values():
        assert all(receipts[0].stage_s[stage] > 0 for stage in ("hash", "decode", "resize", "classify"))


def test_a_unit_that_is_given_up_leaves_the_labeler_fit_for_the_next(members, units, tmp_path):
    made = labeler(members, tmp_path / "out", device_thread=True, batch_size=16)
    running = made(units[0])
    while next(running).num_labelled == 0:
        pass
    running.close()
    assert list(made(units[1]))[-1].num_labelled == 7
    made.close()


def test_an_ensemble_that_fails_ends_the_unit_and_not_the_threads(members, units, tmp_path, monkeypatch):
    made = labeler(members, tmp_path / "out", device_thread=True)
    with monkeypatch.context() as broken:
        broken.setattr(made._factory._backend._ensemble, "second_pass", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            list(made(units[1]))
    assert list(made(units[1]))[-1].num_labelled == 7
    made.close()


def test_less_host_memory_is_pinned_where_crops_are_large():
    sizes = {(224,): 256, (380,): 256, (384, 224): 128, (600,): 64, (3000,): 16}
    assert {px: gpu_chunk_images([Geometry(side, side) for side in px]) for px in sizes} == sizes


def test_a_device_that_fails_for_good_counts_as_a_death(members, units, tmp_path, monkeypatch, caplog):
    """So an image that does it is decoded apart after two, and one bad GPU does not end the job of many."""

    def fail(*_):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCompile with ...")

    made = labeler(members[1:], tmp_path / "out", device_thread=True)
    with monkeypatch.context() as broken:
        broken.setattr(made._factory._backend._ensemble, "first_pass", fail)
        for _ in range(2):
            with pytest.raises(DeviceError, match=r"the GPU failed, .*: CUDA error: an illegal memory access was "):
                list(made(units[1]))
    marks = sorted(path.name for path in (tmp_path / "out" / "attempts").iterdir())
    assert marks == [f"{units[1].id}-1.json", f"{units[1].id}-2.json"]
    assert list(made(units[1]))[-1].num_labelled == 7
    made.close()
    assert "2 labelers died while they labelled it; its images are decoded in a child" in caplog.text


def test_what_a_device_has_decoded_is_not_decoded_again(both, members, units, tmp_path, monkeypatch):
    """A stand-in for nvJPEG takes the plain pictures of a piece at once; the rest goes the usual way."""
    asked, on_cpu = [], []

    def decode_many(images):
        asked.extend(images)
        return [decode(image).pixels_CHW for image in images]

    def watched(data, **options):
        on_cpu.append(data)
        return decode(data, **options)

    monkeypatch.setattr("pipeline.labeler.decoders.decode", watched)
    stand_in = DeviceDecoder(torch.device("cpu"), decode_many)
    monkeypatch.setattr("pipeline.labeler.step_factory.make_checked_decoder", lambda device: stand_in)
    made = labeler(members, tmp_path / "out", device_thread=True, decode="gpu")
    receipts = run(made, units)
    assert [receipt.num_decoded_on_gpu for receipt in receipts] == [60 - 6, 7, 0]
    assert len(asked) == 60 - 6 + 7
    assert set(on_cpu) == {b"no picture"}
    assert rows(tmp_path / "out") == rows(both[0][True])


def test_a_run_says_which_decoder_it_had(sample_data, tmp_path, monkeypatch):
    """The GPU is a stand-in, which takes the plain picture and leaves the other; or there is none that is trusted."""
    turned = Image.Exif()
    turned[0x0112] = 6
    make_tar(tmp_path / "a.tar", [("0.jpg", jpeg(0)), ("1.jpg", jpeg(1, exif=turned))])
    decoder = DeviceDecoder(torch.device("cpu"), lambda images: [decode(image).pixels_CHW for image in images])
    monkeypatch.setattr("pipeline.job.description._device", lambda *_: "cpu")
    for number, (made, note) in enumerate([(decoder, "a GPU decoded 1 of 2 labelled"), (None, "decoded on CPUs")]):
        monkeypatch.setattr("pipeline.labeler.step_factory.make_checked_decoder", lambda _device, made=made: made)
        out = tmp_path / f"out-{number}"
        summary = label(tmp_path / "a.tar", out, **options(sample_data, decode="gpu"))
        assert any(note in said for said in summary.notes)
        (run,) = json.loads((out / "job.json").read_text())["runs"]
        assert run["decoded_on_gpu"] == summary.decoded_on_gpu == 1 - number
