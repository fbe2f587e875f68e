"""CSV of which one cell is changed, as all kinds of programs write it."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.annotation_page.csv_text import CsvText
from pipeline.errors import RequestError

PLAIN = 'key,note,truth\n001,"a, b",\n002, spaced ,cat\n\n003,"say ""hi""\nthere",x\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(("separator", "before"), [(",", ""), (";", ""), ("\t", ""), (";", "sep=;\r\n")])
def test_all_but_the_cell_stays(encoding, end, separator, before):
    text = before + PLAIN.replace(",", separator).replace("\n", end).replace("hi", "h\xe9")
    file = CsvText("t.csv", text.encode(encoding))
    assert file.encode() == text.encode(encoding)
    number = next(number for number in range(len(file)) if file.cell(number, 0) == "002")
    assert file.row(number) == ["002", " spaced ", "cat"]
    file.change(number, 2, "caf\xe9")
    assert file.encode() == text.replace("cat", "caf\xe9").encode(encoding)


def test_what_needs_quotes_gets_them():
    file = CsvText("t.csv", PLAIN.encode())
    for name in ("tench, Tinca", 'a "crane"', " led", "two\nlines"):
        file.change(1, 2, name)
        rows = list(csv.reader(io.StringIO(file.encode().decode())))
        assert rows[1] == ["001", "a, b", name]
        assert file.cell(1, 2) == name
    file.change(1, 2, "")
    assert file.encode().decode() == PLAIN


def test_a_column_is_added_to_rows_of_the_header_s_length():
    file = CsvText("t.csv", b"key,truth\na,\nshort\nb,cat")
    column = file.add_column("truth by anna")
    file.change(3, column, "dog")
    assert file.encode() == b"key,truth,truth by anna\na,,\nshort\nb,cat,dog"


def test_what_an_encoding_lacks_is_refused_and_nothing_changed():
    file = CsvText("t.csv", "key,truth\ncaf\xe9,\n".encode("cp1252"))
    with pytest.raises(RequestError, match="cp1252, which cannot hold '猫'; save it as UTF-8"):
        file.change(1, 1, "猫")
    assert file.cell(1, 1) == ""


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n\0\0", b"PK\x03\x04\x14\0\x06", b"\x1f\x8b\x08\0abc\x81"])
def test_no_text_is_refused(data):
    with pytest.raises(RequestError, match="is no CSV"):
        CsvText("t.csv", data)


CELLS = st.lists(
    st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=5), min_size=2, max_size=4),
    min_size=1,
    max_size=5,
)


@settings(max_examples=40, deadline=None)
@given(CELLS, st.sampled_from(["\n", "\r\n"]))
def test_cells_are_those_of_csv(rows, end):
    rows[0] = [f"c{number}" for number in range(len(rows[0]))]
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(rows)
    file = CsvText("t.csv", buffer.getvalue().encode())
    assert [file.row(number) for number in range(len(file))] == rows
    assert file.encode() == buffer.getvalue().encode()
