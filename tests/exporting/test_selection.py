"""Selection, compared with the same decisions made one image at a time."""

from __future__ import annotations

import json
import math
import tempfile
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up_outputs import MARK, calibrated, write_csv, write_output

from pipeline.errors import OutputError, RequestError
from pipeline.exporting.selection import Selection
from pipeline.exporting.settings import ExportConfig
from pipeline.exporting.source import Source
from pipeline.output.ledger import Ledger
from pipeline.output.parts import METADATA_KEY, Progress
from pipeline.records import Unit
from pipeline.storage import Storage
from pipeline.trust.draw import hash_images
from pipeline.trust.fitted import NOTHING_FITTED, FittedTruths
from pipeline.trust.promise import PrecisionTest
from pipeline.trust.strictness import check_truths
from pipeline.trust.truth import TruthMatcher
from pipeline.trust.truth_file import read_truth

NUM_IMAGES, NUM_CLASSES, ROWS_PER_PART = 400, 6, 30
NAMES = [f"class {label}" for label in range(NUM_CLASSES)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Images of which some have the same bytes, and many the same scores; the output as a source, and its rows."""
    probs, truth = calibrated(NUM_IMAGES, NUM_CLASSES)
    rng = np.random.default_rng(3)
    scores = np.round(rng.random(NUM_IMAGES), 1).astype(np.float32)
    columns = {
        "sha256": [f"{number:08x}" * 8 for number in rng.integers(0, 300, NUM_IMAGES)],
        "score": scores,
        "entropy": rng.random(NUM_IMAGES).astype(np.float32),
        "disagreement": rng.random(NUM_IMAGES).astype(np.float32),
        "members": [
            {f"m{number}": {"labels": [0], "scores": [1.0], "energy": float(pair[number])} for number in (0, 1)}
            for pair in rng.normal(size=(NUM_IMAGES, 2))
        ],
    }
    keys = [f"{number:03d}" for number in rng.permutation(NUM_IMAGES)]
    out = write_output(
        tmp_path_factory.mktemp("made") / "out",
        np.stack([probs, probs]),
        truth,
        keys=keys,
        names=NAMES,
        rows_per_part=ROWS_PER_PART,
        columns=columns,
    )
    ledger = Ledger(str(out), Storage())
    unit = Unit("0" * 16, "tar", "/data/a.tar", 0)
    source = Source(ledger, ledger.job(), (unit,), (Progress(math.ceil(NUM_IMAGES / ROWS_PER_PART)),), complete=False)
    rows = []
    for _, name in source.parts():
        rows += ledger.read_part("predictions", str(name)).to_pylist()
    return source, rows


def run(made, truth=None, fitted=NOTHING_FITTED, **words):
    source, _ = made
    config = ExportConfig(out="x", to="y", format=words.pop("format", "csv"), **words)
    with Selection(config, source, truth, fitted) as selection:
        selection.read()
        if config.target_precision:
            selection.check_truths(count_unknown=config.unknown_labels == "wrong")
        test = PrecisionTest(config.target_precision, config.delta) if config.target_precision else None
        promise = selection.promise(test) if test else None
        classes = selection.choose()
        rows = [{"part": part.name.part} | row for part in selection.parts() for row in part.rows.to_pylist()]
    assert all(row["part"] == row["index"] // ROWS_PER_PART for row in rows)
    assert [row["index"] for row in rows] == sorted(row["index"] for row in rows)
    return {row["index"]: row["copies"] for row in rows}, dict(selection.rejected), classes, promise


def one_by_one(rows, *, dedupe=True, max_per_class=None, repeat_to=None, threshold=None, **limits):
    """The same, image by image."""
    rejected, left = Counter(), []
    for row in rows:
        values = dict(row)
        values["ood_score"] = -np.mean([member["energy"] for member in row["members"].values()])
        for name, limit in limits.items():
            kind, _, column = name.partition("_")
            if (values[column] < np.float32(limit)) if kind == "min" else (values[column] > np.float32(limit)):
                rejected[name] += 1
                break
        else:
            left.append(row)
    seen, kept = set(), []
    for row in left:
        if dedupe and row["sha256"] in seen:
            rejected["duplicate"] += 1
        elif threshold is not None and row["score"] < threshold:
            rejected["target_precision"] += 1
        else:
            kept.append(row)
        seen.add(row["sha256"])
    copies = {}
    for label in {row["label"] for row in kept}:
        ranked = sorted((row for row in kept if row["label"] == label), key=lambda row: (-row["score"], row["key"]))
        chosen = ranked[:max_per_class]
        rejected["max_per_class"] += len(ranked) - len(chosen)
        for place, row in enumerate(chosen):
            each = 1
            if repeat_to and repeat_to > len(chosen):
                each = repeat_to // len(chosen) + (place < repeat_to % len(chosen))
            copies[row["index"]] = each
    return copies, {name: count for name, count in rejected.items() if count}


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"dedupe": False},
        {"min_score": 0.3, "min_agreement": 0.5, "max_entropy": 0.9, "max_disagreement": 0.8, "max_ood_score": 0.7},
        {"min_score": 0.7},
        {"max_per_class": 7},
        {"repeat_to": 50},
        {"min_score": 0.2, "max_per_class": 20, "repeat_to": 33},
    ],
)
def test_the_same_as_one_by_one(made, words):
    copies, rejected, classes, _ = run(made, **words)
    expected, expected_rejected = one_by_one(made[1], **words)
    assert copies == expected
    assert {name: count for name, count in rejected.items() if count} == expected_rejected
    assert len(copies) + sum(rejected.values()) == NUM_IMAGES
    assert sum(row.images for row in classes) == len(copies)
    assert sum(row.copies for row in classes) == sum(copies.values())
    if words.get("repeat_to"):
        assert {row.copies for row in classes} <= {max(words["repeat_to"], row.images) for row in classes}


def test_a_promise_counts_every_answer(made, tmp_path):
    """What is not understood stops it, or counts as wrong; so do `none` and images that people do not agree about."""
    _, rows = made
    answers = {row["key"]: [row["class_name"]] for row in rows}
    keys = sorted(answers)
    answers |= {key: ["none"] for key in keys[:40]} | {key: ["clas 1"] for key in keys[40:60]}
    answers |= {key: ["class 1", "class 2"] for key in keys[60:70]}
    pairs = [(key, answer) for key, given in answers.items() for answer in given]
    truth = read_truth(str(write_csv(tmp_path / "t.csv", pairs)), Storage(), NAMES)

    def select(truth, **words):
        return run(made, truth, target_precision=0.3, dedupe=False, **words)

    with pytest.raises(RequestError, match=r"20 truths are not understood \('clas 1' for class 1 or class 5\?, ...\)"):
        select(truth)
    promise = select(truth, unknown_labels="wrong")[3]
    assert (promise.num_truths, promise.levels[-1].accepted - promise.levels[-1].right > 20) == (NUM_IMAGES, True)
    # the same as if all of them were wrong
    wrong = {key: f"class {(row['label'] + 1) % 6}" for row in rows if (key := row["key"]) in keys[:70]}
    plain = [(key, wrong.get(key, given[0])) for key, given in answers.items()]
    assert promise == select(read_truth(str(write_csv(tmp_path / "w.csv", plain)), Storage(), NAMES))[3]


def test_a_cls_that_is_not_understood_stops_a_promise(tmp_path):
    probs, truth = calibrated(80, NUM_CLASSES)
    out = write_output(tmp_path / "out", np.stack([probs]), [None if at < 5 else truth[at] for at in range(80)])
    for part in (out / "predictions").iterdir():
        table = pq.read_table(part)
        footer = json.loads(table.schema.metadata[METADATA_KEY])
        if not footer["first_index"]:
            footer["truths_not_understood"] = {"count": 5, "examples": ["clas 1"]}
            pq.write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps(footer)}), part)
    ledger = Ledger(str(out), Storage())

    def counts(*, strict: bool):
        matcher = TruthMatcher(None, NUM_CLASSES, strict=strict)
        for part in ledger.prediction_parts(MARK):
            matcher.match(ledger.read_part("predictions", str(part), matcher.columns))
        return matcher.counts() if not strict else check_truths(matcher, NAMES, count_unknown=True)

    assert (counts(strict=False).used, counts(strict=False).unknown_images) == (75, 5)
    assert (counts(strict=True).used, counts(strict=True).counted_wrong) == (80, 5)


def test_a_threshold_comes_from_truth_that_the_filters_leave(made, tmp_path):
    rows = made[1]
    right = [(row["key"], NAMES[row["label"]]) for row in rows]
    truth = read_truth(str(write_csv(tmp_path / "t.csv", right)), Storage(), NAMES)
    copies, rejected, _, promise = run(made, truth, target_precision=0.9, min_score=0.5)
    assert promise.threshold >= 0.5
    assert promise.num_truths == len(one_by_one(rows, min_score=0.5)[0])
    assert copies == one_by_one(rows, min_score=0.5, threshold=promise.threshold)[0]
    assert sum(rejected.values()) + len(copies) == NUM_IMAGES

    wrong = [(row["key"], NAMES[(row["label"] + 1) % NUM_CLASSES]) for row in rows]
    truth = read_truth(str(write_csv(tmp_path / "w.csv", wrong)), Storage(), NAMES)
    copies, _, classes, promise = run(made, truth, target_precision=0.9)
    assert (promise.threshold, copies, classes) == (None, {}, ())
    assert promise.missing > 0


def test_truths_that_were_fitted_on_certify_nothing_and_are_counted(made, tmp_path):
    rows = made[1]
    left = [row for row in rows if row["score"] >= np.float32(0.5)]
    right = [(row["key"], NAMES[row["label"]]) for row in rows]
    truth = read_truth(str(write_csv(tmp_path / "t.csv", right)), Storage(), NAMES)
    contents = sorted({row["sha256"] for row in left})[::3]
    hashes = hash_images(pa.table({"sha256": contents}))
    fitted = FittedTruths(hashes, np.full(len(hashes), -1))  # no class fits: none of them is right
    *_, promise = run(made, truth, fitted, target_precision=0.5, min_score=0.5)
    kept, *_ = one_by_one(rows, min_score=0.5)
    assert promise.num_selected == promise.num_truths == len(kept)
    assert promise.num_fitted == len(contents) == promise.num_truths - promise.num_certifying
    assert all(level.accepted == level.right for level in promise.levels)
    assert promise.precision_low < promise.num_certifying / promise.num_truths
    *_, promise = run(made, truth, None, target_precision=0.5, min_score=0.5)  # a calibration that does not tell
    assert 0.3 * promise.num_truths < promise.num_certifying < 0.7 * promise.num_truths
    *_, promise = run(made, truth, target_precision=0.5, min_score=0.5)
    assert promise.num_certifying == promise.num_truths
    assert promise.coverage == 1


def test_images_with_the_same_class_and_key_are_marked_for_folders(made):
    source, _ = made
    with Selection(ExportConfig(out="x", to="y", format="imagefolder"), source) as selection:
        selection.read()
        selection.choose()
        assert not any(row["shared"] for part in selection.parts() for row in part.rows.to_pylist())
    assert source.fingerprint == MARK


def test_without_a_scratch_folder_it_says_what_to_do(made, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    selection = Selection(ExportConfig(out="out", to="to", format="csv"), made[0])
    with pytest.raises(OutputError, match="let TMPDIR name one with room"):
        selection.__enter__()
