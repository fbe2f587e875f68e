"""Small jobs over the sample data, and what they published, for the tests of many modules."""

from __future__ import annotations

import glob
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.settings import StorageConfig
from pipeline.labeler.config import LabelerConfig
from pipeline.labeler.labeler import Labeler

ONE = "shufflenet_v2_x0_5"
ALL = "mobilenet_v3_small,shufflenet_v2_x0_5,squeezenet1_1"


def options(sample_data: Path, **more) -> dict:
    defaults = {
        "model": ONE,
        "weights_dir": str(sample_data / "weights"),
        "labels": str(sample_data / "classes.txt"),
        "engine": "inline",
        "precision": "fp32",
        "max_bad_rate": 1.0,
    }
    return defaults | more


def rows(out: Path, folder: str = "predictions") -> pa.Table:
    files = sorted(glob.glob(f"{out}/{folder}/*.parquet"))
    table = pa.concat_tables([pq.read_table(file, partitioning=None).unify_dictionaries() for file in files])
    plain = table.set_column(0, "shard", table["shard"].cast(pa.string()))
    if "class_name" in plain.column_names:
        plain = plain.set_column(7, "class_name", plain["class_name"].cast(pa.string()))
    return plain.sort_by([("shard", "ascending"), ("index", "ascending")])


def keys(s3, bucket: str, prefix: str) -> list[str]:
    pages = s3.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [item["Key"] for page in pages for item in page.get("Contents", ())]


def predictions(s3, bucket: str, out: str) -> list[dict]:
    tables = []
    for key in keys(s3, bucket, f"{out}/predictions/"):
        body = s3.client.get_object(Bucket=bucket, Key=key)["Body"].read()
        tables.append(pq.read_table(io.BytesIO(body)).unify_dictionaries())
    return sorted(pa.concat_tables(tables, promote_options="default").to_pylist(), key=lambda row: row["sha256"])


def labeler_config(members, out, *, num_classes: int = 14, **more) -> LabelerConfig:
    """Of a labeler of 14 classes and parts of 25 rows, on the CPU, with two threads."""
    settings = {
        "out": str(out),
        "fingerprint": "0" * 64,
        "run": "trial",
        "members": tuple(member.spec for member in members),
        "class_names": tuple(f"class {number}" for number in range(num_classes)),
        "rule": "mean",
        "top_k": 3,
        "precision": "mixed",
        "compiled": False,
        "device": "cpu",
        "batch_size": 20,
        "may_tune": False,
        "decode": "exact",
        "rows_per_part": 25,
        "keep": (),
        "num_threads": 2,
        "storage": StorageConfig(),
    }
    return LabelerConfig(**(settings | more))


def labeler(members, out, *, device_thread: bool, num_classes: int = 14, **more) -> Labeler:
    """A labeler, configured as above."""
    blobs = {member.spec.alias: member.blob for member in members}
    return Labeler(labeler_config(members, out, num_classes=num_classes, **more), blobs, device_thread=device_thread)
