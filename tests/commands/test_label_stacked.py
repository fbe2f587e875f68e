"""The whole way of a log-stack on real photographs: label with probabilities, calibrate, combine, label, evaluate."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import calibrate, combine, evaluate, label
from pipeline.cli import app
from pipeline.errors import OutputError, RequestError

MODELS = ("shufflenet_v2_x0_5", "squeezenet1_1")


def words(sample_data, **more) -> dict:
    return {
        "model": MODELS,
        "weights_dir": str(sample_data / "weights"),
        "labels": str(sample_data / "classes.txt"),
        "engine": "inline",
        "precision": "fp32",
        "max_bad_rate": 1.0,
        **more,
    }


def rows(out) -> list[dict]:
    found = [row for path in (out / "predictions").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    return sorted(found, key=lambda row: (row["shard"], row["index"]))


@pytest.fixture(scope="module")
def stacked(sample_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stacked")
    shards = [str(sample_data / f"shard-00{number}.tar") for number in range(2)]
    label(shards, folder / "out", **words(sample_data, keep_probs=True))
    fitted = calibrate(folder / "out", save=folder / "cal.json", method="stack")
    combine(folder / "out", folder / "combined", calibration=folder / "cal.json", engine="inline")
    return folder, fitted, shards


def test_a_stack_is_fitted_where_probabilities_are_stored(stacked):
    folder, fitted, _ = stacked
    assert (fitted.method, fitted.rule) == ("stack", "geometric")
    weights = [member.weight for member in fitted.members]
    assert fitted.temperature == pytest.approx(1 / sum(weights), rel=1e-4)
    assert fitted.after.nll < fitted.before.nll
    assert fitted.truths == evaluate(folder / "out").images
    one = calibrate(folder / "out", method="temperature")
    assert (one.method, one.rule) == ("temperature", "mean")
    best = min(fitted, one, key=lambda found: found.after.nll)
    assert calibrate(folder / "out").method == best.method  # the one that says more of what it was not fitted on
    assert one.after.nll == pytest.approx(fitted.temperature_alone.nll, rel=0.05)  # of the top-k, of all


def test_combining_with_it_is_labelling_with_it(stacked, sample_data):
    folder, fitted, shards = stacked
    weights = {member.alias: member.weight for member in fitted.members}
    aka = ("squeezenet1_1", "first:shufflenet_v2_x0_5*7")  # by what they are, not what they are called
    label(shards, folder / "labelled", **words(sample_data, model=aka, calibration=folder / "cal.json"))
    job = json.loads((folder / "labelled" / "job.json").read_text())
    assert job["results"]["combine"] == "geometric"
    assert job["results"]["calibration"]["weights"] == [weights["squeezenet1_1"], weights["shufflenet_v2_x0_5"]]
    total = sum(weights.values())
    for one, other in zip(rows(folder / "combined"), rows(folder / "labelled"), strict=True):
        assert one["label"] == other["label"]
        np.testing.assert_allclose(one["scores"], other["scores"], atol=2e-3)
        for name in ("agreement", "entropy", "disagreement"):
            assert one[name] == pytest.approx(other[name], abs=5e-3)
        agreed = sum(weight for alias, weight in weights.items() if one["members"][alias]["labels"][0] == one["label"])
        assert one["agreement"] == pytest.approx(agreed / total, abs=1e-5)


def test_evaluate_reports_it_and_scores_fit_the_truth_better(stacked, capsys):
    folder, fitted, _ = stacked
    raw, warm = evaluate(folder / "out"), evaluate(folder / "combined")
    assert raw.weights is None
    assert warm.weights == {member.alias: member.weight for member in fitted.members}
    truth, scores = [[row[name] for row in rows(folder / "combined")] for name in ("truth", "scores")]
    nll = {}
    for name in ("out", "combined"):
        found = rows(folder / name)
        nll[name] = -np.mean(
            [np.log(row["scores"][row["labels"].index(row["truth"])]) for row in found if row["truth"] in row["labels"]]
        )
    assert len(truth) == len(scores)
    assert nll["combined"] < nll["out"]
    assert app(["evaluate", str(folder / "combined")], standalone_mode=False) == 0
    assert "a log-stack with the weights" in capsys.readouterr().out
    words = ["calibrate", str(folder / "out"), "--save", str(folder / "again.json"), "--method", "stack"]
    assert app(words, standalone_mode=False) == 0
    said = capsys.readouterr().out
    assert "log-stack, weights shufflenet_v2_x0_5" in said
    assert "temperature alone (5-fold)" in said
    assert (folder / "again.json").read_bytes() == (folder / "cal.json").read_bytes()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "shufflenet_v2_x0_5"}, "was fitted on other members"),
        ({"model": ("shufflenet_v2_x0_5", "mobilenet_v3_small")}, "was fitted on other members"),
        ({"combine": "vote"}, "a log-stack brings its own rule"),
    ],
)
def test_a_stack_of_other_members_is_refused(stacked, sample_data, tmp_path, change, says):
    folder, _, shards = stacked
    with pytest.raises(RequestError, match=says):
        label(shards, tmp_path / "out", **words(sample_data, calibration=folder / "cal.json", **change))
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_fitted_is_refused(stacked, tmp_path):
    folder, _, _ = stacked
    with pytest.raises(RequestError, match="holds no probabilities"):
        calibrate(folder / "combined", method="stack")
    with pytest.raises(RequestError, match="was labelled with a calibration"):
        calibrate(folder / "combined")
    with pytest.raises(RequestError, match="--method: one of"):
        calibrate(folder / "out", method="magic")
    few = tmp_path / "few.csv"
    few.write_text("key,label\n" + "".join(f"{row['key']},{row['truth']}\n" for row in rows(folder / "out")[:20]))
    with pytest.raises(RequestError, match="too few to fit a log-stack: 50 are needed"):
        calibrate(folder / "out", truth=few)
    combine(folder / "out", folder / "plain", engine="inline")
    with pytest.raises(OutputError, match=r"differs in combine .* calibration \(none then, log-stack, temperature"):
        combine(folder / "out", folder / "plain", engine="inline", calibration=folder / "cal.json")
