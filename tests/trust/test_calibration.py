"""Calibration files: written ones are read back, and others are refused in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from made_up_outputs import calibrated, write_csv, write_output
from typer.testing import CliRunner

from pipeline import calibrate
from pipeline.cli import app
from pipeline.config.settings import StorageConfig
from pipeline.errors import RequestError
from pipeline.storage import Storage
from pipeline.trust.calibration import members_fingerprint, read_calibration

NUM_CLASSES = 12
MEMBERS = [
    {"alias": "a", "arch": "resnet18", "factor": 1.0, "weights_sha256": "0" * 64, "recipe": {"mean": (0.5, 0.5)}},
    {"alias": "b", "arch": "alexnet", "factor": 2.0, "weights_sha256": "1" * 64, "recipe": {"mean": (0.4, 0.5)}},
]

MEMBER = {"alias": "m", "arch": "made_up", "factor": 1.0, "weights_sha256": "0"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An output of two members that are much too sure, and its truth in a file."""
    probs, truth = calibrated(600, NUM_CLASSES, sharpness=4)
    sure = probs**2.5 / (probs**2.5).sum(axis=1, keepdims=True)
    folder = tmp_path_factory.mktemp("made")
    out = write_output(folder / "out", np.stack([sure, sure]), [None] * 600)
    return out, write_csv(folder / "truth.csv", [(f"{at:05d}", label) for at, label in enumerate(truth)])


def test_it_is_read_as_it_was_written(made, tmp_path):
    out, truth = made
    fitted = calibrate(out, truth=truth, save=tmp_path / "cal.json")
    read, digest = read_calibration(str(tmp_path / "cal.json"), Storage())
    assert read == fitted
    assert len(digest) == 64
    assert fitted.temperature == pytest.approx(2.5, rel=0.15)
    assert (fitted.truths, fitted.rule, fitted.num_classes) == (600, "mean", NUM_CLASSES)
    assert fitted.before.ece > 3 * fitted.before.ece_floor
    assert fitted.after.ece < 2 * fitted.after.ece_floor
    assert fitted.after.nll < fitted.before.nll
    assert [member.alias for member in fitted.members] == ["m0", "m1"]
    assert fitted.truth == str(truth)


def test_truth_and_calibration_may_be_on_s3(s3, made):
    storage, place = Storage(StorageConfig(s3_endpoint=s3.endpoint)), f"s3://{s3.bucket()}"
    storage.publish(f"{place}/truth.csv", made[1].read_bytes())
    fitted = calibrate(made[0], truth=f"{place}/truth.csv", save=f"{place}/cal.json", s3_endpoint=s3.endpoint)
    assert read_calibration(f"{place}/cal.json", storage)[0] == fitted
    with pytest.raises(RequestError, match=r"--truth .*none\.csv"):
        calibrate(made[0], truth=f"{place}/none.csv", s3_endpoint=s3.endpoint)


def test_the_command_prints_the_metrics(made, tmp_path):
    out, truth = made
    words = ["calibrate", str(out), "--truth", str(truth), "--save", str(tmp_path / "cal.json")]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    read, _ = read_calibration(str(tmp_path / "cal.json"), Storage())
    for text in (f"temperature {read.temperature:.4g}", f"{read.after.ece:.1%}", f"top-1 stays {read.top1:.1%}"):
        assert text in shown.stdout
    printed = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert printed == json.loads((tmp_path / "cal.json").read_text())


def test_scores_are_fitted_to_be_right_where_no_class_may_fit(made, tmp_path):
    out, truth = made
    rows = [line.rpartition(",") for line in truth.read_text().splitlines()[1:]]
    answers = [(json.loads(key), "none" if at < 150 else json.loads(label)) for at, (key, _, label) in enumerate(rows)]
    plain = calibrate(out, truth=write_csv(tmp_path / "fits.csv", answers[150:]))
    words = ["calibrate", str(out), "--truth", str(write_csv(tmp_path / "all.csv", answers)), "--save"]
    shown = CliRunner().invoke(app, [*words, str(tmp_path / "cal.json")])
    fitted, _ = read_calibration(str(tmp_path / "cal.json"), Storage())
    assert (fitted.truths, fitted.no_class, plain.no_class) == (600, 150, 0)
    assert fitted.top1 == pytest.approx(0.75 * plain.top1)
    # without these images in the fit, scores would be too high by about a quarter of the labels
    assert fitted.temperature > 1.2 * plain.temperature
    assert fitted.after.ece < 0.12 < 0.2 < fitted.before.ece
    assert fitted.after.nll < fitted.before.nll
    assert "in 150 of them no class fits (none)" in shown.stdout
    write_csv(tmp_path / "few.csv", answers[:190])
    with pytest.raises(RequestError, match=r"40 images with known truth \(150 besides are none\) are too few"):
        calibrate(out, truth=tmp_path / "few.csv")


def test_too_few_truths_are_refused_with_how_many_are_needed(made, tmp_path):
    out, truth = made
    few = tmp_path / "few.csv"
    few.write_text("".join(truth.read_text().splitlines(keepends=True)[:31]) + "nowhere,1\n")
    says = r"30 images .* 50 are needed; a list of 50 images: `.* --num 50 .*`; 1 whose key is not among"
    with pytest.raises(RequestError, match=says):
        calibrate(out, truth=few, save=tmp_path / "cal.json")
    assert not (tmp_path / "cal.json").exists()
    with pytest.raises(RequestError, match="0 images with known truth"):
        calibrate(out)


@pytest.mark.parametrize(
    ("results", "says"),
    [
        ({"combine": "vote"}, "shares of votes, not probabilities"),
        ({"combine": "mean", "calibration": {"temperature": 2, "sha256": "0"}}, "was labelled with a calibration"),
    ],
)
def test_outputs_that_cannot_be_calibrated(made, tmp_path, results, says):
    probs, truth = calibrated(60, NUM_CLASSES)
    out = write_output(tmp_path / "out", probs[None], truth, results={"members": [MEMBER], "top_k": 5, **results})
    with pytest.raises(RequestError, match=says):
        calibrate(out)


@pytest.fixture
def fitted(made, tmp_path):
    calibrate(made[0], truth=made[1], save=tmp_path / "cal.json")
    return tmp_path / "cal.json"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"temperature": 0}, "temperature: Input should be greater than or equal to 0.01"),
        ({"temperature": float("nan")}, "temperature: Input should be a finite number"),
        ({"temperature": "hot"}, "temperature: Input should be a valid number"),
        ({"rule": "vote"}, "rule: Input should be 'mean' or 'geometric'"),
        ({"format": "other"}, "format: Input should be"),
        ({"weights": [1]}, "weights: Extra inputs are not permitted"),
        ({"before": {"nll": 1}}, "before.ece: Field required"),
    ],
)
def test_invalid_calibrations_are_refused(fitted, change, says):
    fitted.write_text(json.dumps(json.loads(fitted.read_text()) | change))
    with pytest.raises(RequestError, match=rf"--calibration .*cal\.json: no calibration of shardlabel: {says}"):
        read_calibration(str(fitted), Storage())


def test_missing_files_and_other_formats_are_refused(fitted, tmp_path):
    with pytest.raises(RequestError, match=r"--calibration .*none\.json: no such file"):
        read_calibration(str(tmp_path / "none.json"), Storage())
    fitted.write_bytes(b"\xff{")
    with pytest.raises(RequestError, match="no calibration of shardlabel: Invalid JSON"):
        read_calibration(str(fitted), Storage())


def test_the_members_fingerprint_covers_what_changes_the_pool():
    mark = members_fingerprint(MEMBERS)
    renamed = [MEMBERS[1] | {"alias": "c"}, json.loads(json.dumps(MEMBERS[0]))]
    assert members_fingerprint(renamed) == mark
    for change in ({"factor": 1.5}, {"weights_sha256": "2" * 64}, {"recipe": {"mean": (0.5, 0.4)}}):
        assert members_fingerprint([MEMBERS[0] | change, MEMBERS[1]]) != mark


def test_other_members_and_other_rules_are_refused(made, fitted):
    read, _ = read_calibration(str(fitted), Storage())
    members = json.loads((made[0] / "job.json").read_text())["results"]["members"]
    read.check(members, "mean", "cal.json")
    with pytest.raises(RequestError, match="fitted on the mean of the members, and this job combines them by vote"):
        read.check(members, "vote", "cal.json")
    with pytest.raises(
        RequestError, match=r"fitted on other members \(m0@m0m0m0m0\*1, m1@.*\) than this job has \(m0@"
    ):
        read.check(members[:1], "mean", "cal.json")
