"""A job that can read nothing of its inputs is no success, and shards in other dress are read like plain ones."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile

import pytest
from conftest import jpeg, make_tar, sample_members
from fuzz.seeds import END, PACKERS, member, zstd
from small_jobs import options, rows

from pipeline import label, status, verify
from pipeline.cli.summaries import print_failures, print_summary

NOTHING = {
    "lz4": b"\x04\x22\x4d\x18" + bytes(range(256)) * 8,
    "empty": b"",
    "zstd with a dictionary": zstd.compress(
        b"0,0" * 500, zstd_dict=zstd.train_dict([b"%d,%d" % (n, n * n) * 20 for n in range(2000)], 2048)
    ),
}


@pytest.mark.parametrize("what", NOTHING)
def test_a_job_whose_only_shard_cannot_be_read_says_so_each_time(sample_data, tmp_path, capsys, what):
    shard = tmp_path / "a.tar"
    shard.write_bytes(NOTHING[what])
    for _ in range(2):
        summary = label(str(shard), tmp_path / "out", **options(sample_data))
        assert summary.exit_code == 4
        assert [failed.uri for failed in summary.unread] == [str(shard)]
        assert sum(summary.events.values()) == 1, "it was not tried again"
        print_summary(summary)
        print_failures(summary)
        shown = capsys.readouterr()
        assert "nothing left to do" not in shown.out
        assert f"not read: {shard}: {summary.unread[0].message}" in shown.err
    assert verify(tmp_path / "out").exit_code == 0
    assert sum(status(tmp_path / "out").events.values()) == 1

    make_tar(shard, sample_members(2))
    summary = label(str(shard), tmp_path / "out", **options(sample_data))
    assert (summary.exit_code, summary.labelled, summary.unread) == (0, 2, ())


def test_a_shard_that_cannot_be_read_beside_others_is_an_event(sample_data, tmp_path):
    (tmp_path / "in").mkdir()
    make_tar(tmp_path / "in/a.tar", sample_members(2))
    (tmp_path / "in/b.tar").write_bytes(NOTHING["lz4"])
    summary = label(str(tmp_path / "in"), tmp_path / "out", **options(sample_data))
    assert (summary.exit_code, summary.labelled, summary.events, summary.unread) == (0, 2, {"shard_corrupt": 1}, ())


def test_a_job_in_which_every_image_is_bad_has_read_its_inputs(sample_data, tmp_path):
    shard = make_tar(tmp_path / "a.tar", [("a.jpg", b"no image"), ("b.jpg", b"")])
    summary = label(str(shard), tmp_path / "out", **options(sample_data))
    assert (summary.exit_code, summary.quarantined) == (0, 2)
    assert label(str(shard), tmp_path / "out", **options(sample_data)).exit_code == 0


@pytest.mark.parametrize("pack", PACKERS[2:], ids=["xz", "zstd"])
def test_compressed_shards_give_the_rows_of_plain_ones_and_resume_inside(sample_data, tmp_path, pack):
    """Whatever their name is; a hard link leads back to what was labelled before."""
    members = b"".join(member(f"{number}.jpg", jpeg(number)) for number in range(7))
    members += member("7.jpg", kind=tarfile.LNKTYPE, link="0.jpg") + END
    (tmp_path / "a.tar").write_bytes(members)
    label(str(tmp_path / "a.tar"), tmp_path / "plain", **options(sample_data, rows_per_part=3))
    (tmp_path / "a.tar").write_bytes(pack(members))
    out = tmp_path / "packed"
    assert label(str(tmp_path / "a.tar"), out, **options(sample_data, rows_per_part=3)).labelled == 8
    whole = rows(out)
    assert whole.equals(rows(tmp_path / "plain"))
    (out / "_SUCCESS").unlink()
    for path in sorted((out / "predictions").iterdir())[1:]:
        path.unlink()
    assert label(str(tmp_path / "a.tar"), out, **options(sample_data)).images == 5
    assert rows(out).equals(whole)
    assert verify(out, deep=True).exit_code == 0


def test_a_folder_of_shards_in_every_compression(sample_data, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    packers = {
        "tar": bytes,
        "tgz": gzip.compress,
        "tar.bz2": bz2.compress,
        "txz": lzma.compress,
        "tar.zst": zstd.compress,
    }
    for number, (suffix, pack) in enumerate(packers.items()):
        made = make_tar(tmp_path / "made.tar", sample_members(2, start=2 * number)).read_bytes()
        (folder / f"{number}.{suffix}").write_bytes(pack(made))
    summary = label(str(folder), tmp_path / "out", **options(sample_data))
    assert (summary.units_total, summary.labelled, summary.exit_code) == (5, 10, 0)
    assert verify(tmp_path / "out").exit_code == 0
