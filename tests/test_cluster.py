"""Several nodes, one of which goes away in the middle of the job."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from conftest import make_tar, sample_members
from test_job import options, rows

from pipeline import label, verify

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster():
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield nodes
    ray.shutdown()
    nodes.shutdown()


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
