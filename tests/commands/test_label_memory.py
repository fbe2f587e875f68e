"""Jobs on machines with too little memory. Networks and runs are real; only the machine's figure is made small."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from conftest import make_tar, sample_members
from small_jobs import ALL, ONE, options, rows

from pipeline import cli, label, verify
from pipeline.config.parse import parse_label_config
from pipeline.engines.inline import InlineEngine
from pipeline.engines.on_ray import RayEngine
from pipeline.engines.workload import Share
from pipeline.errors import ModelError
from pipeline.labeler.labeler import Labeler
from pipeline.models.memory import WorkerMemory, estimate_memory
from pipeline.models.weights import resolve
from pipeline.storage import Storage

MB = 1 << 20


def shrink(monkeypatch, memory_bytes: int | None, num_cpus: int = 2, *, own_process: bool = False) -> None:
    share = Share(num_cpus, memory_bytes, own_process)
    engine = RayEngine if own_process else InlineEngine
    monkeypatch.setattr(engine, "share", lambda *_, **__: share)


def enough_for(sample_data: Path, batch_size: int, model: str = ALL, *, own_process: bool = False) -> int:
    words = {key: options(sample_data, model=model)[key] for key in ("model", "weights_dir")}
    config = parse_label_config({"inputs": "x", "out": "y", **words})
    members = [resolve(request, config.weights_dir, Storage()) for request in config.members]
    needed = estimate_memory(members, "fp32", WorkerMemory("cpu", 0, 2, own_process))
    return -(-needed.total_bytes(batch_size) * 10 // 9)


@pytest.fixture
def batch_sizes(monkeypatch) -> list[int | None]:
    """The batch sizes that labelers are made with."""
    seen: list[int | None] = []
    make = Labeler.__init__

    def noted(self, config, blobs, **options):
        seen.append(config.batch_size)
        make(self, config, blobs, **options)

    monkeypatch.setattr(Labeler, "__init__", noted)
    return seen


@pytest.fixture
def shard(tmp_path: Path) -> str:
    return str(make_tar(tmp_path / "a.tar", sample_members(10)))


def test_an_ensemble_that_does_not_fit_is_refused_and_nothing_is_written(sample_data, tmp_path, shard, monkeypatch):
    shrink(monkeypatch, 60 * MB)
    with pytest.raises(ModelError, match=r"mobilenet_v3_small \d+ MB, shufflenet_v2_x0_5 \d MB, squeezenet1_1 \d MB"):
        label(shard, tmp_path / "out", **options(sample_data, model=ALL))
    assert not (tmp_path / "out").exists()


def test_the_command_prints_one_line_and_exits_2(sample_data, tmp_path, shard, monkeypatch, capsys):
    shrink(monkeypatch, 60 * MB)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options(sample_data, model=ALL).items()]
    monkeypatch.setattr(sys, "argv", ["shardlabel", "label", shard, f"--out={tmp_path / 'out'}", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert [line for line in said if line.startswith("shardlabel:")] == said[-1:]
    assert "do not fit in memory" in said[-1]
    assert "57 MB (90% of the memory)" in said[-1]
    assert not (tmp_path / "out").exists()


def test_a_job_that_goes_on_is_refused_too_and_its_output_stays(sample_data, tmp_path, shard, monkeypatch):
    out = tmp_path / "out"
    label(shard, out, **options(sample_data, limit=4))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    shrink(monkeypatch, 60 * MB)
    with pytest.raises(ModelError):
        label(shard, out, **options(sample_data))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("asked", "fitting"), [("auto", 2), (16, 7)])
def test_a_smaller_batch_is_reported_and_gives_the_same_rows(
    sample_data, tmp_path, shard, monkeypatch, batch_sizes, capsys, asked, fitting
):
    plain, tight = tmp_path / "plain", tmp_path / "tight"
    summary = label(shard, plain, **options(sample_data, model=ALL, batch_size=asked, precision="fp32"))
    assert summary.notes == ()
    shrink(monkeypatch, enough_for(sample_data, fitting))
    summary = label(
        shard, tight, **options(sample_data, model=ALL, batch_size=asked, precision="fp32", progress="json")
    )
    assert batch_sizes == [None if asked == "auto" else asked, fitting]
    (note,) = summary.notes
    assert note.startswith(f"memory: {fitting} images in a forward pass instead of {4 if asked == 'auto' else asked}")
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["message"] for line in shown if line["event"] == "note"] == [note]
    assert shown[-1]["notes"] == [note]

    assert summary.labelled == 10
    assert rows(tight)["label"].to_pylist() == rows(plain)["label"].to_pylist()
    assert rows(tight)["score"].to_pylist() == pytest.approx(rows(plain)["score"].to_pylist(), abs=1e-4)
    ours, theirs = (json.loads((out / "job.json").read_text()) for out in (tight, plain))
    assert ours | {"runs": []} == theirs | {"runs": []}
    assert verify(tight).exit_code == 0
    monkeypatch.undo()
    assert label(shard, tight, **options(sample_data, model=ALL, precision="fp32")).images == 0


def test_unknown_memory_is_not_checked(sample_data, tmp_path, shard, monkeypatch, batch_sizes):
    shrink(monkeypatch, None)
    assert label(shard, tmp_path / "out", **options(sample_data, batch_size=9)).labelled == 10
    assert batch_sizes == [9]


def test_workers_of_ray_are_counted_as_processes_of_their_own(sample_data, tmp_path, shard, monkeypatch):
    shrink(monkeypatch, enough_for(sample_data, 1, ONE), own_process=True)
    with pytest.raises(ModelError, match=r"a worker needs [78]\d\d MB of"):
        label(shard, tmp_path / "out", **options(sample_data, engine="ray"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_on_a_cluster_the_smallest_machine_counts():
    import ray
    from ray.cluster_utils import Cluster

    store = 100 * MB
    nodes = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "memory": 2000 * MB, "object_store_memory": store, "include_dashboard": False},
    )
    # a GPU that Ray has been told of, on a machine where torch finds none that answers
    more = {"memory": 3000 * MB, "object_store_memory": store, "resources": {"accelerator_type:T": 1}}
    nodes.add_node(num_cpus=2, num_gpus=1, **more)
    engine = RayEngine(nodes.address)
    try:
        # two workers of one CPU share the second machine
        assert engine.share(on_gpu=False, num_workers=None) == Share(1, (3000 * MB + store) // 2, own_process=True)
        assert engine.share(on_gpu=False, num_workers=1) == Share(1, 2000 * MB + store, own_process=True)
        gpu = engine.share(on_gpu=True, num_workers=None)
        assert (gpu.num_cpus, gpu.own_process) == (2, True)
        assert (gpu.memory_bytes is None) == (not engine_sees_a_gpu_here())
    finally:
        engine.close()
        ray.shutdown()
        nodes.shutdown()


def engine_sees_a_gpu_here() -> bool:
    return InlineEngine().num_gpus() > 0
