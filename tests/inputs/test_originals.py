"""Original images of chosen rows: the same bytes, from where they lie, without reading what is around them."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from conftest import jpeg, make_tar, sample_members

from pipeline import label
from pipeline.config.settings import StorageConfig
from pipeline.inputs.originals import Wanted, fetch_originals
from pipeline.output.ledger import PREDICTIONS, Ledger
from pipeline.output.parts import PartName
from pipeline.storage import Storage

ROWS_PER_PART = 4


def run(inputs, out, sample_data, **more):
    label(
        inputs,
        out,
        model="shufflenet_v2_x0_5",
        weights_dir=str(sample_data / "weights"),
        labels=str(sample_data / "classes.txt"),
        engine="inline",
        rows_per_part=ROWS_PER_PART,
        max_bad_rate=1.0,
        **more,
    )


def wanted(ledger) -> list[Wanted]:
    found = []
    for name in ledger.names(PREDICTIONS):
        part = PartName.parse(name)
        table = ledger.read_part(PREDICTIONS, name, ["index", "key", "sha256"])
        found += [Wanted(part.unit_id, part.part, **row) for row in table.to_pylist()]
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory, sample_data):
    """A tar, a compressed one and a folder of loose images, labelled in small parts; a broken image is among them."""
    folder = tmp_path_factory.mktemp("originals")
    for name in ("in", "loose"):
        (folder / name).mkdir()
    members = sample_members(18)
    members[10] = (members[10][0], b"no image")
    make_tar(folder / "in/a.tar", members)
    make_tar(folder / "in/b.tar.gz", sample_members(18, start=100), "w:gz")
    for number in range(9):
        (folder / f"loose/{number}.jpg").write_bytes(jpeg(200 + number))
    run([str(folder / "in"), str(folder / "loose")], folder / "out", sample_data)
    return folder, Ledger(str(folder / "out"), Storage())


def test_every_image_comes_back_unchanged(made):
    _, ledger = made
    rows = wanted(ledger)
    found = list(fetch_originals(reversed(rows), ledger, Storage()))
    assert [original.wanted for original in found] == sorted(rows)
    assert len(found) == 17 + 18 + 9
    for original in found:
        assert original.problem == ""
        assert hashlib.sha256(original.image).hexdigest() == original.wanted.sha256


class _Counting(Storage):
    """Notes what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[tuple[str, int]] = []
        self.fetched: list[str] = []

    def open(self, entry, offset=0):
        self.opened.append((entry.uri.rpartition("/")[2], offset))
        return super().open(entry, offset)

    def fetch(self, entry):
        self.fetched.append(entry.uri.rpartition("/")[2])
        return super().fetch(entry)


def test_reading_begins_at_the_part_and_passes_over_others(made):
    _, ledger = made
    rows = wanted(ledger)
    by_name = {
        name: [row for row in rows if row.unit_id == unit_id]
        for name, unit_id in ((row.key, row.unit_id) for row in rows)
    }
    in_tar, in_gzip, loose = by_name["00017"], by_name["00117"], by_name["8.jpg"]

    storage = _Counting()
    chosen = [in_tar[0], in_tar[-1]]
    assert [original.image for original in fetch_originals(chosen, ledger, storage)] == [jpeg(0), jpeg(17)]
    offsets = [offset for name, offset in storage.opened if name == "a.tar"]
    assert offsets[0] == 0
    assert offsets[-1] == ledger.footer(PREDICTIONS, part_name(ledger, in_tar[-1], -1)).next.offset > 0

    storage = _Counting()
    chosen = [in_gzip[1], in_gzip[-1]]
    assert [original.image for original in fetch_originals(chosen, ledger, storage)] == [jpeg(101), jpeg(117)]
    assert [opened for opened in storage.opened if opened[0] == "b.tar.gz"] == [("b.tar.gz", 0)]

    storage = _Counting()
    chosen = [loose[2], loose[7]]
    assert [original.image for original in fetch_originals(chosen, ledger, storage)] == [jpeg(202), jpeg(207)]
    assert sorted(storage.fetched) == ["2.jpg", "7.jpg"]


def part_name(ledger, row: Wanted, step: int) -> str:
    return str(PartName(ledger.job()["fingerprint"], row.unit_id, row.part + step, last=False))


def test_reading_may_stop_early(made):
    _, ledger = made
    images = fetch_originals(wanted(ledger), ledger, Storage())
    assert next(images).image is not None
    images.close()
    assert list(fetch_originals([], ledger, Storage())) == []


def test_missing_images_have_a_problem(made, tmp_path, sample_data):
    shard = make_tar(tmp_path / "a.tar", sample_members(6))
    loose = tmp_path / "loose"
    loose.mkdir()
    for number in range(3):
        (loose / f"{number}.jpg").write_bytes(jpeg(number))
    run([str(shard), str(loose)], tmp_path / "out", sample_data)
    ledger = Ledger(str(tmp_path / "out"), Storage())
    rows = sorted(wanted(ledger))
    odd = [
        dataclasses.replace(next(row for row in rows if row.key == "00001"), sha256="0" * 64),
        dataclasses.replace(next(row for row in rows if row.key == "00002"), key="x\x1b[31m"),
        dataclasses.replace(rows[0], unit_id="f" * 16),
        dataclasses.replace(next(row for row in rows if row.key == "00005"), index=6),
    ]
    problems = {original.wanted: original.problem for original in fetch_originals(odd, ledger, Storage())}
    assert [problems[row] for row in odd] == [
        "is not the image that was labelled: its sha256 is another",
        "is not the image that was labelled: 00002 is in its place",
        "its unit is not in the plan of the output",
        "is no longer there",
    ]
    (loose / "1.jpg").unlink()
    shard.unlink()
    said = {original.wanted.key: original for original in fetch_originals(rows, ledger, Storage())}
    assert [said[f"{number}.jpg"].image for number in range(3)] == [jpeg(0), None, jpeg(2)]
    assert "no such file" in said["1.jpg"].problem
    for number in range(6):
        assert "no such file" in said[f"{number:05d}"].problem


def test_on_s3_only_ranges_near_the_rows_are_requested(s3, sample_data, tmp_path):
    bucket = s3.bucket()
    buffer = make_tar(tmp_path / "a.tar", sample_members(12)).read_bytes()
    s3.put(bucket, "in/a.tar", buffer)
    run(f"s3://{bucket}/in/", f"s3://{bucket}/out", sample_data, s3_endpoint=s3.endpoint)
    storage = Storage(StorageConfig(s3_endpoint=s3.endpoint))
    ledger = Ledger(f"s3://{bucket}/out", storage)
    rows = [row for row in wanted(ledger) if row.key in {"00003", "00011"}]
    assert [original.image for original in fetch_originals(rows, ledger, storage)] == [jpeg(3), jpeg(11)]
