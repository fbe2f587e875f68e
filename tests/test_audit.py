"""Verify must notice what is wrong, and say what."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import make_tar, sample_members
from test_job import options

from pipeline import label, verify


@pytest.fixture(scope="module")
def finished(tmp_path_factory, sample_data: Path) -> tuple[Path, Path]:
    """A shard of ten samples, one of them broken, and its output in parts of four."""
    folder = tmp_path_factory.mktemp("audit")
    members = sample_members(10)
    members[4] = (members[4][0], b"no image")
    shard = make_tar(folder / "a.tar", members)
    label(str(shard), folder / "out", **options(sample_data, rows_per_part=4))
    return shard, folder / "out"


@pytest.fixture
def out(finished, tmp_path) -> Path:
    """A copy of that output, to be damaged."""
    copy = tmp_path / "out"
    shutil.copytree(finished[1], copy)
    return copy


def parts(out: Path, folder: str = "predictions") -> list[Path]:
    return sorted((out / folder).iterdir())


def faults(out: Path) -> str:
    found = verify(out)
    assert found.exit_code == (1 if found.discrepancies else 0)
    return "\n".join(found.discrepancies)


def test_nothing_wrong(out):
    found = verify(out)
    assert found.discrepancies == ()
    assert (found.units, found.samples, found.predictions, found.quarantined) == (1, 10, 9, 1)


def test_a_deleted_part(out):
    parts(out)[1].unlink()
    said = faults(out)
    assert "part 1 is missing" in said
    assert "4 samples in the input, but not in the output: '00004' (index 4)" in said
    assert "listed in _SUCCESS, but missing" in said


def test_a_deleted_quarantine_part(out):
    parts(out, "quarantine")[0].unlink()
    assert "'00002'" in faults(out)


def test_an_altered_byte(out):
    path = parts(out)[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 0xFF
    path.write_bytes(data)
    assert path.name in faults(out)


def test_altered_rows(out):
    path = parts(out)[0]
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    said = faults(out)
    assert "'00000'" in said
    assert f"{table.num_rows - 1} rows, but _SUCCESS lists {table.num_rows}" in said


def test_a_doubled_part(out):
    first, second = parts(out)[:2]
    shutil.copy(first, second)
    assert "holds another part under this name" in faults(out)


def test_a_part_that_is_last_and_is_not(out):
    last = parts(out)[-1]
    shutil.copy(last, out / "predictions" / last.name.replace("-last", ""))
    said = faults(out)
    assert "part 2 is there 2 times" in said
    assert "not listed in _SUCCESS" in said


def test_a_foreign_file(out):
    (out / "predictions" / "other.parquet").write_bytes(b"PAR1")
    shutil.copy(parts(out)[0], out / "predictions" / "part-00000000-0000000000000000-00000.parquet")
    assert faults(out).count("a foreign file") == 2


def test_a_missing_last_part(out):
    (out / "_SUCCESS").unlink()
    parts(out)[-1].unlink()
    assert "not complete" in faults(out)


def test_an_input_that_changed_or_is_gone(finished, out, tmp_path):
    shard, _ = finished
    data = shard.read_bytes()
    try:
        shard.write_bytes(data)
        assert "changed since it was planned" in faults(out)
        shard.unlink()
        assert "no such file" in faults(out)
    finally:
        shard.write_bytes(data)


def test_success_lists_every_part(out):
    success = json.loads((out / "_SUCCESS").read_text())
    assert sorted(success["predictions"]) == [path.name for path in parts(out)]
    assert sum(success["predictions"].values()) == 9
    assert sum(success["quarantine"].values()) == 1
