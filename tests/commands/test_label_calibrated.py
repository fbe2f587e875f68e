"""The whole way on real photographs: label, calibrate on the samples' truth, label again, evaluate."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import calibrate, evaluate, label
from pipeline.errors import OutputError, RequestError


def words(sample_data, **more) -> dict:
    return {
        "model": "shufflenet_v2_x0_5,squeezenet1_1",
        "weights_dir": str(sample_data / "weights"),
        "labels": str(sample_data / "classes.txt"),
        "engine": "inline",
        "precision": "fp32",
        "max_bad_rate": 1.0,
        "top_k": 14,
        "limit": 60,
        **more,
    }


def columns(out, names):
    parts = sorted((out / "predictions").glob("*.parquet"))
    return pa.concat_tables([pq.read_table(part, columns=names, partitioning=None) for part in parts])


@pytest.fixture(scope="module")
def labelled(sample_data, tmp_path_factory):
    """A shard labelled twice: before and after a calibration on it."""
    folder = tmp_path_factory.mktemp("calibrated")
    shard = str(sample_data / "shard-000.tar")
    label(shard, folder / "before", **words(sample_data))
    fitted = calibrate(folder / "before", save=folder / "cal.json")
    label(shard, folder / "after", **words(sample_data, calibration=folder / "cal.json"))
    return folder, fitted, shard


def test_only_scores_and_entropy_change_by_the_temperature(labelled):
    folder, fitted, _ = labelled
    kept = ["key", "label", "labels", "agreement", "disagreement", "members", "truth"]
    assert columns(folder / "after", kept).equals(columns(folder / "before", kept))
    before, after = (np.array(columns(folder / name, ["scores"])["scores"].to_pylist()) for name in ("before", "after"))
    assert abs(fitted.temperature - 1) > 0.1
    powers = before ** (1 / fitted.temperature)
    expected = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(after, expected, atol=1e-5)
    truth = columns(folder / "after", ["truth"])["truth"].to_numpy()[:, None]
    labels = np.array(columns(folder / "after", ["labels"])["labels"].to_pylist())
    nll = [-np.log(scores[labels == truth]).mean() for scores in (before, after)]
    assert nll[1] < nll[0]
    assert nll[0] == pytest.approx(fitted.before.nll, rel=1e-4)
    entropy = -(expected * np.log(expected)).sum(axis=1)
    np.testing.assert_allclose(columns(folder / "after", ["entropy"])["entropy"].to_numpy(), entropy, atol=1e-4)


def test_job_json_and_evaluate_report_whether_it_is_calibrated(labelled):
    folder, fitted, _ = labelled
    before, after = (json.loads((folder / name / "job.json").read_text()) for name in ("before", "after"))
    assert (before["calibrated"], after["calibrated"]) == (False, True)
    assert after["results"]["calibration"]["temperature"] == fitted.temperature
    assert before["fingerprint"] != after["fingerprint"]
    raw, warm = evaluate(folder / "before"), evaluate(folder / "after")
    assert (raw.temperature, warm.temperature) == (None, fitted.temperature)
    assert warm.consensus.top1 == raw.consensus.top1 == fitted.top1
    assert warm.members == raw.members
    assert raw.consensus.reliability.ece == pytest.approx(fitted.before.ece, abs=1e-6)
    assert warm.consensus.reliability.bins[-1].score > raw.consensus.reliability.bins[-1].score  # it was too modest
    assert fitted.after.nll < fitted.before.nll


def test_an_output_keeps_its_calibration(labelled, sample_data):
    folder, _, shard = labelled
    with pytest.raises(OutputError, match=r"differs in calibration \(none then, temperature .* now\)"):
        label(shard, folder / "before", **words(sample_data, calibration=folder / "cal.json"))
    with pytest.raises(OutputError, match=r"differs in calibration \(temperature .* then, none now\)"):
        label(shard, folder / "after", **words(sample_data))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "shufflenet_v2_x0_5,squeezenet1_1*2"}, "was fitted on other members"),
        ({"combine": "geometric"}, "was fitted on the mean of the members"),
        ({"calibration": "nowhere.json"}, "nowhere.json: no such file"),
    ],
)
def test_a_calibration_of_something_else_is_refused_before_anything_is_written(
    labelled, sample_data, tmp_path, change, says
):
    folder, _, shard = labelled
    with pytest.raises(RequestError, match=says):
        label(shard, tmp_path / "out", **words(sample_data, **{"calibration": folder / "cal.json"} | change))
    assert not (tmp_path / "out").exists()
