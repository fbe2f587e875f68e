"""Exports of own classes: groups of a level as the labels, in every format, with and without a promise."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_up_outputs import write_csv, write_output

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
    assert summary.rejected["max_per_class"] == strong.total() - summary.exported


def selected(out, classes, truth, tmp_path, target):
    """The promise of a level's groups on an output of one part, and what is selected."""
    ledger = Ledger(str(out), Storage())
    unit = Unit("0" * 16, "tar", "/data/a.tar", 0)
    source = Source(ledger, ledger.job(), (unit,), (Progress(1),), complete=False)
    words = {"classes": str(classes), "level": "kind", "target_precision": target, "truth": "t.csv"}
    config = ExportConfig(out="x", to="y", format="csv", dedupe=False, **words)
    naming = choose_naming(config, source, Storage())
    given = read_truth(str(truth), Storage(), source.job["class_names"], naming.truth_classes)
    with Selection(config, with_own_labels(source, naming), given, naming=naming) as selection:
        selection.read()
        selection.check_truths(count_unknown=False)
        promise = selection.promise(PrecisionTest(target, 0.1))
        selection.choose()
        return promise, [row for part in selection.parts() for row in part.rows.to_pylist()]


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
        promise, rows = selected(out, classes, truth(*names), tmp_path, 0.9)
        assert (promise.coverage, promise.right, promise.num_certifying) == (1, promise.accepted, 60)
        assert {row["label"] for row in rows} == {0}
        assert rows[0]["score"] == pytest.approx(0.8)
    for names in (("x", "p"), ("a", "c"), ("b", "none")):
        assert selected(out, classes, truth(*names), tmp_path, 0.9)[0].threshold is None
    assert selected(out, classes, truth("x", "x", "x", "p"), tmp_path, 0.5)[0].right == 45


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
