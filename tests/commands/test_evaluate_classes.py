"""Evaluate with own classes: accuracy at each level, and truths that are groups."""

from __future__ import annotations

import numpy as np
import pytest
from made_up_outputs import calibrated, write_csv, write_output

from pipeline import evaluate
from pipeline.errors import InputError, RequestError

NUM_IMAGES, NUM_CLASSES = 200, 9
KIND = np.array([0, 0, 1, 1, 1, 2, 2, -1, -1])  # of the classes
FAMILY = np.array([0, 0, 0, 0, 0, 1, 1, 1, -1])
KINDS, FAMILIES = ("cat", "dog", "car"), ("animal", "vehicle")


@pytest.fixture(scope="module")
def made():
    return calibrated(NUM_IMAGES, NUM_CLASSES)


@pytest.fixture(scope="module")
def out(made, tmp_path_factory):
    """An output whose top-k are all classes."""
    probs, truth = made
    return write_output(tmp_path_factory.mktemp("made") / "out", probs[None], truth, k=NUM_CLASSES, rows_per_part=30)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    rows = [
        f"class {at},{KINDS[kind] if kind >= 0 else ''},{FAMILIES[family]}"
        for at, (kind, family) in enumerate(zip(KIND, FAMILY, strict=True))
        if family >= 0
    ]
    path = tmp_path_factory.mktemp("tree") / "tree.csv"
    path.write_text("\n".join(["class,kind,family", *rows]))
    return path


def groups_of(probs, group_of, num_groups):
    """The first group of each image, -1 where more lies outside."""
    sums = np.stack([probs[:, group_of == group].sum(axis=1) for group in range(num_groups)], axis=1)
    outside = probs[:, group_of < 0].sum(axis=1)
    return np.where(outside > sums.max(axis=1), -1, sums.argmax(axis=1))


def test_each_level_is_scored_as_the_arrays_tell(out, made, tree):
    probs, truth = made
    found = evaluate(out, classes=tree)
    assert (found.images, found.group_truths, found.groups_from) == (NUM_IMAGES, 0, "top-k")
    kind, family = found.levels
    for level, group_of, names in ((kind, KIND, KINDS), (family, FAMILY, FAMILIES)):
        true, given = group_of[truth], groups_of(probs, group_of, len(names))
        assert (level.images, level.not_told, level.num_groups) == (NUM_IMAGES, 0, len(names))
        assert level.accuracy == pytest.approx((true == given).mean())
        assert level.outside == (true < 0).sum()
        assert level.named == (given >= 0).sum()
        assert level.precision == pytest.approx((true == given)[given >= 0].mean())
        assert level.by_label == pytest.approx((group_of[probs.argmax(axis=1)] == true).mean())
        sizes = np.array([(group_of == group).sum() for group in range(len(names))])
        assert level.bits == pytest.approx(np.log2(NUM_CLASSES / sizes[given[given >= 0]]).mean())
        assert [figures.name for figures in level.classes] == list(names)
        assert sum(figures.images for figures in level.classes) == (true >= 0).sum()
        assert sum(pair.images for pair in level.confused) == (true != given).sum()
    assert evaluate(out).levels == ()


def test_a_truth_may_be_a_group_and_counts_where_it_tells(out, made, tree, tmp_path):
    probs, _ = made
    answers = ["dog", "animal", "vehicle", "none", "class 0", "class 8"]
    rows = [(f"{at:05d}", answer) for at, answer in enumerate(answers)]
    found = evaluate(out, classes=tree, truth=write_csv(tmp_path / "t.csv", rows))
    assert (found.images, found.group_truths, found.truth.used) == (3, 3, 6)
    kind, family = found.levels
    assert (kind.images, kind.not_told, kind.outside) == (4, 2, 2)
    assert (family.images, family.not_told, family.outside) == (6, 0, 2)
    true = np.array([0, 0, 1, -1, 0, -1])
    assert family.accuracy == pytest.approx((groups_of(probs[:6], FAMILY, 2) == true).mean())
    with pytest.raises(InputError, match=r"none can be used: 1 with a label that is no class"):
        evaluate(out, classes=tree, truth=write_csv(tmp_path / "u.csv", [("00000", "bird")]))
    with pytest.raises(InputError, match="none can be used"):
        evaluate(out, truth=write_csv(tmp_path / "v.csv", [("00000", "dog")]))  # without own classes


def test_truths_that_are_all_groups_are_shown_by_level(out, tree, tmp_path, shardlabel):
    rows = [(f"{at:05d}", "animal") for at in range(20)]
    truth = write_csv(tmp_path / "t.csv", rows)
    ended = shardlabel("evaluate", out, "--truth", truth, "--classes", tree)
    assert ended.returncode == 0, ended.stderr
    assert "20 more images whose truth is a group" in ended.stdout
    assert "20 more with a truth that is too coarse for kind" in ended.stdout
    assert "top-1" not in ended.stdout
    family = next(line.split() for line in ended.stdout.splitlines() if line.startswith("  family"))
    assert family[:3] == ["family", "2", "20"]


def test_names_of_wordnet_are_right_where_the_truth_lies_below(tmp_path):
    names = ("beagle", "basset", "tabby", "minivan")
    probs = np.array([[0.4, 0.3, 0.2, 0.1], [0.3, 0.25, 0.25, 0.2], [0, 0, 0.9, 0.1], [0.2, 0.1, 0.1, 0.6]])
    out = write_output(tmp_path / "out", probs[None], [0, 3, 2, 2], names=names, k=4)
    (level,) = evaluate(out, classes="wordnet").levels
    # hound.n.01 right; carnivore.n.01 of a minivan; a cat; a minivan that is a tabby
    assert (level.name, level.images, level.named, level.outside) == ("wordnet", 4, 4, 0)
    assert level.accuracy == level.precision == 0.5
    assert level.by_label is None
    assert [(pair.truth_name, pair.images) for pair in level.confused] == [("tabby", 1), ("minivan", 1)]
    rows = [("00000", "hound.n.01"), ("00001", "animal.n.01"), ("00002", "n02121808"), ("00003", "passenger_van.n.01")]
    (level,) = evaluate(out, classes="wordnet", truth=write_csv(tmp_path / "t.csv", rows)).levels
    assert (level.images, level.not_told) == (3, 1)  # "animal" says nothing about a carnivore
    assert level.accuracy == 1


def test_what_is_no_file_of_classes_is_refused(out, tmp_path):
    with pytest.raises(RequestError, match=r"nowhere\.csv: no such file"):
        evaluate(out, classes=tmp_path / "nowhere.csv")
