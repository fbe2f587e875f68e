"""Exports of own classes: groups of a level as the labels, in every format, with and without a promise."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_up_outputs import calibrated, write_csv, write_output

from pipeline import export
from pipeline.errors import RequestError
from pipeline.exporting.naming import choose_naming, with_own_labels
from pipeline.exporting.selection import Selection
from pipeline.exporting.settings import ExportConfig
from pipeline.exporting.source import Source
from pipeline.output.ledger import Ledger
from pipeline.output.parts import Progress
from pipeline.records import Unit
from pipeline.storage import Storage
from pipeline.trust.promise import PrecisionTest
from pipeline.trust.truth_file import read_truth

from .conftest import table  # isort: skip

GROUPS = {"cat": "animal", "grass": "ground", "gravel": "ground", "brick": "ground", "rocket": "machine"}
NAMES = ("ground", "animal", "machine")  # by their first classes


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tree") / "tree.csv"
    path.write_text("class,kind\n" + "".join(f"{name},{group}\n" for name, group in GROUPS.items()))
    return path


def expected(labelled) -> dict[tuple[str, str], tuple[str, float]]:
    """The group of each image, of sums over its top-k, and its sum; without those where more lies outside."""
    names = (Path(__file__).parents[2] / "examples" / "data" / "classes.txt").read_text().split()
    found = {}
    for row in labelled.rows():
        sums: Counter[str | None] = Counter()
        for label, score in zip(row["labels"], row["scores"], strict=True):
            sums[GROUPS.get(names[label])] += score
        outside = sums.pop(None, 0)
        if sums and (best := max(sums, key=lambda group: (sums[group], -NAMES.index(group)))) and outside <= sums[best]:
            found[row["shard"], row["key"]] = best, sums[best]
    return found


@pytest.mark.parametrize("kind", ["webdataset", "imagefolder", "csv", "parquet"])
def test_groups_are_the_classes_of_every_format(labelled, tree, tmp_path, kind):
    known = expected(labelled)
    summary = export(labelled.out, tmp_path / "to", kind, classes=tree, engine="inline", dedupe=False)
    assert (summary.exit_code, summary.labelled, summary.exported) == (0, 250, len(known))
    assert summary.rejected == {"no_group": 250 - len(known)}
    assert (tmp_path / "to" / "classes.txt").read_text().split() == list(NAMES)
    data = tmp_path / "to" / "data"
    if kind == "csv":
        rows = [row for path in data.glob("*.csv") for row in csv.DictReader(path.open())]
    elif kind == "imagefolder":
        rows = pq.read_table(data / "metadata.parquet", partitioning=None).to_pylist()
        assert {path.parent.name for path in data.glob("*/*")} == {row["class_name"] for row in rows} <= set(NAMES)
    elif kind == "parquet":
        rows = table(list(data.glob("*.parquet"))).to_pylist()
        features = json.loads(pq.read_schema(next(data.glob("*.parquet"))).metadata[b"huggingface"])
        assert features["info"]["features"]["label"] == {"names": list(NAMES), "_type": "ClassLabel"}
        assert features["info"]["features"]["level"]["dtype"] == "string"
    else:
        import webdataset

        samples = list(webdataset.WebDataset(sorted(map(str, data.glob("*.tar"))), shardshuffle=False))
        rows = [json.loads(found["json"]) for found in samples]
        assert [int(found["cls"]) for found in samples] == [row["label"] for row in rows]
    assert {(row["shard"], row["key"]): row["class_name"] for row in rows} == {
        at: name for at, (name, _) in known.items()
    }
    for row in rows:
        assert NAMES[int(row["label"])] == row["class_name"]
        assert row["level"] == "kind"
        assert float(row["score"]) == pytest.approx(known[row["shard"], row["key"]][1], abs=1e-6)
    about = json.loads((tmp_path / "to" / "export.json").read_text())
    assert {name: about["classes"][name] for name in ("level", "groups_from")} == {
        "level": "kind",
        "groups_from": "top-k",
    }
    assert summary.groups_from == "top-k"
    assert "**among the top-k**" in (tmp_path / "to" / "README.md").read_text()
    assert "`level`" in (tmp_path / "to" / "README.md").read_text()


def test_limits_and_the_best_of_a_class_are_about_the_group(labelled, tree, tmp_path):
    known = expected(labelled)
    strong = Counter(name for name, score in known.values() if score >= np.float32(0.8))
    summary = export(
        labelled.out,
        tmp_path / "to",
        "csv",
        classes=tree,
        engine="inline",
        dedupe=False,
        min_score=0.8,
        max_per_class=3,
    )
    assert {row.label: row.images for row in summary.classes} == {
        NAMES.index(name): min(3, images) for name, images in strong.items()
    }
    assert summary.rejected == {
        "no_group": 250 - len(known),
        "min_score": len(known) - strong.total(),
        "max_per_class": strong.total() - summary.exported,
    }


def select(out, classes, truth, target, num_parts=1, **words):
    """What is selected of an output: its rows, the promise, and the selection."""
    ledger = Ledger(str(out), Storage())
    unit = Unit("0" * 16, "tar", "/data/a.tar", 0)
    source = Source(ledger, ledger.job(), (unit,), (Progress(num_parts),), complete=False)
    words |= {"classes": classes and str(classes), "target_precision": target, "dedupe": False}
    config = ExportConfig(out="x", to="y", format="csv", truth=truth and str(truth), **words)
    naming = choose_naming(config, source, Storage())
    given = truth and read_truth(str(truth), Storage(), source.job["class_names"], naming.truth_classes)
    with Selection(config, with_own_labels(source, naming), given, naming=naming) as selection:
        selection.read()
        selection.check_truths(count_unknown=False)
        promise = selection.promise(PrecisionTest(target, 0.1))
        selection.choose()
        rows = [row for part in selection.parts() for row in part.rows.to_pylist()]
        return rows, promise, selection


def test_a_promise_is_about_the_group_and_a_coarser_truth_is_wrong(tmp_path):
    """Two classes that are hard to tell apart are one kind: half of the labels are right, and all of the groups."""
    shares = np.linspace(0, 0.1, 60)[:, None] * [1, -1, 0, 0]
    probs = np.tile([0.4, 0.4, 0.15, 0.05], (60, 1)) + shares
    out = write_output(tmp_path / "out", probs[None], [None] * 60, names=tuple("abcd"), k=4, rows_per_part=60)
    classes = tmp_path / "own.csv"
    classes.write_text("class,kind,family\na,x,p\nb,x,p\nc,y,p\nd,z,\n")

    def truth(*names):
        rows = [(f"{at:05d}", names[at % len(names)]) for at in range(60)]
        return write_csv(tmp_path / "t.csv", rows)

    for names in (("x",), ("a", "b"), ("a", "x")):
        rows, promise, _ = select(out, classes, truth(*names), 0.9, level="kind")
        assert (promise.coverage, promise.right, promise.num_certifying) == (1, promise.accepted, 60)
        assert {row["label"] for row in rows} == {0}
        assert rows[0]["score"] == pytest.approx(0.8)
    for names in (("x", "p"), ("a", "c"), ("b", "none")):
        assert select(out, classes, truth(*names), 0.9, level="kind")[1].threshold is None
    assert select(out, classes, truth("x", "x", "x", "p"), 0.5, level="kind")[1].right == 45


@pytest.fixture(scope="module")
def hesitating(tmp_path_factory):
    """400 images of 8 classes, calibrated, and a tree of them: two kinds of one family, one of another, and a rest."""
    folder = tmp_path_factory.mktemp("hesitating")
    probs, truth = calibrated(400, 8, sharpness=4.0)
    out = write_output(folder / "out", probs[None], truth, names=tuple("abcdefgh"), k=8, rows_per_part=90)
    tree = folder / "tree.csv"
    tree.write_text("class,kind,family\na,x,p\nb,x,p\nc,y,p\nd,y,p\ne,z,q\nf,z,q\ng,,q\n")
    return out, tree, probs.astype(np.float32), np.array(truth)


FINEST = {"z": "ef", "x": "ab", "y": "cd", "q": "efg", "p": "abcd"}  # groups by size


def finest_name(probs, threshold):
    """The smallest set of classes with enough probability, of equal ones the likeliest; None for none."""
    sets = {name: name for name in "abcdefgh"} | FINEST
    sums = {name: sum(float(probs["abcdefgh".index(leaf)]) for leaf in leaves) for name, leaves in sets.items()}
    enough = [name for name in sets if sums[name] >= threshold]
    return min(enough, key=lambda name: (len(sets[name]), -sums[name])) if enough else None


def test_back_off_gives_the_finest_name_that_the_promise_allows(hesitating, tmp_path):
    out, tree, probs, truth = hesitating
    rows, promise, selection = select(out, tree, None, 0.9, num_parts=5, back_off=True)
    names = [*"abcdefgh", "p", "x", "y", "q", "z"]
    expected = [finest_name(row, promise.threshold) for row in probs]
    assert len(rows) == sum(name is not None for name in expected) == round(promise.coverage * 400)
    assert [row["label"] for row in rows] == [names.index(name) for name in expected if name is not None]
    sizes = {name: len(FINEST.get(name, name)) for name in names}
    bits = [0 if name is None else np.log2(8 / sizes[name]) for name in expected]
    assert selection.bits == pytest.approx(np.mean(bits), abs=1e-5)
    right = ["abcdefgh"[at] in FINEST.get(name, name) for at, name in zip(truth, expected, strict=True) if name]
    assert (promise.accepted, promise.right) == (len(right), sum(right))
    assert np.mean(right) >= 0.9
    assert selection.rejected["target_precision"] == 400 - len(rows)
    assert {len(FINEST.get(name, name)) for name in expected if name} == {1, 2, 3, 4}
    plain = Selection(
        ExportConfig(out="x", to="y", format="csv", dedupe=False, target_precision=0.9), selection._source
    )
    with plain:
        plain.read()
        plain.check_truths(count_unknown=False)
        fewer = plain.promise(PrecisionTest(0.9, 0.1))
    assert fewer.coverage < promise.coverage - 0.2


def test_back_off_counts_coarser_truths_as_wrong_and_refuses_what_cannot_be_promised(hesitating, tmp_path):
    out, tree, _, truth = hesitating
    leaf = {at: "abcdefgh"[label] for at, label in enumerate(truth)}
    answers = {at: "p" if name in "abcd" else name for at, name in leaf.items()}
    coarse = write_csv(tmp_path / "c.csv", [(f"{at:05d}", name) for at, name in answers.items()])
    _, promise, selection = select(out, tree, coarse, 0.9, num_parts=5, back_off=True)
    assert selection.certifying_groups == sum(name == "p" for name in answers.values())
    _, of_classes, _ = select(out, tree, None, 0.9, num_parts=5, back_off=True)
    # now only `p` is right for these, and what is finer is wrong
    assert promise.threshold is None or promise.threshold > of_classes.threshold
    few = write_csv(tmp_path / "f.csv", [(f"{at:05d}", leaf[at]) for at in range(12)])
    _, promise, _ = select(out, tree, few, 0.9, num_parts=5, back_off=True)
    assert promise.threshold is None
    assert promise.missing >= 22 - 12  # 22 right ones of 22 are the least


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"level": "kind"}, "was labelled without own classes: --classes FILE gives them"),
        ({"level": "kid", "classes": "tree"}, "--level kid: the levels are kind"),
        ({"classes": "nowhere.csv"}, "nowhere.csv: no such file"),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_written(labelled, tree, tmp_path, words, says):
    words = {name: str(tree) if word == "tree" else word for name, word in words.items()}
    with pytest.raises(RequestError, match=says):
        export(labelled.out, tmp_path / "to", "csv", engine="inline", **words)
    assert not (tmp_path / "to").exists()
