"""Truth tables as JSON: as pandas, Polars, DuckDB and people write them."""

from __future__ import annotations

import contextlib
import gzip
import json

import duckdb
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.storage import Storage
from pipeline.trust.truth_file import read_truth

NAMES = ("cat", "dog", "crane", "crane", "owl")
WANTED = {"0001": 0, "a/0002.jpg": 1, "0003": 4, "0004": 3}
TABLE = {"key": list(WANTED), "label": list(WANTED.values())}
TEXTS = {"key": list(WANTED), "label": ["cat", "dog", "owl", "3"]}


def read(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_truth(str(path), Storage(), NAMES)


def pairs(truth):
    """The keys with a class; not those whose truth is not understood, or disputed."""
    labelled = zip(truth.keys.to_pylist(), truth.labels_T.tolist(), strict=True)
    return {key: label for key, label in labelled if label >= 0}


@pytest.mark.parametrize("table", [TABLE, TEXTS], ids=["indices", "text"])
@pytest.mark.parametrize("orient", ["records", "lines", "columns", "index", "split", "table"])
@pytest.mark.parametrize("indexed", [False, True])
def test_what_pandas_writes(tmp_path, table, orient, indexed):
    frame = pd.DataFrame(table)
    frame = frame.set_index("key") if indexed and orient not in {"records", "lines"} else frame
    text = frame.to_json(orient="records", lines=True) if orient == "lines" else frame.to_json(orient=orient)
    truth = read(tmp_path / "t.json", text)
    assert pairs(truth) == WANTED
    assert (truth.counts.given, truth.counts.complaints) == (4, ())


def test_a_series_by_key_is_a_mapping(tmp_path):
    series = pd.Series(TEXTS["label"], index=TEXTS["key"])
    assert pairs(read(tmp_path / "t.json", series.to_json())) == WANTED
    assert pairs(read(tmp_path / "i.json", json.dumps(WANTED, indent=2))) == WANTED


def test_what_polars_and_duckdb_write(tmp_path):
    frame = pl.DataFrame(TABLE)
    assert pairs(read(tmp_path / "p.json", frame.write_json())) == WANTED
    assert pairs(read(tmp_path / "p.jsonl", frame.write_ndjson())) == WANTED
    for name, options in {"d.json": "", "a.json": ", ARRAY true", "d.ndjson.gz": ", COMPRESSION gzip"}.items():
        duckdb.sql(f"COPY (SELECT * FROM frame) TO '{tmp_path / name}' (FORMAT json{options})")
        assert pairs(read_truth(str(tmp_path / name), Storage(), NAMES)) == WANTED


@pytest.mark.parametrize(
    "content",
    [
        TABLE,
        {" Key": TABLE["key"], "LABEL": TABLE["label"]},
        [{"key": key, "label": "owl", "truth": label} for key, label in WANTED.items()],
        {key: {"label": label, "by": "me"} for key, label in WANTED.items()},
        {"data": [{"key": key, "label": label} for key, label in WANTED.items()], "version": 3},
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gzip"])
def test_what_people_write(tmp_path, content, encoding):
    text = json.dumps(content)
    data = gzip.compress(text.encode()) if encoding == "gzip" else text.encode(encoding)
    assert pairs(read(tmp_path / "t.json", data)) == WANTED


def test_shards_one_line_and_numbers_as_keys(tmp_path):
    line = '{"shard": "/data/a.tar", "key": 7, "label": 1.0}\n'
    assert pairs(read(tmp_path / "t.jsonl", line)) == {"/data/a.tar\n7": 1}


def test_what_cannot_be_used_is_counted_and_shown(tmp_path):
    rows = [
        {"key": "blank", "label": None},
        {"key": "blank too"},
        {"key": "bird", "label": "bird"},
        {"key": "list", "label": ["cat", "dog"]},
        {"key": "true", "label": True},
        {"key": "twice", "label": "cat"},
        {"key": "twice", "label": "cat"},
        {"key": "both", "label": "cat"},
        {"key": "both", "label": "dog"},
        "no row",
        {"key": "good", "label": "dog"},
    ]
    truth = read(tmp_path / "t.json", json.dumps(rows))
    counts = truth.counts
    assert pairs(truth) == {"twice": 0, "good": 1}
    assert (counts.given, counts.blank, counts.unknown_labels, counts.malformed_rows) == (11, 2, 3, 1)
    assert (counts.doubled_keys, counts.contradictory_keys) == (2, 1)
    assert counts.unknown_label_examples == ("bird", '["cat", "dog"]', "true")
    assert counts.malformed_row_examples == ("no row",)


def test_missing_labels_make_pandas_write_fractions(tmp_path):
    frame = pd.DataFrame({"key": ["a", "b"], "label": [3, None]})
    for number, orient in enumerate(("records", "columns", "split")):
        truth = read(tmp_path / f"{number}.json", frame.to_json(orient=orient))
        assert (pairs(truth), truth.counts.blank) == ({"a": 3}, 1)


def test_a_name_twice_in_a_mapping_is_not_the_last_one(tmp_path):
    truth = read(tmp_path / "t.json", '{"a": "cat", "a": "dog", "b": "owl", "b": "owl"}')
    assert (pairs(truth), truth.counts.contradictory_keys, truth.counts.doubled_keys) == ({"b": 4}, 1, 2)


def test_a_cut_line_costs_that_line(tmp_path):
    truth = read(tmp_path / "t.jsonl", '{"key": "a", "label": 1}\n\n{"key": "b", "label": 4}\n{"key": "c", "la')
    assert (pairs(truth), truth.counts.malformed_row_examples) == ({"a": 1, "b": 4}, ('{"key": "c", "la',))


def test_cells_of_a_matrix_that_are_too_many_or_too_few(tmp_path):
    content = {"columns": ["key", "label"], "index": [0, 1, 2], "data": [["a", 1], ["b"], 3]}
    truth = read(tmp_path / "t.json", json.dumps(content))
    assert (pairs(truth), truth.counts.malformed_rows) == ({"a": 1}, 2)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('[{"key": "a", "label": 1},\n{"key": "b", "label": 2}\n', "not JSON"),
        ("", "not JSON"),
        ('[["a", 1]]', "neither a JSON export"),
        ('{"a": [1, 2]}', "neither a JSON export"),
        ('{"a": {"class": 1}}', "neither a JSON export"),
        ('[{"image": "a.jpg", "label": 3}]', "no column key; it has image, label"),
        ('[{"key": "a", "class": 3}]', "no column label; it has key, class"),
        ('[{"key": "a", "KEY ": "b", " Key": "c", "label": 3}]', None),
        ('[{"Key": "a", "KEY": "b", "label": 3}]', "the column key must be there once, not 2 times"),
        ('{"key": ["a", "b"], "label": [1]}', "are not equally long"),
        ('{"a\\ud800": 1}', "half a surrogate pair"),
        ("\x1f\u008b", "not JSON"),
    ],
)
def test_what_is_no_table_is_one_clear_line(tmp_path, content, says):
    if says is None:
        assert pairs(read(tmp_path / "t.json", content)) == {"a": 3}
        return
    with pytest.raises(InputError, match=says) as found:
        read(tmp_path / "t.json", content)
    assert "\n" not in str(found.value)


def test_damaged_gzip(tmp_path):
    with pytest.raises(InputError, match="cannot be decompressed"):
        read(tmp_path / "t.jsonl.gz", gzip.compress(b"{}" * 99)[:-9])


NAME = st.sampled_from("key label truth shard columns data index labels schema annotations Key a b 0".split())
CELL = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2**70), st.floats(), st.sampled_from(["cat", "3", "", "\ud800"])
)
JSON = st.recursive(
    CELL,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(NAME, inner, max_size=4),
        st.lists(st.dictionaries(NAME, inner, max_size=4), max_size=3),
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(JSON, st.sampled_from(["list", "lines", "twice"]))
def test_no_json_ends_in_a_traceback(tmp_path_factory, content, form):
    text = json.dumps(content)
    if form == "lines" and isinstance(content, list):
        text = "\n".join(map(json.dumps, content))
    elif form == "twice" and isinstance(content, dict):
        text = "{" + ", ".join([text[1:-1]] * 2).strip(", ") + "}"
    with contextlib.suppress(InputError):
        counts = read(tmp_path_factory.mktemp("t") / "t.json", text).counts
        left_out = counts.blank + counts.unknown_labels + counts.doubled_keys + counts.malformed_rows
        assert left_out <= counts.given
