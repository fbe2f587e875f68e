"""Truth files, and their match with images."""

from __future__ import annotations

import contextlib
import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_outputs import write_csv

from pipeline.errors import InputError
from pipeline.labels import NO_CLASS, imagenet_names
from pipeline.storage import Storage
from pipeline.trust.truth import NOT_KNOWN
from pipeline.trust.truth_file import read_truth

NAMES = ("cat", "dog", "crane", "crane", "7")


def read(path):
    return read_truth(str(path), Storage(), NAMES)


def pairs(truth):
    """The answers that name a class, or say that none fits."""
    rows = zip(truth.keys.to_pylist(), truth.labels_T.tolist(), strict=True)
    return {key: label for key, label in rows if label >= NO_CLASS}


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
        pa.array(["dog", "cat", None], pa.string_view()),
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
        ("t.csv", "1,cat\n2,dog\n", "no column key and label; it has 1, cat"),
        ("t.csv", "key,key,label\n1,1,cat\n", "the column key must be there once, not 2 times"),
        ("t.csv", "Key,KEY,label\n1,1,cat\n", "the column key must be there once, not 2 times"),
        ("t.parquet", "key,label\n1,cat\n", "neither CSV nor Parquet"),
        ("t.csv", "PK\x03\x04...", "an Excel workbook"),
        ("t.csv", "\x1f\x8b...", "neither CSV nor Parquet"),
    ],
)
def test_invalid_truth_files_are_refused(tmp_path, name, text, says):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=says):
        read(tmp_path / name)


@pytest.mark.parametrize("label", [0.5, -1.0, 2e9, float("inf")])
def test_numbers_that_are_no_class_are_counted(tmp_path, label):
    pq.write_table(pa.table({"key": ["a", "b"], "label": [label, 1.0]}), tmp_path / "t.parquet")
    truth = read(tmp_path / "t.parquet")
    assert pairs(truth) == {"b": 1}
    assert truth.counts.unknown_labels == 1


def test_labels_that_are_lists_are_refused(tmp_path):
    pq.write_table(pa.table({"key": ["a"], "label": [{"x": [1]}]}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="neither text nor numbers"):
        read(tmp_path / "t.parquet")


PANDAS = "key,label\n000,1.0\n001,\n002,0.0\n"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(PANDAS.encode(), id="pandas"),
        pytest.param((",key,label\n" + "0,000,1.0\n1,001,NaN\n2,002,0.0\n").encode(), id="pandas with its index"),
        pytest.param(b'Unnamed: 0,Key,LABEL\n0,000,"1"\n1,001,""\n2,002,"0"\n', id="quoted numbers"),
        pytest.param(PANDAS.encode("utf-8-sig"), id="utf-8 with a mark"),
        pytest.param(PANDAS.replace(",", "\t").replace("\n", "\r\n").encode("utf-16"), id="utf-16"),
        pytest.param(PANDAS.encode("utf-16-be"), id="utf-16 without a mark"),
        pytest.param(PANDAS.encode("utf-32"), id="utf-32"),
        pytest.param("key;label;größe\r\n000;1,0;1\r\n001;;2\r\n002;0,0;3\r\n".encode("latin-1"), id="German Excel"),
        pytest.param(b"sep=;\r\nkey;label\r\n000;dog\r\n001;\r\n002;CAT\r\n", id="Excel with sep="),
        pytest.param(PANDAS.replace("\n", "\r").encode(), id="an old Mac"),
        pytest.param(("\n\n" + PANDAS).encode(), id="blank lines first"),
        pytest.param(b"# key, label\n000, 1.000000000000000000e+00\n001, nan\n002, 0\n", id="numpy.savetxt"),
        pytest.param(b"key|label\n000|dog\n001|#N/A\n002|'cat'\n", id="bars"),
        pytest.param(gzip.compress(PANDAS.encode()), id="gzip"),
    ],
)
def test_tables_as_programs_write_them(tmp_path, data):
    (tmp_path / "t.csv").write_bytes(data)
    truth = read(tmp_path / "t.csv")
    assert pairs(truth) == {"000": 1, "002": 0}
    assert truth.counts.complaints == ("1 without a label",)


@pytest.mark.parametrize(
    ("name", "labels"),
    [("floats", {0: 1, 2: 22}), ("utf16", {0: 1, 1: 3, 2: 22}), ("latin1-header", {0: 1, 1: 3, 2: 22})],
)
def test_tables_that_were_lost_before(shared, name, labels):
    truth = read_truth(str(shared / "data" / "reports" / f"truth-{name}.csv"), Storage(), imagenet_names())
    assert pairs(truth) == {f"{key:03}": label for key, label in labels.items()}


def test_rows_of_other_lengths_are_counted(tmp_path):
    (tmp_path / "t.csv").write_text('key,label\na,cat\nb,cat, dog\nc\n"d\nd","dog"\n')
    truth = read(tmp_path / "t.csv")
    assert pairs(truth) == {"a": 0, "d\nd": 1}
    assert truth.counts.given == 4
    assert truth.counts.complaints == ("2 with more or fewer cells than the header, or no JSON (b,cat, dog, c)",)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.text(st.sampled_from("keylabtruhsd01,;|\t\r\n\"'= .#\ufeff\0\xe9"), max_size=60).map(str.encode),
        st.text(max_size=40).map(lambda text: ("key,label\n" + text).encode("utf-16", "surrogatepass")),
        st.binary(max_size=40).map(lambda tail: b"key;label\n" + tail),
    ),
    st.sampled_from(["t.csv", "t.parquet", "t.json"]),
)
def test_no_table_ends_in_a_traceback(tmp_path_factory, data, name):
    path = tmp_path_factory.mktemp("t") / name
    path.write_bytes(data)
    with contextlib.suppress(InputError):
        counts = read(path).counts
        left_out = counts.blank + counts.unknown_labels + counts.doubled_keys + counts.malformed_rows
        assert left_out <= counts.given


def test_shards_tell_images_with_one_key_apart(tmp_path):
    rows = [("/data/a.tar", "1", "cat"), ("/data/b.tar", "1", "dog"), ("s3://b/p/", "x.jpg", "dog")]
    truth = read(write_csv(tmp_path / "t.csv", rows, "shard,key,label"))
    shards = pa.chunked_array([["/data/b.tar", "/data/a.tar"], ["s3://b/p", "/data/c.tar"]]).dictionary_encode()
    found, _ = truth.find(shards, pa.chunked_array([["1", "1"], ["x.jpg", "1"]]))
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
    assert left_out + len(pairs(truth)) == len(rows)
    found, _ = truth.find(pa.chunked_array([["s"] * 6]), pa.chunked_array([list("fedcba")]))
    labels = np.append(truth.labels_T, NOT_KNOWN)[found]
    assert np.flatnonzero(labels > NOT_KNOWN).tolist() == [
        5 - "abcdef".index(key) for key in sorted(pairs(truth), reverse=True)
    ]
