"""Checkpoints are read as data: what lies beside the weights is no reason to refuse them, and none of it is run."""

from __future__ import annotations

import contextlib
import gzip
import pickle
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
import safetensors.torch
import torch
from trainer_files import Hostile, Settings, bystanders, choose, network, saved

from pipeline.checkpoints.reading import read_checkpoint
from pipeline.errors import WeightsError


def test_a_fsdp2_state_dict_of_one_process_is_whole():
    """torch 2.13: its tensors are distributed ones, each with all of its numbers here."""
    tree = read_checkpoint("x.pt", (Path(__file__).parent / "fsdp2.pt").read_bytes()).tree
    assert [tuple(value.shape) for value in tree.values()] == [(3, 4), (3,)]
    assert all(type(value) is torch.Tensor for value in tree.values())


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}])
@pytest.mark.parametrize("name", bystanders())
def test_what_lies_beside_the_weights_does_not_matter(name, options):
    data = saved({"state_dict": network(), name: bystanders()[name]}, **options)
    found = choose(data)
    assert all(torch.equal(found.state[key], value) for key, value in network().items())


@pytest.mark.parametrize("kind", [dict, Settings])
def test_a_kind_of_dict_is_one(kind):
    assert choose(kind(network())).state.keys() == network().keys()
    assert choose({"state_dict": kind(network())}).state.keys() == network().keys()


def test_tensors_are_read_whatever_their_layout():
    base = torch.arange(96.0).reshape(8, 12)
    state = network() | {
        "conv1.weight": torch.randn(3, 3, 3, 8).permute(3, 2, 0, 1),
        "bn1.weight": torch.nn.Parameter(base[:, 3]),
        "bn1.running_mean": base[:, 3].half(),
        "fc.weight": base.t()[:4].bfloat16(),
    }
    found = choose(state).state
    assert all(
        torch.equal(found[key], value.float() if value.is_floating_point() else value) for key, value in state.items()
    )


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
@pytest.mark.parametrize("place", ["whole", "beside", "weight"])
def test_nothing_is_run(place, options, tmp_path):
    hostile = Hostile(str(tmp_path / "ran"))
    beside = {"state_dict": network(), "args": hostile}
    data = saved({"whole": hostile, "beside": beside, "weight": {"fc.weight": hostile}}[place], **options)
    with contextlib.suppress(WeightsError):
        choose(data)
    assert not (tmp_path / "ran").exists()
    pickle_file = data if options else zipfile.ZipFile(BytesIO(data)).read("archive/data.pkl")
    assert b"touch" in pickle_file  # the file asks for it


def zipped(*names: str) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return file.getvalue()


def tarred() -> bytes:
    file = BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return file.getvalue()


class Command:
    def __reduce__(self):
        return eval, ("1 + 1",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Command(), r"refused, because it is a pickle that carries code \(builtins.eval\); save the state dict alone"),
        (
            torch.nn.Linear(2, 2),
            r"refused, because it is a pickle that carries code \(torch.nn.modules.linear.Linear\)",
        ),
        (
            {"model": torch.nn.Linear(2, 2)},
            r"refused, because its network is a pickle that carries code \(torch.nn.modules.linear.Linear\)",
        ),
        ([network()], "holds a list, not a state dict"),
        ({"epoch": 3}, "holds no tensors, only epoch"),
        ({}, "holds no tensors"),
        (b"", "damaged, or no checkpoint"),
        (b"no pickle", "damaged, or no checkpoint"),
        (saved(network())[:400], "damaged, or no checkpoint"),
        (saved(network(), _use_new_zipfile_serialization=False)[:-40], "damaged, or no checkpoint"),
        (b"PK\3\4" + bytes(100), "damaged, or no checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer, not the file itself: git lfs pull"),
        (b'{"weight_map": {"a": "x-00001-of-00002.safetensors"}}', "the index of a network in 1 files"),
        (b"\x89HDF\r\n", "an HDF5 file"),
        (gzip.compress(b"x", mtime=0), "a gzip archive: unpack it first"),
        (b"\n<!DOCTYPE html><html>", "a page of the web or its error"),
        (b"\x08\x07\x12\x07pytorch\x1a\x052.1.0:", "an ONNX file"),
        (zipped("x/archive_format", "x/data/weights/weight_0"), r"what torch.export writes \(.pt2\)"),
        (zipped("a.npy"), "numpy arrays: make them tensors"),
        (zipped("a/b.txt"), r"a zip archive of other files \(a/b.txt\): unpack it first"),
        (tarred(), "a tar archive: unpack it first"),
        (saved({"fc.weight_orig": torch.ones(1), "fc.weight_u": torch.ones(1)}), "a network with spectral_norm"),
    ],
)
def test_what_is_refused_is_one_line(content, message):
    with pytest.raises(WeightsError, match=f"^x.pth: {message}") as raised:
        choose(content)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["x.safetensors", "x.bin", "x"])
def test_a_safetensors_file_is_told_by_its_content(name):
    found = choose(safetensors.torch.save(network(), {"format": "pt"}), name)
    assert found.state.keys() == network().keys()


def test_a_plain_pickle_of_tensors_is_read():
    """As ``pickle.dump`` writes it: each tensor is a file of torch within the file."""
    assert choose(pickle.dumps(network())).state.keys() == network().keys()


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_file_that_was_packed_again_is_read_or_called_damaged(method):
    packed = BytesIO()
    with zipfile.ZipFile(BytesIO(saved(network()))) as plain, zipfile.ZipFile(packed, "w", method) as again:
        for name in plain.namelist():
            again.writestr(name, plain.read(name))
    assert choose(packed.getvalue()).state.keys() == network().keys()
    start = packed.getvalue().index(b"data.pkl") + 30
    damaged = packed.getvalue()[:start] + bytes(40) + packed.getvalue()[start + 40 :]
    with pytest.raises(WeightsError, match=r"damaged, or no checkpoint"):
        choose(damaged)


def test_a_dict_that_lies_in_another_many_times_costs_no_time():
    wide = {f"k{number}": number for number in range(20_000)}
    with pytest.raises(WeightsError, match="holds no tensors, only a0, "):
        choose({f"a{number}": wide for number in range(20_000)})
