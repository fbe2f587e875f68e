"""The job on S3: inputs, weights and output on a real server, with faults in between."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from conftest import make_tar, sample_members
from servers import Fault, both_servers, both_servers_in_time
from small_jobs import keys, predictions

from pipeline import label, status, verify
from pipeline.errors import PublishError, RequestError
from pipeline.storage import s3 as s3_module
from pipeline.storage import s3_retry, s3_stream

MODEL = "shufflenet_v2_x0_5"
KB = 1024


@pytest.fixture
def bucket(s3, sample_data: Path, tmp_path: Path) -> str:
    """A bucket with two shards, twelve loose images and the weights."""
    name = s3.bucket()
    for number in range(2):
        shard = make_tar(tmp_path / f"{number}.tar", sample_members(6, start=6 * number))
        s3.put(name, f"shards/train-{number:03d}.tar", shard.read_bytes())
    for key, data in sample_members(12):
        if key.endswith(".jpg"):
            s3.put(name, f"photos/ünï/{key}", data)
    weights = sample_data / "weights" / f"{MODEL}.safetensors"
    s3.put(name, f"weights/{weights.name}", weights.read_bytes())
    s3.put(name, "weights/classes.txt", (sample_data / "classes.txt").read_bytes())
    return name


def run(bucket: str, inputs, out: str, endpoint: str, **more):
    options = {
        "model": MODEL,
        "weights_dir": f"s3://{bucket}/weights",
        "labels": f"s3://{bucket}/weights/classes.txt",
        "engine": "inline",
        "precision": "fp32",
        "s3_endpoint": endpoint,
    }
    return label(inputs, out, **(options | more))


@both_servers_in_time
def test_shards_and_loose_images_on_s3_get_the_same_labels(s3, bucket):
    out = f"s3://{bucket}/out"
    pattern = f"s3://{bucket}/shards/train-{{000..001}}.tar"
    summary = run(bucket, pattern, f"{out}/shards", s3.endpoint, rows_per_part=4)
    assert (summary.labelled, summary.parts, summary.exit_code) == (12, 4, 0)
    assert run(bucket, f"s3://{bucket}/photos/", f"{out}/loose", s3.endpoint).labelled == 12
    packed, loose = predictions(s3, bucket, "out/shards"), predictions(s3, bucket, "out/loose")
    assert [row["label"] for row in packed] == [row["label"] for row in loose]
    for one, other in zip(packed, loose, strict=True):
        assert one["members"][MODEL]["scores"] == pytest.approx(other["members"][MODEL]["scores"], abs=1e-5)
    assert loose[0]["shard"] == f"s3://{bucket}/photos/"
    assert verify(f"{out}/shards", s3_endpoint=s3.endpoint).discrepancies == ()
    assert verify(f"{out}/loose", s3_endpoint=s3.endpoint).discrepancies == ()
    found = status(f"{out}/shards", s3_endpoint=s3.endpoint)
    assert (found.units_done, found.images, found.finished) == (2, 12, True)

    again = run(bucket, pattern, f"{out}/shards", s3.endpoint, rows_per_part=4)
    assert again.images == 0


@both_servers_in_time
def test_a_shard_uploaded_in_pieces(s3, bucket, tmp_path):
    """Its ETag is no hash of its bytes."""
    shard = make_tar(tmp_path / "big.tar", [("filler.bin", bytes(5 << 20)), *sample_members(6)]).read_bytes()
    key = "pieces/big.tar"
    upload = s3.client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    where = {"Bucket": bucket, "Key": key, "UploadId": upload}
    pieces = []
    for number, piece in enumerate((shard[: 5 << 20], shard[5 << 20 :]), 1):
        etag = s3.client.upload_part(**where, PartNumber=number, Body=piece)["ETag"]
        pieces.append({"PartNumber": number, "ETag": etag})
    s3.client.complete_multipart_upload(**where, MultipartUpload={"Parts": pieces})
    assert s3.client.head_object(Bucket=bucket, Key=key)["ETag"].endswith('-2"')
    summary = run(bucket, f"s3://{bucket}/pieces/", f"s3://{bucket}/out", s3.endpoint)
    assert (summary.labelled, summary.quarantined, summary.exit_code) == (6, 1, 0)
    assert verify(f"s3://{bucket}/out", s3_endpoint=s3.endpoint, deep=True).discrepancies == ()
    assert run(bucket, f"s3://{bucket}/pieces/", f"s3://{bucket}/out", s3.endpoint).images == 0


@both_servers
@pytest.mark.parametrize(
    ("inputs", "out", "says"),
    [
        ("s3://no-such-bucket/shards/", "out", r"INPUT s3://no-such-bucket/shards/: no such bucket"),
        ("shards/none.tar", "out", r"INPUT s3://\S+/shards/none\.tar: no such object"),
        ("none/", "out", r"no images found"),
        ("shards/", "s3://no-such-bucket/out", r"s3://no-such-bucket/out\S*: no such bucket"),
        ("none/", "s3://no-such-bucket/out", r"s3://no-such-bucket/out\S*: no such bucket"),  # OUT is looked at first
    ],
)
def test_a_missing_bucket_or_key_is_one_line_and_exit_2(s3, bucket, inputs, out, says):
    before = keys(s3, bucket, "")
    inputs, out = (word if "://" in word else f"s3://{bucket}/{word}" for word in (inputs, out))
    with pytest.raises(RequestError, match=says) as caught:
        run(bucket, inputs, out, s3.endpoint)
    assert "\n" not in str(caught.value)
    assert keys(s3, bucket, "") == before


@both_servers
@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_one_line_and_exit_2(s3, bucket, monkeypatch, name):
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)
    monkeypatch.setenv(name, "CANARY")
    with pytest.raises(RequestError, match=rf"s3://{bucket}/\S+: the credentials are wrong or expired: ") as caught:
        run(bucket, f"s3://{bucket}/shards/", f"s3://{bucket}/out", s3.endpoint)
    assert "CANARY" not in str(caught.value)
    assert "SKTEST" not in str(caught.value)
    assert "\n" not in str(caught.value)


@both_servers_in_time
def test_a_checkpoint_on_s3_that_carries_code_is_refused(s3, bucket, tmp_path):
    class Code:
        def __reduce__(self):
            return eval, (f"open({str(tmp_path / 'mark')!r}, 'w')",)

    buffer = io.BytesIO()
    torch.save({"state_dict": {}, "extra": Code()}, buffer)
    s3.put(bucket, "bad/resnet18.pth", buffer.getvalue())
    with pytest.raises(RequestError, match=rf"s3://{bucket}/bad/resnet18\.pth: refused, because it is a pickle"):
        run(
            bucket,
            f"s3://{bucket}/shards/",
            f"s3://{bucket}/out",
            s3.endpoint,
            model=f"resnet18=s3://{bucket}/bad/resnet18.pth",
        )
    assert not (tmp_path / "mark").exists()
    assert keys(s3, bucket, "out") == []


@both_servers_in_time
def test_faults_on_the_way_cost_no_row(s3, bucket, fault_proxy, monkeypatch):
    monkeypatch.setattr(s3_retry, "_BACKOFF_S", 0.01)
    fault_proxy.faults += [
        Fault("reset", method="GET", path="train-000.tar", num_bytes=20_000, times=2),
        Fault("truncate", method="GET", path="train-001.tar", num_bytes=5_000, times=1),
        Fault("slow_down", method="PUT", path="out/predictions", times=1),
    ]
    summary = run(bucket, f"s3://{bucket}/shards/", f"s3://{bucket}/out", fault_proxy.endpoint)
    assert (summary.labelled, summary.exit_code) == (12, 0)
    assert verify(f"s3://{bucket}/out", s3_endpoint=s3.endpoint).discrepancies == ()


@both_servers_in_time
def test_latency_stalls_and_lost_acknowledgements_cost_no_row(s3, bucket, fault_proxy, monkeypatch):
    monkeypatch.setattr(s3_retry, "_BACKOFF_S", 0.01)
    monkeypatch.setattr(s3_module, "_READ_TIMEOUT_S", 1.0)
    fault_proxy.faults += [
        Fault("stall", method="GET", path="train-000.tar", num_bytes=9_000),
        Fault("lost", method="PUT", path="out/predictions", times=2),
        Fault("slow_down", method="GET", path="list-type=2", times=2),
        Fault("late", delay_s=0.02, times=10_000),
    ]
    summary = run(bucket, f"s3://{bucket}/shards/", f"s3://{bucket}/out", fault_proxy.endpoint, rows_per_part=4)
    assert (summary.labelled, summary.parts, summary.exit_code) == (12, 4, 0)
    assert [fault.times for fault in fault_proxy.faults[:3]] == [0, 0, 0]
    assert verify(f"s3://{bucket}/out", s3_endpoint=s3.endpoint).discrepancies == ()


@both_servers_in_time
def test_a_session_that_ends_while_a_shard_is_read_ends_in_exit_4(s3, bucket, fault_proxy):
    fault_proxy.faults.append(Fault("expired", method="GET", path="train-001.tar", times=10_000))
    summary = run(bucket, f"s3://{bucket}/shards/", f"s3://{bucket}/out", fault_proxy.endpoint)
    assert (summary.labelled, summary.exit_code, summary.failed_units) == (6, 4, 1)
    assert summary.failures[0].message.endswith(": ExpiredToken: The provided token has expired.")
    asked = [request for request in fault_proxy.requests if "train-001.tar" in request.path and request.method == "GET"]
    assert len(asked) <= s3_stream.RANGES_IN_FLIGHT + 1  # it is no use to ask again
    fault_proxy.faults.clear()
    summary = run(bucket, f"s3://{bucket}/shards/", f"s3://{bucket}/out", fault_proxy.endpoint)
    assert (summary.labelled, summary.exit_code) == (6, 0)
    assert verify(f"s3://{bucket}/out", s3_endpoint=s3.endpoint).discrepancies == ()


@both_servers_in_time
def test_a_session_that_ends_while_parts_are_written_keeps_what_is_published(s3, bucket, fault_proxy):
    fault_proxy.faults.append(Fault("expired", method="PUT", path="out/predictions", skip=1, times=10_000))
    with pytest.raises(PublishError, match=r"ExpiredToken.*; what was published stays, the same command goes on"):
        run(bucket, f"s3://{bucket}/shards/", f"s3://{bucket}/out", fault_proxy.endpoint, rows_per_part=4)
    assert len(keys(s3, bucket, "out/predictions")) == 1
    fault_proxy.faults.clear()
    summary = run(bucket, f"s3://{bucket}/shards/", f"s3://{bucket}/out", fault_proxy.endpoint, rows_per_part=4)
    assert (summary.parts, summary.exit_code) == (3, 0)
    assert len(predictions(s3, bucket, "out")) == 12
    assert verify(f"s3://{bucket}/out", s3_endpoint=s3.endpoint).discrepancies == ()


@both_servers_in_time
def test_a_shard_that_changes_while_it_is_read_is_noticed(s3, bucket, fault_proxy, monkeypatch, tmp_path):
    monkeypatch.setattr(s3_stream, "RANGE_BYTES", 4 * KB)
    monkeypatch.setattr(s3_stream, "RANGES_IN_FLIGHT", 1)
    newer = make_tar(tmp_path / "newer.tar", sample_members(6, start=20)).read_bytes()
    change = lambda: s3.put(bucket, "shards/train-001.tar", newer)  # noqa: E731
    fault_proxy.faults.append(Fault("late", method="GET", path="train-001.tar", skip=2, before=change))
    out = f"s3://{bucket}/out"
    summary = run(bucket, f"s3://{bucket}/shards/", out, fault_proxy.endpoint, rows_per_part=2)
    assert (summary.exit_code, summary.failed_units) == (4, 1)
    assert summary.failures[0].message.endswith("train-001.tar: changed since it was planned")
    (line,) = [line for line in verify(out, s3_endpoint=s3.endpoint).discrepancies if "changed since" in line]
    assert "train-001.tar" in line
    assert run(bucket, f"s3://{bucket}/shards/", out, s3.endpoint, rows_per_part=2).exit_code == 0
    assert {row["key"] for row in predictions(s3, bucket, "out")} == {
        f"{number:05d}" for number in (*range(6), *range(20, 26))
    }
    assert verify(out, s3_endpoint=s3.endpoint).discrepancies == ()


@both_servers_in_time
def test_a_store_that_stays_broken_ends_in_exit_4_and_a_rerun_mends_it(s3, bucket, fault_proxy, monkeypatch):
    monkeypatch.setattr(s3_retry, "_BACKOFF_S", 0.01)
    fault_proxy.faults.append(Fault("reset", method="GET", path="train-001.tar", num_bytes=100, times=10_000))
    summary = run(bucket, f"s3://{bucket}/shards/", f"s3://{bucket}/out", fault_proxy.endpoint)
    assert (summary.exit_code, summary.failed_units) == (4, 1)
    assert summary.failures[0].reason == "unavailable"
    fault_proxy.faults.clear()
    summary = run(bucket, f"s3://{bucket}/shards/", f"s3://{bucket}/out", fault_proxy.endpoint)
    assert (summary.exit_code, summary.images) == (0, 6)
    assert verify(f"s3://{bucket}/out", s3_endpoint=s3.endpoint).discrepancies == ()
