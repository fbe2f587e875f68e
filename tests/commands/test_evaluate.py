"""Evaluate: outputs whose truth is known, from the samples or from a file."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from made_up_outputs import calibrated, write_csv, write_output
from typer.testing import CliRunner

from pipeline import evaluate
from pipeline.cli import app
from pipeline.errors import RequestError

NUM_IMAGES, NUM_CLASSES = 300, 12


@pytest.fixture(scope="module")
def made():
    """Two noisy views of one calibrated distribution, and the truth."""
    probs, truth = calibrated(NUM_IMAGES, NUM_CLASSES)
    rng = np.random.default_rng(1)
    views = np.log(probs) + rng.normal(size=(2, *probs.shape))
    return np.exp(views) / np.exp(views).sum(axis=2, keepdims=True), truth


@pytest.fixture(scope="module")
def out(made, tmp_path_factory):
    probs, truth = made
    return write_output(tmp_path_factory.mktemp("made") / "out", probs, truth, rows_per_part=7)


def test_the_figures_are_those_of_the_arrays(out, made):
    probs, truth = made
    found = evaluate(out)
    assert (found.images, found.truth.given, found.truth.used) == (NUM_IMAGES,) * 3
    assert (found.top_k, found.temperature) == (5, None)
    pool = probs.mean(axis=0)
    for accuracy, view in zip([found.consensus, *found.members.values()], [pool, *probs], strict=True):
        ranks = (-view).argsort(axis=1) == np.array(truth)[:, None]
        assert accuracy.top1 == pytest.approx(ranks[:, 0].mean())
        assert accuracy.top5 == pytest.approx(ranks[:, :5].any(axis=1).mean())
        assert accuracy.top1_interval[0] < accuracy.top1 < accuracy.top1_interval[1]
        scores = np.concatenate([[b.score] * b.images for b in accuracy.reliability.bins])
        assert scores.mean() == pytest.approx(view.max(axis=1).mean(), abs=1e-6)
    best = max(found.members, key=lambda alias: found.members[alias].top1)
    assert found.gain.over == best
    assert found.gain.difference == pytest.approx(found.consensus.top1 - found.members[best].top1)
    assert sum(figures.images for figures in found.classes) == NUM_IMAGES
    wrong = [pair for pair in zip(truth, pool.argmax(axis=1).tolist(), strict=True) if pair[0] != pair[1]]
    first = found.confused[0]
    assert first.images == wrong.count((first.truth, first.label)) == max(map(wrong.count, wrong))
    assert len(found.confused) == min(50, len(set(wrong)))
    assert [group.low for group in found.by_agreement] == [0, 0.5, 1]


def test_a_truth_file_gives_the_same_as_the_samples(out, made, tmp_path):
    rows = [(f"{at:05d}", f"class {label}") for at, label in enumerate(made[1])]
    found, own = evaluate(out, truth=write_csv(tmp_path / "t.csv", reversed(rows))), evaluate(out)
    assert found.consensus == own.consensus
    assert found.members == own.members
    assert found.classes == own.classes
    assert found.truth.complaints == ()


def test_unknown_and_ambiguous_keys_are_reported_and_left_out(made, tmp_path):
    probs, truth = made
    keys = ["same" if at < 2 else f"{at:05d}" for at in range(NUM_IMAGES)]
    shards = ["/data/a.tar" if at % 2 else "/data/b.tar" for at in range(NUM_IMAGES)]
    out = write_output(tmp_path / "out", probs, truth, keys=keys, shards=shards)
    rows = [("same", truth[0]), ("00002", truth[2]), ("nowhere", 1), ("00003", "x")]
    found = evaluate(out, truth=write_csv(tmp_path / "t.csv", rows))
    assert (found.images, found.truth.given) == (1, 4)
    assert (found.truth.ambiguous_keys, found.truth.unknown_keys, found.truth.unknown_labels) == (1, 1, 1)
    assert found.truth.unknown_key_examples == ("nowhere",)
    with_shards = [(shards[at], keys[at], truth[at]) for at in range(6)]
    found = evaluate(out, truth=write_csv(tmp_path / "s.csv", with_shards, "shard,key,label"))
    assert (found.images, found.truth.complaints) == (6, ())


def test_truths_outside_of_the_classes_and_parts_of_other_jobs_do_not_count(made, tmp_path):
    probs, truth = made
    out = write_output(tmp_path / "out", probs, [NUM_CLASSES, -1, None, *truth[3:]])
    for path in list((out / "predictions").iterdir())[:1]:
        path.with_name(path.name.replace("abababab", "cdcdcdcd")).write_bytes(path.read_bytes())
    found = evaluate(out)
    assert (found.images, found.truth.given, found.truth.unknown_labels) == (NUM_IMAGES - 3, NUM_IMAGES - 1, 2)


def test_a_person_and_a_script_read_the_same(out):
    shown = CliRunner().invoke(app, ["evaluate", str(out)])
    assert shown.exit_code == 0
    found = json.loads(CliRunner().invoke(app, ["evaluate", str(out), "--json"]).stdout)
    assert found["consensus"]["top1"] == evaluate(out).consensus.top1
    for words in (
        "300 images with known truth",
        f"{found['consensus']['top1']:.1%}",
        f"{found['members']['m0']['reliability']['ece']:.1%}",
        "the consensus is uncalibrated",
        "no promise for other images",
        f"{found['kept'][2]['threshold']:.4f}",
        f"mean F1 {found['macro_f1']:.1%}; the 10 worst of 12, --json has all",
    ):
        assert words in shown.stdout


@pytest.mark.parametrize(
    ("truth", "says"),
    [
        (None, "no labelled sample has a .cls, so there is nothing to compare with. `shardlabel sample "),
        ([], "t.csv: of its 0 truths none can be used: it is empty"),
        ([("00000", "")], "of its 1 truth none can be used: 1 without a label: `shardlabel annotate "),
        (
            [(f"x/{at}", 1) for at in range(5)],
            "t.csv: of its 5 keys none is among the labelled images. It has x/0, x/1, x/2; the output has "
            "00000, 00001, 00002",
        ),
    ],
)
def test_a_missing_truth_is_reported(made, tmp_path, truth, says):
    out = write_output(tmp_path / "out", made[0][:1], [None] * NUM_IMAGES)
    file = None if truth is None else write_csv(tmp_path / "t.csv", truth)
    with pytest.raises(RequestError) as error:
        evaluate(out, truth=file)
    assert says in str(error.value)
    assert error.value.exit_code == 2


def test_no_class_fits_counts_as_wrong_for_every_label(out, made, tmp_path):
    truth = made[1]
    answers = ["None of these" if at % 4 == 0 else f"CLASS_{truth[at]}" for at in range(100)]
    rows = [(f"{at:05d}", answer) for at, answer in enumerate(answers)]
    found = evaluate(out, truth=write_csv(tmp_path / "t.csv", [*rows, ("00200", "class x")]))
    assert (found.images, found.truth.no_class, found.truth.unknown_labels, found.truth.unknown_images) == (
        100,
        25,
        1,
        1,
    )
    without = evaluate(out, truth=write_csv(tmp_path / "f.csv", [row for row in rows if row[1] != "None of these"]))
    assert found.consensus.top1 == pytest.approx(0.75 * without.consensus.top1)
    assert found.consensus.top5 == pytest.approx(0.75 * without.consensus.top5)
    assert sum(figures.images for figures in found.classes) == 75
    assert sum(figures.predicted for figures in found.classes) == 100
    assert sum(pair.images for pair in found.confused if pair.truth_name == "none") == 25
    shown = CliRunner().invoke(app, ["evaluate", str(out), "--truth", str(tmp_path / "t.csv")])
    assert "in 25 of them, 25.0%, no class fits (none): every label is wrong there" in shown.stdout
    assert (
        json.loads(
            CliRunner().invoke(app, ["evaluate", str(out), "--truth", str(tmp_path / "t.csv"), "--json"]).stdout
        )["truth"]["no_class"]
        == 25
    )


@pytest.mark.parametrize(
    ("in_output", "in_truth", "matched"),
    [
        (["dir/1.jpg", "dir/2.JPEG"], ["dir/1", "dir/2"], 2),
        (["dir/1.jpg", "dir/1.png"], ["dir/1", "x"], 0),  # two images
        (["dir/1.jpg", "dir/1"], ["dir/1", "x"], 1),  # as it stands there
        (["1", "v1.5"], ["1.jpg", "v1.5.png"], 2),
        (["1", "v1.5"], ["1.png", "v1"], 1),  # .5 is no extension of an image
        (["1", "2"], ["1.jpg", "1.png"], 0),  # two answers about one image
        (["dir/1.jpg", "./2.jpg"], ["./dir/1.jpg", "2"], 2),
        (["dir/1.jpg", "a/b/2.jpg"], ["dir\\1.jpg", ".\\a\\b\\2"], 2),
        (["dir/1.jpg", "dir\\1.jpg"], ["dir\\1.jpg", "x"], 1),
        (["1.jpg", "2.jpg"], ["1.png", "2.jpg"], 1),
    ],
)
@pytest.mark.parametrize("with_shards", [False, True])
def test_keys_as_people_write_them(made, tmp_path, in_output, in_truth, matched, with_shards):
    out = write_output(tmp_path / "out", made[0][:, :2], [None] * 2, keys=in_output, rows_per_part=1)
    shard = ["/data/a.tar"] * with_shards
    heading = ("shard,key,label" if with_shards else "key,label").split(",")
    file = tmp_path / "t.csv"
    with file.open("w") as opened:
        csv.writer(opened).writerows([heading, *((*shard, key, label) for label, key in enumerate(in_truth))])
    if matched:
        assert evaluate(out, truth=file).images == matched
    else:
        with pytest.raises(RequestError, match=r"can be used|of its 2 keys none"):
            evaluate(out, truth=file)
