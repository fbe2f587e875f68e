"""Truth files, and their match with images."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_outputs import write_csv

from pipeline.errors import InputError
from pipeline.storage import Storage
from pipeline.trust.truth_file import read_truth

NAMES = ("cat", "dog", "crane", "crane", "7")


def read(path):
    return read_truth(str(path), Storage(), NAMES)


def pairs(truth):
    return dict(zip(truth.keys.to_pylist(), truth.labels_T.tolist(), strict=True))


def test_labels_are_names_or_indices_and_everything_else_is_counted(tmp_path):
    rows = [
        ("001", "dog"),
        ("2", "1"),
        ("3", " cat "),
        ("4", "7"),
        ("5", "5"),
        ("6", "bird"),
        ("7", "crane"),
        ("8", ""),
        ("9", "9" * 5000),
    ]
    truth = read(write_csv(tmp_path / "t.csv", rows))
    assert pairs(truth) == {"001": 1, "2": 1, "3": 0, "4": 4}  # '7' is a name; 'crane' is two classes
    assert (truth.counts.given, truth.counts.unknown_labels, truth.counts.blank) == (9, 4, 1)
    assert truth.counts.unknown_label_examples == ("5", "bird", "crane")
    assert truth.counts.complaints == (
        "1 without a label",
        "4 with a label that is no class, or the name of several (5, bird, crane, ...)",
    )


def test_rows_about_one_image_count_once_or_not_at_all(tmp_path):
    rows = [("a", "cat"), ("b", "cat"), ("a", "0"), ("b", "dog"), ("c", "dog"), ("a", "cat")]
    truth = read(write_csv(tmp_path / "t.csv", rows))
    assert pairs(truth) == {"a": 0, "c": 1}
    assert (truth.counts.doubled_keys, truth.counts.contradictory_keys) == (3, 1)


@pytest.mark.parametrize(
    "labels",
    [
        pa.array([1, 0, None], pa.int64()),
        pa.array([1, 0, None], pa.uint8()),
        pa.array([1.0, 0.0, None], pa.float64()),
        pa.array(["dog", "cat", None]),
        pa.array(["dog", "cat", None]).dictionary_encode(),
        pa.array(["1", "0", ""], pa.large_string()),
    ],
)
def test_parquet_in_the_types_that_people_have(tmp_path, labels):
    keys = pa.array(["x/1.jpg", "x/2.jpg", "x/3.jpg"]).dictionary_encode()
    pq.write_table(pa.table({"label": labels, "key": keys, "note": ["", "", ""]}), tmp_path / "t.parquet")
    truth = read(tmp_path / "t.parquet")
    assert pairs(truth) == {"x/1.jpg": 1, "x/2.jpg": 0}
    assert truth.counts.blank == 1


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("none.csv", None, "no such file"),
        ("t.csv", "", "Empty CSV"),
        ("t.csv", "id,label\n1,cat\n", "no column key; it has id, label"),
        ("t.csv", "key,label\n1,cat,3\n", "Expected 2 columns"),
        ("t.csv", "key,key,label\n1,1,cat\n", "must each be there once"),
        ("t.parquet", "key,label\n1,cat\n", "neither CSV nor Parquet"),
    ],
)
def test_invalid_truth_files_are_refused(tmp_path, name, text, says):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=says):
        read(tmp_path / name)


def test_labels_that_are_neither_text_nor_whole_numbers(tmp_path):
    pq.write_table(pa.table({"key": ["a"], "label": [0.5]}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="neither text nor whole numbers"):
        read(tmp_path / "t.parquet")


def test_shards_tell_images_with_one_key_apart(tmp_path):
    rows = [("/data/a.tar", "1", "cat"), ("/data/b.tar", "1", "dog"), ("s3://b/p/", "x.jpg", "dog")]
    truth = read(write_csv(tmp_path / "t.csv", rows, "shard,key,label"))
    shards = pa.chunked_array([["/data/b.tar", "/data/a.tar"], ["s3://b/p", "/data/c.tar"]]).dictionary_encode()
    found = truth.find(shards, pa.chunked_array([["1", "1"], ["x.jpg", "1"]]))
    assert [int(truth.labels_T[row]) if row >= 0 else None for row in found] == [1, 0, 1, None]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["cat", "dog", "0", "1", "", "what"])), max_size=12)
)
def test_it_agrees_with_a_dict(tmp_path_factory, rows):
    truth = read(write_csv(tmp_path_factory.mktemp("t") / "t.csv", rows))
    meant: dict[str, set[int]] = {}
    for key, label in rows:
        if label in {"cat", "dog", "0", "1"}:
            meant.setdefault(key, set()).add({"cat": 0, "0": 0, "dog": 1, "1": 1}[label])
    assert pairs(truth) == {key: labels.copy().pop() for key, labels in meant.items() if len(labels) == 1}
    counts = truth.counts
    assert counts.given == len(rows)
    left_out = counts.blank + counts.unknown_labels + counts.doubled_keys + counts.contradictory_keys
    assert left_out + len(truth.keys) == len(rows)
    found = truth.find(pa.chunked_array([["s"] * 6]), pa.chunked_array([list("fedcba")]))
    assert np.flatnonzero(found >= 0).tolist() == [
        5 - "abcdef".index(key) for key in sorted(pairs(truth), reverse=True)
    ]
