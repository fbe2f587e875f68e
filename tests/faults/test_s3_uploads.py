"""OUT on S3: connections that are cut while a part is on its way up, drivers that want the same OUT."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import make_tar, sample_members
from servers import Fault, both_servers
from small_jobs import keys, options, predictions

from pipeline import label, verify
from pipeline.config.settings import StorageConfig
from pipeline.errors import OutputError, PublishError
from pipeline.output.ledger import JOB, Ledger
from pipeline.storage import Storage


@pytest.fixture
def shard(tmp_path: Path) -> str:
    return str(make_tar(tmp_path / "a.tar", [*sample_members(8), ("9.jpg", b"broken")]))


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.storage.s3_retry._BACKOFF_S", 0.01)


def test_an_upload_that_is_cut_is_sent_again_whole(s3, fault_proxy, sample_data, shard):
    bucket = s3.bucket()
    fault_proxy.faults += [
        Fault("cut", method="PUT", path="/predictions/", num_bytes=1000, skip=1, times=2),
        Fault("cut", method="PUT", path="/quarantine/", num_bytes=10),
        Fault("lost", method="PUT", path="/predictions/", skip=1),
    ]
    words = options(sample_data, rows_per_part=3, s3_endpoint=fault_proxy.endpoint)
    assert label(shard, f"s3://{bucket}/out", **words).exit_code == 0
    assert not any(fault.times for fault in fault_proxy.faults)
    assert len(predictions(s3, bucket, "out")) == 8
    assert verify(f"s3://{bucket}/out", s3_endpoint=s3.endpoint).discrepancies == ()


def test_uploads_that_are_always_cut_leave_no_piece_and_end_the_job(s3, fault_proxy, sample_data, shard):
    bucket = s3.bucket()
    fault_proxy.faults.append(Fault("cut", method="PUT", path="/predictions/", num_bytes=1000, skip=1, times=10_000))
    words = options(sample_data, rows_per_part=3, s3_endpoint=fault_proxy.endpoint)
    with pytest.raises(PublishError, match=r"OUT cannot be used.*same command"):
        label(shard, f"s3://{bucket}/out", **words)
    assert len(keys(s3, bucket, "out/predictions/")) == 1
    fault_proxy.faults.clear()
    assert label(shard, f"s3://{bucket}/out", **words).images == 6
    assert verify(f"s3://{bucket}/out", s3_endpoint=s3.endpoint).discrepancies == ()


def test_the_second_of_two_different_jobs_is_refused_on_s3(s3, sample_data, shard):
    """Both have read that there is no job.json; the first writes it; the second finds the name taken."""
    out = f"s3://{s3.bucket()}/out"
    words = options(sample_data, s3_endpoint=s3.endpoint)
    real = Ledger.write_if_unchanged

    def late(ledger: Ledger, name, data, older):
        held_up.undo()
        assert older is None
        assert label(shard, out, **words).exit_code == 0
        return real(ledger, name, data, older)

    held_up = pytest.MonkeyPatch()
    held_up.setattr(Ledger, "write_if_unchanged", late)
    with pytest.raises(OutputError, match=r"differs in combine \(mean then, vote now\)\."):
        label(shard, out, **words, combine="vote")
    assert verify(out, s3_endpoint=s3.endpoint).discrepancies == ()


def is_swapped_only_for_the_version_that_was_read(ledger: Ledger) -> None:
    assert ledger.version(JOB) is None
    assert ledger.write_if_unchanged(JOB, b'{"fingerprint": 1}', None)
    assert not ledger.write_if_unchanged(JOB, b'{"fingerprint": 22}', None)
    first = ledger.version(JOB)
    assert ledger.write_if_unchanged(JOB, b'{"fingerprint": 333}', first)
    assert not ledger.write_if_unchanged(JOB, b'{"fingerprint": 4444}', first)
    assert ledger.read_json(JOB) == {"fingerprint": 333}
    ledger._storage.delete(ledger.uri(JOB))
    assert not ledger.write_if_unchanged(JOB, b"{}", first)
    assert ledger.version(JOB) is None


def test_a_file_on_disk_is_swapped_only_for_the_version_that_was_read(tmp_path):
    is_swapped_only_for_the_version_that_was_read(Ledger(str(tmp_path / "out"), Storage()))


@both_servers
def test_an_object_is_swapped_only_for_the_version_that_was_read(s3):
    """Ceph compares a version with its quotes on; AWS wants them."""
    is_swapped_only_for_the_version_that_was_read(Ledger(f"s3://{s3.bucket()}/out", s3.storage()))


def test_a_store_that_refuses_what_is_as_it_was_gets_a_plain_put(s3, fault_proxy):
    storage = Storage(StorageConfig(s3_endpoint=fault_proxy.endpoint))
    uri = f"s3://{s3.bucket()}/job.json"
    assert storage.publish(uri, b"one")
    fault_proxy.faults.append(Fault("unmet", method="PUT", times=2))
    assert storage.replace_if_unchanged(uri, b"two", storage.stat(uri))
    assert storage.read(uri) == b"two"
