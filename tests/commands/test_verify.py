"""Verify must find and name everything that is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import jpeg, make_tar, sample_members
from small_jobs import options

from pipeline import label, verify
from pipeline.errors import RequestError


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


def faults(out: Path, **options) -> str:
    found = verify(out, **options)
    assert found.exit_code == (1 if found.discrepancies else 0)
    for line in found.discrepancies:
        assert "\n" not in line
        assert line.startswith(("predictions/", "quarantine/", "/")), f"names no file: {line}"
        assert re.search(r"; .*(run the same label command again|put|restore|move it away|delete)", line), line
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
    column = pq.ParquetFile(path).metadata.row_group(0).column(3)
    assert column.path_in_schema == "sha256"
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 0xFF
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
    data, times = shard.read_bytes(), (shard.stat().st_atime_ns, shard.stat().st_mtime_ns)
    try:
        shard.write_bytes(data)
        assert "changed since it was planned" in faults(out)
        shard.unlink()
        assert "no such file" in faults(out)
    finally:
        shard.write_bytes(data)
        os.utime(shard, ns=times)


def test_a_missing_shard_is_named_alone(finished, out):
    shard, _ = finished
    data, times = shard.read_bytes(), (shard.stat().st_atime_ns, shard.stat().st_mtime_ns)
    shard.unlink()
    try:
        (line,) = verify(out).discrepancies
        assert line.startswith(f"{shard}: no such file; put it back, ")
    finally:
        shard.write_bytes(data)
        os.utime(shard, ns=times)


def test_following_the_advice_mends_the_output(finished, out, sample_data):
    shard, _ = finished
    predictions, quarantine = parts(out), parts(out, "quarantine")
    for path in (predictions[0], quarantine[0]):
        path.unlink()
    damaged = bytearray(predictions[1].read_bytes())
    damaged[len(damaged) // 4] ^= 0xFF
    predictions[1].write_bytes(damaged)
    assert predictions[1].name in faults(out)
    for name in re.findall(r"(\S+\.parquet): [^\n]*; delete it", faults(out)):
        (out / name).unlink()
    label(str(shard), out, **options(sample_data, rows_per_part=4))
    assert faults(out, deep=True) == ""


# -- deep ---------------------------------------------------------------------------------------------------


def rewrite(path: Path, older: bytes, newer: bytes) -> None:
    """Change bytes of a file behind the back of its size and time."""
    status, data = path.stat(), path.read_bytes()
    assert len(older) == len(newer)
    assert data.count(older) == 1
    path.write_bytes(data.replace(older, newer))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def altered(tmp_path, sample_data) -> Path:
    """The output of a shard in which two images were exchanged for others afterwards, one of them quarantined."""
    members = [*sample_members(6), ("bad.jpg", b"no image: one thing"), ("none.txt", b"")]
    shard = make_tar(tmp_path / "a.tar", members)
    label(str(shard), tmp_path / "out", **options(sample_data, rows_per_part=3))
    good = jpeg(3)
    rewrite(shard, good, good[:-1] + b"?")
    rewrite(shard, b"one thing", b"something")
    return tmp_path / "out"


@pytest.mark.parametrize("workers", [1, 2])
def test_deep_names_each_image_that_is_another_one(altered, workers):
    assert verify(altered, workers=workers).discrepancies == ()
    found = verify(altered, deep=True, workers=workers)
    assert (found.exit_code, found.deep, found.samples) == (1, True, 8)
    one, other = found.discrepancies
    assert "a.tar: '00003' (index 3) is not the image that was labelled" in one
    assert f"not {hashlib.sha256(jpeg(3)).hexdigest()}" in one
    assert hashlib.sha256(jpeg(3)[:-1] + b"?").hexdigest() in one
    assert "a.tar: 'bad' (index 6)" in other
    assert faults(altered, deep=True)


def test_deep_reports_nothing_if_nothing_is_wrong(out, sample_data, tmp_path):
    assert verify(out, deep=True).discrepancies == ()


def test_an_image_is_held_at_a_time(tmp_path, sample_data, monkeypatch):
    """What is held of a shard does not grow with it."""
    import tracemalloc

    from pipeline.verifying.reconciler import Reconciler

    shard = make_tar(tmp_path / "a.tar", [(f"{n:03d}.jpg", bytes(1 << 20)) for n in range(48)])
    label(str(shard), tmp_path / "out", **options(sample_data, rows_per_part=8))
    peaks = []
    call = Reconciler.__call__
    monkeypatch.setattr(
        Reconciler, "__call__", lambda *words: (call(*words), peaks.append(tracemalloc.get_traced_memory()))[0]
    )
    tracemalloc.start()
    try:
        assert verify(tmp_path / "out", deep=True).samples == 48
    finally:
        tracemalloc.stop()
    assert peaks[0][1] < 16 << 20


# -- loose images -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deep", [False, True])
def test_loose_images_that_changed_or_are_gone(tmp_path, sample_data, deep):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(5):
        (photos / f"{number}.jpg").write_bytes(jpeg(number))
    (photos / "empty.jpg").touch()
    out = tmp_path / "out"
    label(str(photos), out, **options(sample_data))
    assert faults(out, deep=deep) == ""
    (photos / "1.jpg").write_bytes(jpeg(11))
    (photos / "2.jpg").unlink()
    rewrite(photos / "3.jpg", jpeg(3), jpeg(3)[:-1] + b"?")
    said = faults(out, deep=deep)
    assert "1 image changed since they were planned: '1.jpg' (index 1)" in said
    assert "1 image is missing: '2.jpg' (index 2)" in said
    assert ("'3.jpg' (index 3) is not the image that was labelled" in said) is deep
    assert "'0.jpg'" not in said


@pytest.mark.parametrize("deep", [False, True])
def test_a_damaged_list_of_keys_is_named(tmp_path, sample_data, deep):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "0.jpg").write_bytes(jpeg(0))
    label(str(tmp_path / "photos"), tmp_path / "out", **options(sample_data))
    (keys,) = (tmp_path / "out" / "plan").glob("keys-*")
    keys.write_bytes(b"nothing")
    (line,) = verify(tmp_path / "out", deep=deep).discrepancies
    assert f"the list of its images in OUT is missing or damaged: {keys}: damaged" in line


def test_the_number_of_workers_is_checked(out):
    for workers in (0, "many"):
        with pytest.raises(RequestError, match="--workers"):
            verify(out, workers=workers)


def test_success_lists_every_part(out):
    success = json.loads((out / "_SUCCESS").read_text())
    assert sorted(success["predictions"]) == [path.name for path in parts(out)]
    assert sum(success["predictions"].values()) == 9
    assert sum(success["quarantine"].values()) == 1
