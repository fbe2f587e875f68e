"""A temperature applied to an output without probabilities: from its top-k alone, compared with labelling again."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import calibrate, combine, evaluate, export, label, sample
from pipeline.errors import RequestError

TOP_K = 5  # of 14 classes


def words(sample_data, **more) -> dict:
    return {
        "model": "shufflenet_v2_x0_5,squeezenet1_1",
        "weights_dir": str(sample_data / "weights"),
        "labels": str(sample_data / "classes.txt"),
        "engine": "inline",
        "precision": "fp32",
        "max_bad_rate": 1.0,
        "top_k": TOP_K,
        **more,
    }


def columns(out, *names):
    parts = sorted((out / "predictions").glob("*.parquet"))
    return pq.read_table(parts, columns=list(names), partitioning=None)


@pytest.fixture(scope="module")
def made(sample_data, tmp_path_factory):
    """A shard labelled; calibrated by a temperature that half of the truths gave; the same by labelling again."""
    folder = tmp_path_factory.mktemp("temperature")
    shard = str(sample_data / "shard-000.tar")
    label(shard, folder / "before", **words(sample_data))
    fitted = calibrate(folder / "before", save=folder / "cal.json", hold_out=0.3)
    label(shard, folder / "again", **words(sample_data, calibration=folder / "cal.json"))
    found = combine(folder / "before", folder / "at-once", calibration=folder / "cal.json", engine="inline")
    assert found.exit_code == 0
    return folder, fitted


def test_only_scores_and_entropy_differ_and_they_differ_little(made):
    folder, fitted = made
    same = ("key", "label", "labels", "agreement", "disagreement", "members", "truth")
    assert columns(folder / "at-once", *same).equals(columns(folder / "again", *same))
    assert abs(fitted.temperature - 1) > 0.1
    for name, most in (("score", 0.02), ("entropy", 0.15)):
        found, expected, before = (
            columns(folder / out, name)[name].to_numpy() for out in ("at-once", "again", "before")
        )
        assert np.abs(found - expected).max() < most
        assert np.abs(found - expected).mean() < np.abs(before - expected).mean() / 20
    scores = np.array(columns(folder / "at-once", "scores")["scores"].to_pylist())
    assert (np.diff(scores, axis=1) <= 0).all()
    assert (scores.sum(axis=1) <= 1 + 1e-6).all()


def test_it_says_that_it_is_another_job_than_labelling_again(made):
    folder, fitted = made
    jobs = {name: json.loads((folder / name / "job.json").read_text()) for name in ("before", "again", "at-once")}
    assert jobs["at-once"]["results"]["calibration"]["from_top_k"] == TOP_K
    assert len({job["fingerprint"] for job in jobs.values()}) == 3
    assert jobs["at-once"]["fitted_on"] == jobs["again"]["fitted_on"] == fitted.fitted_on
    assert "fitted_on" not in jobs["before"]
    assert evaluate(folder / "at-once").fitted == evaluate(folder / "again").fitted == fitted.truths
    assert evaluate(folder / "before").fitted == 0


def test_a_promise_uses_what_was_held_out(made, tmp_path):
    folder, fitted = made
    with pytest.raises(RequestError, match=r"with \d+ truths \(\d+ more were used to fit the calibration"):
        export(folder / "at-once", tmp_path / "no", "csv", engine="inline", target_precision=0.99)
    summary = export(folder / "at-once", tmp_path / "to", "csv", engine="inline", target_precision=0.5)
    promise = summary.promise
    assert promise.num_fitted == promise.num_truths - promise.num_certifying > 0
    assert promise.num_certifying <= fitted.held_out
    card = (tmp_path / "to" / "README.md").read_text()
    assert f"was fitted on {promise.num_fitted} of the images" in card
    assert "is the word of who exported" in card


def test_what_needs_probabilities_is_refused(made, tmp_path):
    folder, _ = made
    for more in ({}, {"combine": "geometric"}, {"calibration": folder / "cal.json", "top_k": 3}):
        with pytest.raises(RequestError, match=r"holds no probabilities; .* --keep-probs\. Without them only a calib"):
            combine(folder / "before", tmp_path / "out", engine="inline", **more)
    with pytest.raises(RequestError, match="was labelled with a calibration already"):
        combine(folder / "at-once", tmp_path / "out", calibration=folder / "cal.json", engine="inline")
    stack = json.loads((folder / "cal.json").read_text()) | {"method": "stack", "rule": "geometric"}
    for member in stack["members"]:
        member |= {"identity": None, "weight": 0.5}
    (tmp_path / "stack.json").write_text(json.dumps(stack))
    with pytest.raises(RequestError):
        combine(folder / "before", tmp_path / "out", calibration=tmp_path / "stack.json", engine="inline")


def test_a_list_proves_its_draw_and_review_is_refused(made, tmp_path):
    folder, _ = made
    sample(folder / "before", save=tmp_path / "s.csv", num=70, unique=True, images=False)
    truths = {row["key"]: row["truth"] for row in columns(folder / "before", "key", "truth").to_pylist()}
    listed = list(csv.DictReader((tmp_path / "s.csv").open()))
    for row in listed:
        row["truth"] = truths[row["key"]]
    with (tmp_path / "s.csv").open("w") as file:
        writer = csv.DictWriter(file, listed[0])
        writer.writeheader()
        writer.writerows(listed)
    words = {"target_precision": 0.5, "truth": tmp_path / "s.csv", "engine": "inline"}
    promise = export(folder / "before", tmp_path / "to", "csv", **words).promise
    assert promise.proven_random
    assert promise.num_selected > promise.num_truths
    assert "`random seed=0 num=70 of=" in (tmp_path / "to" / "README.md").read_text()
    # another consensus of the same images is the same population
    assert export(folder / "at-once", tmp_path / "other", "csv", **words).promise.proven_random
    text = (tmp_path / "s.csv").read_text()
    (tmp_path / "s.csv").write_text(text.replace("random seed=0", "review order=score"))
    with pytest.raises(RequestError, match="are of `review` lists"):
        export(folder / "before", tmp_path / "no", "csv", **words)
    (tmp_path / "s.csv").write_text(text.replace("population=", "population=1"))
    with pytest.raises(RequestError, match="so it is no random draw from what is exported"):
        export(folder / "before", tmp_path / "no", "csv", **words)
    assert not (tmp_path / "no").exists()
