"""The job on S3: inputs, weights and output on a real server, with faults in between."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_tar, sample_members
from servers import Fault

import pipeline.storage.s3 as s3_module
from pipeline import label, status, verify

MODEL = "shufflenet_v2_x0_5"


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
        "s3_endpoint": endpoint,
    }
    return label(inputs, out, **(options | more))


def keys(s3, bucket: str, prefix: str) -> list[str]:
    pages = s3.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [item["Key"] for page in pages for item in page.get("Contents", ())]


def predictions(s3, bucket: str, out: str) -> list[dict]:
    tables = []
    for key in keys(s3, bucket, f"{out}/predictions/"):
        body = s3.client.get_object(Bucket=bucket, Key=key)["Body"].read()
        tables.append(pq.read_table(io.BytesIO(body)).unify_dictionaries())
    return sorted(pa.concat_tables(tables, promote_options="default").to_pylist(), key=lambda row: row["sha256"])


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


def test_the_output_holds_no_credentials(s3, bucket):
    run(bucket, f"s3://{bucket}/shards/", f"s3://{bucket}/out", s3.endpoint)
    for name in ("job.json", "_SUCCESS"):
        text = s3.client.get_object(Bucket=bucket, Key=f"out/{name}")["Body"].read().decode()
        assert "SKTEST" not in text
        assert json.loads(text)


def test_faults_on_the_way_cost_no_row(s3, bucket, fault_proxy, monkeypatch):
    monkeypatch.setattr(s3_module, "_BACKOFF_S", 0.01)
    fault_proxy.faults += [
        Fault("reset", method="GET", path="train-000.tar", num_bytes=20_000, times=2),
        Fault("truncate", method="GET", path="train-001.tar", num_bytes=5_000, times=1),
        Fault("slow_down", method="PUT", path="out/predictions", times=1),
    ]
    summary = run(bucket, f"s3://{bucket}/shards/", f"s3://{bucket}/out", fault_proxy.endpoint)
    assert (summary.labelled, summary.exit_code) == (12, 0)
    assert verify(f"s3://{bucket}/out", s3_endpoint=s3.endpoint).discrepancies == ()


def test_a_store_that_stays_broken_ends_in_exit_4_and_a_rerun_mends_it(s3, bucket, fault_proxy, monkeypatch):
    monkeypatch.setattr(s3_module, "_BACKOFF_S", 0.01)
    fault_proxy.faults.append(Fault("reset", method="GET", path="train-001.tar", num_bytes=100, times=10_000))
    summary = run(bucket, f"s3://{bucket}/shards/", f"s3://{bucket}/out", fault_proxy.endpoint)
    assert (summary.exit_code, summary.failed_units) == (4, 1)
    assert summary.failures[0].reason == "unavailable"
    fault_proxy.faults.clear()
    summary = run(bucket, f"s3://{bucket}/shards/", f"s3://{bucket}/out", fault_proxy.endpoint)
    assert (summary.exit_code, summary.images) == (0, 6)
    assert verify(f"s3://{bucket}/out", s3_endpoint=s3.endpoint).discrepancies == ()
