"""OUT: names of parts, the progress of each unit, and footers."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ObjectDamaged, ObjectMissing, OutputError
from pipeline.output import ledger as module
from pipeline.output.ledger import JOB, PREDICTIONS, QUARANTINE, SUCCESS, Ledger
from pipeline.output.parts import METADATA_KEY, PartName, unit_of, unreadable_name
from pipeline.records import Cursor, Unit, UnitKind
from pipeline.storage import ByteStream, Entry, Storage

FINGERPRINT = "0123456789abcdef" * 4
DEEP = b"[" * 100_000
MEMBER = {"alias": "é", "arch": "resnet18", "factor": 1.0, "weights_sha256": "0" * 64}
WHOLE_JOB = {"fingerprint": "x", "results": {"members": [MEMBER], "combine": "mean", "top_k": 5}, "class_names": ["a"]}
UNIT, OTHER = "a" * 16, "b" * 16


class CountingStorage(Storage):
    """Counts the bytes that are read from where."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[int] = []

    def open(self, entry: Entry, offset: int = 0) -> ByteStream:
        self.opened.append(entry.size_bytes - offset)
        return super().open(entry, offset)

    def read(self, uri: str) -> bytes:
        pytest.fail(f"{uri} was read whole")


@pytest.fixture
def out(tmp_path: Path) -> Ledger:
    return Ledger(f"{tmp_path}/out/", Storage())


def write(
    out: Ledger, number: int, *, last: bool = False, unit: str = UNIT, rows: int = 3, folder: str = PREDICTIONS, **more
) -> str:
    """A part as the writer makes it, as far as the ledger looks."""
    name = PartName(FINGERPRINT, unit, number, last)
    following = Cursor(number + 1, (number + 1) * rows, (number + 1) * 1000)
    about = {
        "unit": unit,
        "fingerprint": FINGERPRINT,
        "part": number,
        "last": last,
        "first_index": number * rows,
        "next": following.to_dict(),
        **more,
    }
    table = pa.table({"key": [str(n) for n in range(rows)]}).replace_schema_metadata({METADATA_KEY: json.dumps(about)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, write_page_checksum=True)
    Storage().publish(out.uri(folder, str(name)), buffer.getvalue())
    return str(name)


def unit(unit_id: str = UNIT) -> Unit:
    return Unit(unit_id, UnitKind.TAR, "/in/a.tar", 10)


# -- names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "last", "text"),
    [
        (0, False, f"part-01234567-{UNIT}-00000.parquet"),
        (4, True, f"part-01234567-{UNIT}-00004-last.parquet"),
        (123456, False, f"part-01234567-{UNIT}-123456.parquet"),
    ],
)
def test_a_part_name_goes_to_text_and_back(part: int, last: bool, text: str):
    name = PartName(FINGERPRINT, UNIT, part, last)
    assert str(name) == text
    assert PartName.parse(text) == PartName("01234567", UNIT, part, last)
    assert unit_of(text) == UNIT


@pytest.mark.parametrize(
    "name",
    [
        "part-0.parquet",
        f"part-01234567-{UNIT}-00000.parquet.tmp",
        f"xpart-01234567-{UNIT}-00000.parquet",
        f"part-01234567-{UNIT}-0000.parquet",
        f"part-01234567-{UNIT}-00000-first.parquet",
        f"sub/part-01234567-{UNIT}-00000.parquet",
        f"part-01234567-{UNIT.upper()}-00000.parquet",
    ],
)
def test_other_names_are_no_parts(name: str):
    assert PartName.parse(name) is None
    assert unit_of(name) is None


def test_the_note_of_an_unreadable_unit_is_no_part_but_names_the_unit():
    name = unreadable_name(FINGERPRINT, UNIT)
    assert PartName.parse(name) is None
    assert unit_of(name) == UNIT


# -- progress -------------------------------------------------------------------------------------------------


def test_progress_is_the_chain_of_parts_without_gaps(out: Ledger):
    assert out.progress(FINGERPRINT) == {}
    for number in (0, 1, 3):
        write(out, number)
    write(out, 4, last=True)
    write(out, 0, unit=OTHER, last=True)
    write(out, 1, unit="c" * 16, last=True)
    Storage().publish(out.uri(PREDICTIONS, "notes.txt"), b"")
    progress = out.progress(FINGERPRINT)
    names = [PartName(FINGERPRINT, UNIT, number, last=False) for number in (0, 1)]
    assert list(progress[UNIT].names(FINGERPRINT, UNIT)) == [str(name) for name in names]
    assert not progress[UNIT].complete  # a last part behind a gap completes nothing
    assert progress[OTHER].complete
    assert (progress["c" * 16].num_parts, progress["c" * 16].complete) == (0, False)
    assert len(progress) == 3


def test_the_cursor_is_behind_all_published_parts(out: Ledger):
    assert out.find_cursor(unit(), FINGERPRINT, 0) == (Cursor(), False)
    write(out, 0)
    write(out, 1)
    expected = Cursor(2, 6, 2000)
    for known in (0, 1, 2):
        assert out.find_cursor(unit(), FINGERPRINT, known) == (expected, False)
    write(out, 3)  # behind a gap
    assert out.find_cursor(unit(), FINGERPRINT, 2) == (expected, False)
    write(out, 2, last=True)
    assert out.find_cursor(unit(), FINGERPRINT, 1) == (expected, True)
    assert out.find_cursor(unit(OTHER), FINGERPRINT, 0) == (Cursor(), False)
    with pytest.raises(ObjectMissing):
        out.find_cursor(unit(OTHER), FINGERPRINT, 1)


# -- footers --------------------------------------------------------------------------------------------------


def test_a_footer_describes_its_part(out: Ledger):
    footer = out.footer(PREDICTIONS, write(out, 2, last=True, rows=5))
    assert (footer.num_rows, footer.unit_id, footer.fingerprint) == (5, UNIT, FINGERPRINT)
    assert (footer.part, footer.last, footer.first_index, footer.next) == (2, True, 10, Cursor(3, 15, 3000))


def test_a_footer_is_read_from_the_tail_alone(out: Ledger, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_TAIL_BYTES", 4096)
    small, big = write(out, 0, rows=20_000), write(out, 1, rows=20_000, padding="x" * 10_000)
    storage = CountingStorage()
    counting = Ledger(out.out, storage)
    assert counting.footer(PREDICTIONS, small).num_rows == 20_000
    assert storage.opened == [4096]
    assert counting.footer(PREDICTIONS, big).num_rows == 20_000  # a second look fetches the rest of it
    assert storage.opened[1] == 4096
    assert 10_000 < storage.opened[2] < 40_000
    assert storage.stat(out.uri(PREDICTIONS, big)).size_bytes > 2 * storage.opened[2]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all", b"\xff\xff\xff\x7fPAR1"])
def test_what_is_no_part_has_no_footer(out: Ledger, content: bytes):
    Storage().publish(out.uri(PREDICTIONS, "x"), content)
    with pytest.raises(ObjectDamaged, match="x: not a part of shardlabel"):
        out.footer(PREDICTIONS, "x")


def test_a_foreign_parquet_file_is_no_part(out: Ledger):
    buffer = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), buffer)
    Storage().publish(out.uri(PREDICTIONS, "x"), buffer.getvalue())
    with pytest.raises(ObjectDamaged, match="not a part of shardlabel"):
        out.footer(PREDICTIONS, "x")


@pytest.mark.parametrize(
    "more",
    [
        {"next": Cursor(0, 3, 1000).to_dict()},  # the unit would go round in circles
        {"next": Cursor(2, 3, 1000).to_dict()},
        {"next": {"part": 1, "index": 3, "offset": "1000"}},
        {"next": {"part": 1, "index": 3, "ofset": 1000}},
        {"next": [1, 3, 1000]},
        {"part": "0"},
        {"first_index": None},
    ],
)
def test_a_wrong_footer_is_damaged(out: Ledger, more: dict):
    name = write(out, 0, **more)
    with pytest.raises(ObjectDamaged, match=f"{name}: not a part of shardlabel"):
        out.footer(PREDICTIONS, name)
    with pytest.raises(ObjectDamaged):
        out.find_cursor(unit(), FINGERPRINT, 0)


def test_deeply_nested_json_is_no_footer(out: Ledger):
    table = pa.table({"a": [1]}).replace_schema_metadata({METADATA_KEY: "[" * 100_000})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    Storage().publish(out.uri(PREDICTIONS, "x"), buffer.getvalue())
    with pytest.raises(ObjectDamaged, match="not a part of shardlabel"):
        out.footer(PREDICTIONS, "x")


def test_row_counts_come_from_footers(out: Ledger):
    names = [write(out, number, rows=number + 1) for number in range(40)]
    found = {name: footer.num_rows for name, footer in out.footers(PREDICTIONS, iter(names)).items()}
    assert found == {name: number + 1 for number, name in enumerate(names)}


def test_a_damaged_page_is_noticed(out: Ledger):
    name = write(out, 0, rows=1000)
    assert out.read_part(PREDICTIONS, name, ["key"]).num_rows == 1000
    data = bytearray(Storage().read(out.uri(PREDICTIONS, name)))
    data[100] ^= 1
    Storage().replace(out.uri(PREDICTIONS, name), bytes(data))
    with pytest.raises(ObjectDamaged, match=f"{name}: damaged"):
        out.read_part(PREDICTIONS, name, ["key"])


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (pa.table({"key": ["a"]}), "no column label"),
        (pa.table({"label": ["cat"]}), "column label holds string, not int32"),
        (pa.table({"label": pa.array([1, None], pa.int32())}), "column label has gaps"),
    ],
)
def test_a_part_of_other_columns_is_damaged(out: Ledger, table: pa.Table, says: str):
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    Storage().publish(out.uri(PREDICTIONS, "part"), buffer.getvalue())
    with pytest.raises(ObjectDamaged, match=f"part: damaged: .*{says}"):
        out.read_part(PREDICTIONS, "part", ["label"])


# -- job.json and what is removed -------------------------------------------------------------------------------


def test_json_is_written_whole_and_read_back(out: Ledger):
    assert out.read_json(JOB) is None
    with pytest.raises(OutputError, match=r"not an output of shardlabel"):
        out.job()
    out.write_json(JOB, WHOLE_JOB)
    assert out.job() == WHOLE_JOB
    for content, message in [
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"\xff", "not JSON"),
        (DEEP, "not JSON"),
    ]:
        Storage().replace(out.uri(JOB), content)
        with pytest.raises(OutputError, match=message):
            out.read_json(JOB)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"fingerprint": 3}, "fingerprint"),
        ({"results": None}, "results"),
        ({"results": {"members": [], "combine": "mean", "top_k": 5}}, r"results\.members"),
        (
            {"results": {"members": [{**MEMBER, "factor": "x"}], "combine": "mean", "top_k": 5}},
            r"results\.members\.0\.factor",
        ),
        ({"results": {"members": [MEMBER], "combine": ["mean"], "top_k": 5}}, r"results\.combine"),
        ({"class_names": "a"}, "class_names"),
        ({"inputs": [3]}, r"inputs\.0"),
        ({"replaced": "x"}, "replaced"),
    ],
)
def test_a_job_of_another_shape_is_a_wrong_request_that_says_where(out: Ledger, change, where):
    out.write_json(JOB, {**WHOLE_JOB, **change})
    with pytest.raises(OutputError, match=rf"job\.json: damaged, or written by another version .*: {where}"):
        out.job()


def test_whoever_wants_the_place_looks_at_its_owner_too(out: Ledger):
    out.write_json(JOB, {"fingerprint": "x"})
    assert out.owner() == {"fingerprint": "x"}
    for content in ({}, {"fingerprint": "x", "results": {"members": 3}}):
        out.write_json(JOB, content)
        with pytest.raises(OutputError, match="another version"):
            out.owner()


def test_a_success_that_lists_no_parts_is_a_wrong_request(out: Ledger):
    assert out.success() is None
    out.write_json(SUCCESS, {"predictions": {"part": 3}})
    assert out.success() == {"predictions": {"part": 3}}
    out.write_json(SUCCESS, {"predictions": ["part"]})
    with pytest.raises(OutputError, match=r"_SUCCESS: damaged.*predictions"):
        out.success()


def test_an_out_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=f"OUT cannot be written: {tmp_path}/file/job.json"):
        Ledger(f"{tmp_path}/file", Storage()).write_json(JOB, {})


def test_units_are_removed_with_all_they_wrote_and_others_stay(out: Ledger):
    kept = write(out, 0, unit=OTHER)
    for number in range(2):
        write(out, number)
        write(out, number, folder=QUARANTINE)
    note = unreadable_name(FINGERPRINT, UNIT)
    Storage().publish(out.uri(QUARANTINE, note), b"")
    out.remove_units({UNIT})
    assert (out.names(PREDICTIONS), out.names(QUARANTINE)) == ([kept], [])


def test_notes_of_unreadable_units_are_removed_alone(out: Ledger):
    quarantined = write(out, 0, folder=QUARANTINE)
    notes = [unreadable_name(FINGERPRINT, unit_id) for unit_id in (UNIT, OTHER)]
    for note in notes:
        Storage().publish(out.uri(QUARANTINE, note), b"")
    out.remove_unreadable({UNIT})
    assert out.names(QUARANTINE) == [quarantined, notes[1]]


def test_clear_keeps_job_json_and_files_of_others(out: Ledger, tmp_path: Path):
    write(out, 0)
    write(out, 0, folder=QUARANTINE)
    out.write_json(JOB, {"fingerprint": "x"})
    out.write_json(SUCCESS, {})
    for name in ("plan/units.parquet", "plan/keys-x.parquet", "report.html", "mine.txt"):
        Storage().publish(out.uri(name), b"")
    out.clear()
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["out/job.json", "out/mine.txt"]
    out.clear()
