"""Outputs without a job: parts of predictions that somebody might have made, written as the writer does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.columns import predictions_schema
from pipeline.output.ledger import to_json
from pipeline.output.parts import METADATA_KEY, PartName
from pipeline.records import Cursor

MARK = "ab" * 32


def top_k(probs_NK: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores, best first."""
    labels = np.argsort(-probs_NK, axis=1, kind="stable")[:, :k].astype(np.int32)
    return labels, np.take_along_axis(probs_NK, labels, axis=1).astype(np.float32)


def write_output(
    out: Path,
    probs_MNK: np.ndarray,
    truth: Sequence[int | None],
    *,
    keys: Sequence[str] | None = None,
    shards: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    k: int = 5,
    rows_per_part: int = 40,
    columns: Mapping[str, Sequence] | None = None,
    **job,
) -> Path:
    """An output whose consensus is the mean of some members' probabilities (M, N, K), and other columns as given."""
    num_members, num_images, num_classes = probs_MNK.shape
    aliases = [f"m{number}" for number in range(num_members)]
    pool_NK = probs_MNK.mean(axis=0)
    own = [top_k(probs_NK, k) for probs_NK in probs_MNK]
    labels, scores = top_k(pool_NK, k)
    agreement = np.mean([each[0][:, 0] == labels[:, 0] for each in own], axis=0)
    names = list(names or [f"class {label}" for label in range(num_classes)])
    rows = [
        {
            "shard": shards[at] if shards else "/data/a.tar",
            "key": keys[at] if keys else f"{at:05d}",
            "index": at,
            "label": int(labels[at, 0]),
            "class_name": names[labels[at, 0]],
            "score": scores[at, 0],
            "labels": labels[at],
            "scores": scores[at],
            "agreement": agreement[at],
            "members": {
                alias: {"labels": each[0][at], "scores": each[1][at], "energy": 1.0}
                for alias, each in zip(aliases, own, strict=True)
            },
            "truth": truth[at],
            **{name: values[at] for name, values in (columns or {}).items()},
        }
        for at in range(num_images)
    ]
    (out / "predictions").mkdir(parents=True)
    schema = predictions_schema(aliases)
    for part, start in enumerate(range(0, num_images, rows_per_part)):
        end = min(start + rows_per_part, num_images)
        name = PartName(MARK, "0" * 16, part, last=False)
        footer = {"unit": name.unit_id, "fingerprint": MARK, "part": part, "last": False, "first_index": start}
        footer["next"] = Cursor(part + 1, end).to_dict()
        own_schema = schema.with_metadata({METADATA_KEY: json.dumps(footer)})
        table = pa.Table.from_pylist(rows[start:end], own_schema)
        pq.write_table(table, out / "predictions" / str(name))
    members = [
        {"alias": alias, "arch": "made_up", "factor": 1.0, "num_classes": num_classes, "weights_sha256": alias * 32}
        for alias in aliases
    ]
    results = {"members": members, "combine": "mean", "top_k": k}
    content = {"fingerprint": MARK, "results": results, "class_names": names, "calibrated": False}
    (out / "job.json").write_bytes(to_json(content | job))
    return out


def write_csv(path: Path, rows: Sequence[Sequence[object]], heading: str = "key,label") -> Path:
    """A truth file."""
    path.write_text("\n".join([heading, *(",".join(map(json.dumps, map(str, row))) for row in rows)]) + "\n")
    return path


def calibrated(
    num_images: int, num_classes: int, seed: int = 0, sharpness: float = 2.5
) -> tuple[np.ndarray, list[int]]:
    """Probabilities (N, K), and truths drawn from them: by construction perfectly calibrated."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num_images, num_classes)) * sharpness
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probs, (probs.cumsum(axis=1) > rng.random((num_images, 1))).argmax(axis=1).tolist()
