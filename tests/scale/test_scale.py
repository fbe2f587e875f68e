"""A million units: what planning, deciding what is left and driving them cost where nothing is computed.

The subject is the driver, so the shards are a listing held in memory and the labeler computes nothing; all the
rest is the job as ``label`` runs it. By hand, one step at a time::

    python tests/scale/test_scale.py run 1000000 0.5 /tmp/out    # with half of the units done already
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import pipeline.hosts.worker
import pipeline.job.request
import pipeline.job.totals
from pipeline import label
from pipeline.inputs.find import find_inputs
from pipeline.inputs.plan import Plan
from pipeline.inputs.units import read_units
from pipeline.output.ledger import JOB, PREDICTIONS, Ledger
from pipeline.output.parts import PartName
from pipeline.records import Omitted, Receipt, UnitKind
from pipeline.storage import Entry, Storage

SAMPLE_DATA = Path(__file__).parents[2] / "examples" / "data"
SHARD_BYTES, SHARD_SAMPLES = 1_000_000_000, 10_000


class ListedStorage(Storage):
    """Local storage, but for two folders that are listings in memory: the shards and what is published."""

    num_shards = 0
    published: list[str]

    def list(self, prefix: str, *_words, **_options) -> Iterator[Entry]:
        folder = Path(prefix).name
        if folder == "shards":
            for number in range(self.num_shards):
                yield Entry(f"{prefix}train-{number:07d}.tar", SHARD_BYTES, f"{number:032x}")
        elif folder == PREDICTIONS:
            for name in self.published:
                yield Entry(prefix + name, SHARD_BYTES, "")
        else:
            yield from super().list(prefix)


class IdleLabeler:
    """Says that a unit is labelled, and publishes the name of its part."""

    num_calls = 0

    def __init__(self, config, blobs, meter, num_units) -> None:
        self._fingerprint = config.fingerprint

    def __call__(self, item, stopping):
        IdleLabeler.num_calls += 1
        unit_id = item["unit"]["id"]
        name = str(PartName(self._fingerprint, unit_id, item["parts_done"], last=True))
        ListedStorage.published.append(name)
        counts = {"corrupt_image": 1}
        seconds = {"read": 1.0, "decode": 2.0, "classify": 3.0, "write": 0.1}
        done = Receipt(unit_id, SHARD_SAMPLES, SHARD_SAMPLES - 1, counts, num_bytes=SHARD_BYTES)
        done.parts, done.finished = {name: [9_999, 1]}, True
        done.stage_s, done.started_at, done.committed_at = seconds, time.time() - 1, time.time()
        yield json.loads(json.dumps(done.to_dict()))  # as from another process

    def close(self) -> None:
        pass


def owner(ledger: Ledger) -> str:
    """The fingerprint of the job that OUT belongs to, where there has been one."""
    return str((ledger.read_json(JOB) or {}).get("fingerprint", "0" * 64))


def listed(num_units: int, out: Path, share_done: float = 0.0) -> ListedStorage:
    """So many shards, and the parts of a share of those that OUT is planned with."""
    (out.parent / "shards").mkdir(parents=True, exist_ok=True)
    storage = ListedStorage()
    ListedStorage.num_shards, ListedStorage.published = num_units, []
    ledger = Ledger(str(out), storage)
    if share_done:
        fingerprint = owner(ledger)
        done = read_units(ledger, storage)[: int(num_units * share_done)]
        # in the order of a listing
        ListedStorage.published = sorted(str(PartName(fingerprint, unit.id, 0, last=True)) for unit in done)
    return storage


def run(num_units: int, share_done: float, out: Path):
    """The whole job with the labeler replaced; how many units it was called for, and the summary."""
    listed(num_units, out, share_done)
    IdleLabeler.num_calls = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.job.request, "Storage", lambda config: ListedStorage(config))
        patch.setattr(pipeline.hosts.worker, "make_labeler_worker", IdleLabeler)
        # of parts of earlier runs, for _SUCCESS: two requests each, to files that are only names here
        footer = SimpleNamespace(num_rows=SHARD_SAMPLES - 1, omitted=Omitted())
        patch.setattr(Ledger, "footers", lambda self, folder, names: dict.fromkeys(names, footer))
        patch.setattr(pipeline.job.totals, "count_part", lambda ledger, part, receipt: None)
        summary = label(
            str(out.parent / "shards"),
            out,
            model="shufflenet_v2_x0_5",
            weights_dir=str(SAMPLE_DATA / "weights"),
            labels=str(SAMPLE_DATA / "classes.txt"),
            engine="inline",
        )
    return IdleLabeler.num_calls, summary


def plan(num_units: int, share_done: float, out: Path):
    """List, plan and write the plan, on top of what is planned already."""
    storage = listed(num_units, out)
    planned = Plan(Ledger(str(out), storage), storage)
    planned.add(find_inputs([str(out.parent / "shards")], storage))
    planned.write()
    return len(planned.units), None


def left(num_units: int, share_done: float, out: Path):
    """Decide what is left, from names alone."""
    storage = listed(num_units, out, share_done)
    ledger = Ledger(str(out), storage)
    progress = ledger.progress(owner(ledger))
    return num_units - sum(found.complete for found in progress.values()), None


def test_only_what_is_left_is_run(tmp_path):
    out = tmp_path / "out"
    calls, summary = run(2_000, 0.0, out)
    assert (calls, summary.images, summary.units_done) == (2_000, 2_000 * SHARD_SAMPLES, 2_000)
    (out / "_SUCCESS").unlink()
    calls, summary = run(2_000, 0.5, out)
    assert (calls, summary.images, summary.units_done) == (1_000, 1_000 * SHARD_SAMPLES, 2_000)
    assert len(json.loads((out / "_SUCCESS").read_text())["predictions"]) == 2_000


def test_units_that_are_read_again_share_their_kind(tmp_path):
    storage = listed(100, tmp_path / "out")
    plan(100, 0.0, tmp_path / "out")
    units = read_units(Ledger(str(tmp_path / "out"), storage), storage)
    assert {id(unit.kind) for unit in units} == {id(UnitKind.TAR)}


@pytest.mark.slow
def test_memory_grows_with_the_units_and_no_faster(tmp_path):
    steps = [("plan", 0.0), ("plan", 1.0), ("left", 0.5), ("left", 1.0), ("run", 0.0), ("run", 0.5), ("run", 1.0)]
    peaks: dict[tuple[str, float], list[float]] = {}
    for num_units in (100_000, 1_000_000):
        out = tmp_path / str(num_units) / "out"
        for step, share_done in steps:
            words = [step, str(num_units), str(share_done), str(out)]
            child = subprocess.run(
                [sys.executable, __file__, *words], capture_output=True, text=True, check=True, timeout=1200
            )
            found = json.loads(child.stdout.splitlines()[-1])
            print(found)
            expected = num_units if step == "plan" else round(num_units * (1 - share_done))
            assert found["units"] == expected
            peaks.setdefault((step, share_done), []).append(found["peak_mb"])
    for (step, share_done), (at_100_000, at_a_million) in peaks.items():
        per_unit = (at_a_million - at_100_000) * 2**20 / 900_000
        print(f"{step} {share_done}: {per_unit:,.0f} bytes a unit")
        # a run keeps a receipt of every unit; what planning needs fits a small machine
        assert per_unit < (4_000 if step == "run" else 1_500)
        assert step == "run" or at_a_million < 2_000


def main(step: str, num_units: str, share_done: str, out: str) -> None:
    """One step, and what it took as a JSON line: seconds, seconds of CPU, peak memory."""
    begun, cpu = time.perf_counter(), time.process_time()
    units, _ = {"plan": plan, "left": left, "run": run}[step](int(num_units), float(share_done), Path(out))
    took = {
        "step": step,
        "of": int(num_units),
        "done": float(share_done),
        "units": units,
        "seconds": round(time.perf_counter() - begun, 2),
        "cpu_s": round(time.process_time() - cpu, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(took))


if __name__ == "__main__":
    main(*sys.argv[1:])
