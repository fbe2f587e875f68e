"""Several nodes on one machine: all take part, and one may go away in the middle of the job."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from conftest import make_tar, sample_members
from small_jobs import options, rows

from pipeline import label, verify
from pipeline.engines.on_ray import RayEngine
from pipeline.engines.workload import Workload

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch):
    # what runs on a node is imported there, this file among it
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]))
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield nodes
    ray.shutdown()
    nodes.shutdown()


class Sleeper:
    """Takes its time over an item and no CPU; says on which node it is."""

    def __init__(self, wait_s: float, blobs, num_threads: int, meter) -> None:
        import ray

        self._wait_s = wait_s
        self._node = ray.get_runtime_context().get_node_id()

    def __call__(self, item, stopping):
        begun = time.time()
        time.sleep(self._wait_s)
        yield {"number": item["number"], "node": self._node, "pid": os.getpid(), "begun": begun, "ended": time.time()}

    def close(self) -> None:
        pass


@pytest.mark.parametrize("num_nodes", [1, 2, 4])
def test_work_spreads_over_all_nodes(cluster, num_nodes: int):
    for _ in range(num_nodes - 1):
        cluster.add_node(num_cpus=1)
    num_items = 60 * num_nodes
    items = [{"number": number} for number in range(num_items)]
    work = Workload(partial(Sleeper, 0.5), {}, items, items_at_once=1, on_gpu=False, num_workers=None, num_threads=None)
    engine = RayEngine(cluster.address)
    engine.start()
    try:
        found = [item for item in engine.run(work, threading.Event()) if item is not None]
    finally:
        engine.close()
    assert sorted(item["number"] for item in found) == list(range(num_items))
    shares = Counter(item["node"] for item in found)
    assert len(shares) == num_nodes
    assert len({item["pid"] for item in found}) == num_nodes  # one labeler a node
    # no node is left out; one that starts late, on a machine that is busy, gets less
    assert min(shares.values()) >= 10
    # the rate while all nodes are at work, which leaves out how long each takes to start
    all_there = max(min(item["begun"] for item in found if item["node"] == node) for node in shares)
    first_gone = min(max(item["ended"] for item in found if item["node"] == node) for node in shares)
    together = [item for item in found if item["begun"] >= all_there and item["ended"] <= first_gone]
    rate = len(together) / max(1e-9, first_gone - all_there)
    print(f"{num_nodes} nodes: {rate:.2f} items/s, at most {2 * num_nodes}; shares {sorted(shares.values())}")


def test_a_lost_node_costs_no_row(cluster, sample_data: Path, tmp_path: Path):
    second = cluster.add_node(num_cpus=1)
    shards = [str(make_tar(tmp_path / f"{n}.tar", sample_members(40, start=40 * n))) for n in range(6)]
    out = tmp_path / "out"

    def lose_the_second_node() -> None:
        while len(list(out.glob("predictions/*.parquet"))) < 2:
            time.sleep(0.05)
        cluster.remove_node(second, allow_graceful=False)

    saboteur = threading.Thread(target=lose_the_second_node)
    saboteur.start()
    summary = label(shards, out, **options(sample_data, engine="ray", ray_address=cluster.address, rows_per_part=20))
    saboteur.join()
    assert summary.exit_code == 0
    assert len(rows(out)) == 240
    assert verify(out).discrepancies == ()
