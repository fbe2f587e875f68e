"""Images that a network computes infinities for: quarantined whatever the precision, the device, or what is reused."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from conftest import jpeg, make_tar
from small_jobs import ONE, options, rows

from pipeline import combine, label, status, verify
from pipeline.config.members import MemberRequest
from pipeline.labeler.labeler import Labeler
from pipeline.models.weights import build_network, resolve
from pipeline.storage import Storage

OTHER = "squeezenet1_1"
NUM_IMAGES = 9


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    images = [(f"{at}.jpg", b"no picture" if at == 4 else jpeg(at)) for at in range(NUM_IMAGES)]
    make_tar(folder / "a.tar", images)
    return folder


@pytest.fixture(scope="module")
def run(shards, sample_data):
    return lambda out, *models, **more: label(str(shards), out, **options(sample_data, **{"model": models, **more}))


@pytest.fixture(scope="module")
def huge(run, sample_data, tmp_path_factory):
    """Weights, all finite, that overflow float32 for about half of the images."""
    folder = tmp_path_factory.mktemp("huge")
    member = resolve(MemberRequest.parse(ONE), str(sample_data / "weights"), Storage())
    state = build_network(member.spec, member.blob).state_dict()
    state["fc.bias"] = torch.zeros_like(state["fc.bias"])
    state["fc.weight"] = state["fc.weight"].abs() * 1e20  # of features that a ReLU leaves: all logits are positive
    state["fc.weight"][1:] = 0
    torch.save(state, folder / "probe.pth")
    run(folder / "probe", f"{ONE}={folder / 'probe.pth'}")
    energies = np.sort(
        [row["energy"] for row in rows(folder / "probe")["members"].combine_chunks().field(ONE).to_pylist()]
    )
    middle = (energies[len(energies) // 2 - 1] + energies[len(energies) // 2]) / 2
    state["fc.weight"] *= torch.finfo(torch.float32).max / middle
    assert state["fc.weight"].isfinite().all()
    torch.save(state, folder / "huge.pth")
    return f"{ONE}={folder / 'huge.pth'}"


@pytest.fixture(scope="module")
def labelled(run, huge, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    run(out, huge, keep_probs=True)
    return out


def outcome(out) -> list[tuple]:
    return [(row["index"], row["stage"], row["reason"], row["offset"]) for row in rows(out, "quarantine").to_pylist()]


def test_they_are_quarantined_and_the_others_labelled(labelled):
    found = rows(labelled, "quarantine").to_pylist()
    assert [row["index"] for row in found] == sorted(row["index"] for row in found)
    bad = [row for row in found if row["index"] != 4]
    assert 0 < len(bad) < NUM_IMAGES - 1
    assert {(row["stage"], row["reason"], row["message"]) for row in bad} == {
        ("classify", "not_finite", f"{ONE}: logits that are not finite")
    }
    assert all(row["sha256"] and row["num_bytes"] and row["offset"] is not None for row in bad)
    assert np.isfinite(rows(labelled)["score"].to_numpy()).all()
    assert len(rows(labelled)) + len(found) == NUM_IMAGES
    assert verify(labelled, deep=True).exit_code == 0
    assert status(labelled).quarantined["not_finite"] == len(bad)


@pytest.mark.parametrize(
    ("members", "more", "device_thread"),
    [((), {"precision": "mixed"}, True), ((OTHER,), {"precision": "mixed"}, False), ((), {"precision": "bf16"}, False)],
    ids=["device", "ensemble", "bf16"],
)
def test_whatever_the_way(run, huge, labelled, tmp_path, monkeypatch, members, more, device_thread):
    monkeypatch.setattr("pipeline.labeler.worker.Labeler", functools.partial(Labeler, device_thread=device_thread))
    run(tmp_path / "out", huge, *members, **more)
    found = outcome(tmp_path / "out")
    if more["precision"] == "bf16":  # rounds otherwise, so that one at the edge may differ
        assert "not_finite" in {reason for _, _, reason, _ in found}
    else:
        assert found == outcome(labelled)
    assert np.isfinite(rows(tmp_path / "out")["score"].to_numpy()).all()


def test_a_member_that_is_sound_alone_labels_what_another_one_kept_out(run, huge, labelled, tmp_path, capsys):
    run(tmp_path / "both", huge, OTHER, keep_probs=True)
    assert outcome(tmp_path / "both") == outcome(labelled)
    for members in ((OTHER,), (OTHER, ONE)):  # with and without a member that is new
        out, plain = tmp_path / f"again-{len(members)}", tmp_path / f"plain-{len(members)}"
        run(out, *members, reuse=tmp_path / "both")
        run(plain, *members)
        assert rows(out)["label"].equals(rows(plain)["label"])
        assert "not_finite" not in {reason for _, _, reason, _ in outcome(out)}
    combine(tmp_path / "both", tmp_path / "pooled", engine="inline", model=(OTHER,), progress="plain")
    assert "because the numbers of some member of" in capsys.readouterr().err


def test_reused_they_stay_in_quarantine(run, huge, labelled, tmp_path):
    run(tmp_path / "more", huge, OTHER, reuse=labelled)
    assert outcome(tmp_path / "more") == outcome(labelled)


def test_what_an_older_version_stored_is_quarantined(run, huge, labelled, tmp_path, monkeypatch):
    with monkeypatch.context() as older:
        older.setattr("pipeline.labeler.tasks.split_not_finite", lambda *found: (*found[:2], []))
        run(tmp_path / "old", huge, keep_probs=True)
    assert not np.isfinite(rows(tmp_path / "old")["score"].to_numpy()).all()
    combine(tmp_path / "old", tmp_path / "pooled", engine="inline")
    run(tmp_path / "more", huge, OTHER, reuse=tmp_path / "old")
    expected = [found[:3] for found in outcome(labelled)]
    assert [found[:3] for found in outcome(tmp_path / "pooled")] == expected
    assert [found[:3] for found in outcome(tmp_path / "more")] == expected
    assert verify(tmp_path / "pooled", deep=True).exit_code == 0
