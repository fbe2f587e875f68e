"""Images for which a network computes no finite numbers: in quarantine, never labelled."""

from __future__ import annotations

import io

import pyarrow.parquet as pq
import pytest
import torch
from conftest import make_tar
from PIL import Image
from small_jobs import labeler
from torchvision import models as tv

from pipeline import combine, label, verify
from pipeline.config.members import parse_members
from pipeline.inputs.find import find_inputs
from pipeline.inputs.units import tar_unit
from pipeline.models.weights import resolve
from pipeline.storage import Storage

ARCH = "squeezenet1_1"


def flat(grey: int) -> bytes:
    """A picture of one colour."""
    data = io.BytesIO()
    Image.new("RGB", (64, 64), (grey, grey, grey)).save(data, "PNG")
    return data.getvalue()


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A network of finite weights: black pictures give zeros, bright ones more than float32 can hold."""
    made = tv.squeezenet1_1(num_classes=3)
    state = {
        key: torch.full_like(value, 1e5) if key.endswith("weight") else torch.zeros_like(value)
        for key, value in made.state_dict().items()
    }
    path = tmp_path_factory.mktemp("network") / "bright.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    path = tmp_path_factory.mktemp("shard") / "s.tar"
    images = [flat(0), flat(255), b"no picture", flat(1), flat(254), flat(255), b"", flat(0)]
    make_tar(path, [(f"{at}.png", data) for at, data in enumerate(images)])
    return path


def tables(out) -> tuple[list, list]:
    """Keys that are labelled; key, stage and reason of those in quarantine, as they are written."""
    labelled = [
        row["key"] for path in sorted((out / "predictions").glob("*")) for row in pq.read_table(path).to_pylist()
    ]
    rejected = [row for path in sorted((out / "quarantine").glob("*")) for row in pq.read_table(path).to_pylist()]
    return labelled, [(row["key"], row["stage"], row["reason"]) for row in rejected]


WANTED = (
    ["0", "3", "7"],
    [
        ("1", "classify", "not_finite"),
        ("2", "decode", "not_an_image"),
        ("4", "classify", "not_finite"),
        ("5", "classify", "not_finite"),
        ("6", "read", "empty"),
    ],
)


@pytest.mark.parametrize("precision", ["fp32", "mixed", "fp16"])
def test_they_are_quarantined_and_the_others_labelled(network, shard, tmp_path, precision):
    words = {"engine": "inline", "progress": "none", "precision": precision}
    summary = label(str(shard), tmp_path, model=f"{ARCH}={network}?resize=256", **words)
    assert tables(tmp_path) == WANTED
    assert (summary.labelled, summary.quarantined) == (3, 5)
    found = verify(tmp_path, deep=True)
    assert (found.exit_code, found.samples) == (0, 8)


@pytest.mark.parametrize("device_thread", [False, True])
def test_one_member_is_enough_on_either_path(network, shard, sample_data, tmp_path, device_thread):
    requests = parse_members((f"{ARCH}={network}", f"other:{ARCH}={network}?mean=none"))
    members = [resolve(request, None, Storage()) for request in requests]
    (tar,) = find_inputs((str(shard),), Storage()).tars.values()
    made = labeler(members, tmp_path, device_thread=device_thread)
    list(made(tar_unit(tar)))
    made.close()
    labelled, rejected = tables(tmp_path)
    assert labelled == ["0", "7"]  # the other member takes all but black for bright
    assert [key for key, _, reason in rejected if reason == "not_finite"] == ["1", "3", "4", "5"]


def test_they_stay_so_where_predictions_are_reused(network, shard, tmp_path):
    words = {"engine": "inline", "progress": "none", "keep_probs": True}
    spec = f"{ARCH}={network}?resize=256"
    label(str(shard), tmp_path / "a", model=spec, **words)
    label(str(shard), tmp_path / "b", model=f"{spec},other:{ARCH}={network}?mean=none", reuse=tmp_path / "a", **words)
    combine(tmp_path / "a", tmp_path / "c", progress="none")
    assert tables(tmp_path / "b")[0] == ["0", "7"]
    assert tables(tmp_path / "c") == WANTED
