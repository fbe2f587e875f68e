"""A long job in miniature: memory stays flat, and threads, files and sockets are given back.

Measured in a process of its own, where nothing but the job lives. By hand::

    python tests/scale/test_soak.py shards/ out 50000
    python tests/scale/test_soak.py s3://bucket/shards/ s3://bucket/out 5000 http://127.0.0.1:9000
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY, SAMPLE_DATA, jpeg, make_tar

from pipeline.commands.label import run_label
from pipeline.config.parse import parse_label_config
from pipeline.job.progress import Silent

NUM_UNITS, UNIT_SAMPLES = 50, 1_000
S3_UNITS, S3_UNIT_SAMPLES, S3_LOOSE = 10, 250, 2_500
ROWS_PER_PART = 400
DISTINCT = 5  # tars; the others are the same ones under other names
BAD = (b"", b"no picture", jpeg(0)[:700], b"\x89PNG\r\n\x1a\nno more", b"GIF89a")  # all of them end up in quarantine
BAD_EVERY = 40
MAX_GROWTH_MB = 24  # in the second half: the allocator's ups and downs; one unit's images alone are 2 MB
FEW = 2  # descriptors and threads that may be about at one moment and not at another


# -- the job, and what is measured meanwhile -----------------------------------------------------------


def held() -> dict[str, int]:
    """What this process holds now: memory in MB, threads, descriptors by what they are of."""
    with open("/proc/self/statm") as statm:
        rss_mb = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
    targets: Counter[str] = Counter()
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:  # the one that lists them, or one closed since
            continue
        targets["sockets" if target.startswith("socket:") else "files"] += 1
    threads = threading.active_count()
    return {"rss_mb": rss_mb, "threads": threads, "files": targets["files"], "sockets": targets["sockets"]}


class Watch(Silent):
    """Notes what is held each time another twentieth of the samples is done."""

    def __init__(self, num_samples: int) -> None:
        self._every = max(1, num_samples // 20)
        self.moments: list[dict[str, int]] = []

    def update(self, snapshot) -> None:
        if snapshot.images >= self._every * (len(self.moments) + 1):
            self.moments.append({"images": snapshot.images, **held()})


def soak(inputs: str, out: str, num_samples: str, endpoint: str | None = None) -> None:
    """Label everything with one small network; what was held before, meanwhile and after, as a JSON line."""
    words = {
        "inputs": inputs,
        "out": out,
        "model": "shufflenet_v2_x0_5",
        "weights_dir": str(SAMPLE_DATA / "weights"),
        "labels": str(SAMPLE_DATA / "classes.txt"),
        "engine": "inline",
        "device": "cpu",
        "precision": "fp32",
        "rows_per_part": ROWS_PER_PART,
        "s3_endpoint": endpoint,
    }
    before, watch = held(), Watch(int(num_samples))
    summary = run_label(parse_label_config(words), watch)
    gc.collect()
    told = {"images": summary.images, "labelled": summary.labelled, "quarantined": summary.quarantined_by_reason}
    seconds = round(summary.seconds)
    print(json.dumps({"before": before, "moments": watch.moments, "after": held(), "seconds": seconds, **told}))


def soaked(*words: str) -> dict:
    command, environment = [sys.executable, __file__, *words], os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=3600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for moment in (found["before"], *found["moments"], found["after"]):
        print(moment)
    print({name: found[name] for name in ("images", "labelled", "quarantined", "seconds")})
    return found


def check(found: dict) -> None:
    """The second half holds what the first one held, and the end no more than the beginning."""
    moments = found["moments"]
    assert len(moments) >= 15
    half = len(moments) // 2
    early, late = moments[half // 2 : half], moments[half:]
    growth_mb = max(moment["rss_mb"] for moment in late) - max(moment["rss_mb"] for moment in early)
    assert growth_mb < MAX_GROWTH_MB
    for what in ("threads", "files", "sockets"):
        assert max(moment[what] for moment in late) <= max(moment[what] for moment in moments[:half]) + FEW
        assert found["after"][what] <= found["before"][what], f"{what} were not given back"


# -- inputs --------------------------------------------------------------------------------------------


def members(num_samples: int, seed: int) -> Iterator[tuple[str, bytes]]:
    for number in range(num_samples):
        bad = number % BAD_EVERY == 0
        yield f"{number:06d}.jpg", BAD[number // BAD_EVERY % len(BAD)] if bad else jpeg(seed * num_samples + number)
        yield f"{number:06d}.cls", str(number % 14).encode()


def make_shards(folder: Path, num_units: int, num_samples: int) -> Path:
    """So many shards, of which all but a few are hard links."""
    folder.mkdir()
    for number in range(num_units):
        path = folder / f"shard-{number:03d}.tar"
        if number < DISTINCT:
            make_tar(path, list(members(num_samples, seed=number)))
        else:
            os.link(folder / f"shard-{number % DISTINCT:03d}.tar", path)
    return folder


@pytest.mark.slow
def test_fifty_thousand_images(tmp_path):
    shards = make_shards(tmp_path / "shards", NUM_UNITS, UNIT_SAMPLES)
    found = soaked(str(shards), str(tmp_path / "out"), str(NUM_UNITS * UNIT_SAMPLES))
    assert found["images"] == NUM_UNITS * UNIT_SAMPLES
    assert sum(found["quarantined"].values()) == NUM_UNITS * UNIT_SAMPLES // BAD_EVERY
    assert len(found["quarantined"]) >= 3
    check(found)


@pytest.mark.slow
def test_five_thousand_images_on_s3(s3, tmp_path):
    """Shards and loose images; the server is in this process, what is measured in another."""
    bucket = s3.bucket()
    for path in sorted(make_shards(tmp_path / "shards", S3_UNITS, S3_UNIT_SAMPLES).iterdir()):
        s3.put(bucket, f"shards/{path.name}", path.read_bytes())
    for name, data in members(S3_LOOSE, seed=99):
        if name.endswith(".jpg"):
            s3.put(bucket, f"loose/{name}", data)
    num_samples = {"shards": S3_UNITS * S3_UNIT_SAMPLES, "loose": S3_LOOSE}
    for kind, number in num_samples.items():
        found = soaked(f"s3://{bucket}/{kind}/", f"s3://{bucket}/out-{kind}", str(number), s3.endpoint)
        assert found["images"] == number
        assert sum(found["quarantined"].values()) > 0
        check(found)


if __name__ == "__main__":
    soak(*sys.argv[1:])
