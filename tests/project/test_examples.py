"""The scripts beside the package run as their first lines say."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import tarfile
from collections import Counter

import pyarrow.parquet as pq
import pytest
import torch
from conftest import REPOSITORY

EXAMPLES = REPOSITORY / "examples"
FOREIGN = ("ray", "boto3", "botocore", "duckdb", "typer")


def test_a_gpu_machine_is_checked_and_measured_without_ray_or_the_network(tmp_path):
    """Some of the steps, in the process that runs them; none of the packages that such a machine may lack is there."""
    script, found, lacking = REPOSITORY / "examples" / "measure_gpu.py", tmp_path / "rates.json", tmp_path / "lacking"
    lacking.mkdir()
    for name in FOREIGN:
        (lacking / f"{name}.py").write_text(f"raise ImportError('there is no {name} here')")
    words = "--device cpu --seconds 60 --steps tf32,job-one --members shufflenet_v2_x0_5 --json"
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), *words.split(), str(found)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(lacking), "PYTHONWARNINGS": "error"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    steps = json.loads(found.read_text())["steps"]
    assert {name: step["state"] for name, step in steps.items()} == {"tf32": "done", "job-one": "done"}
    assert steps["tf32"]["found"]["convolution"]["found"] == 576.140625  # float32 holds it, TF32 would make it 576
    rates = steps["job-one"]["found"]
    assert {"decode exact", "forward shufflenet_v2_x0_5 fp32", "ensemble", "limit", "job"} <= set(rates)
    assert 0 < rates["job images/s"] < 3 * rates["limit of the job"]["images/s"]
    assert done.stdout.splitlines()[-1].startswith("job with the first member over decoding on all cores (target 0.9)")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lacking", "rates.json"]


MODULES = ("process", "record", "run", "table")
# Takes the place of the process that runs steps; the number tells how many of these were started.
WORKER = """
import json, os, pathlib, sys, time
started = pathlib.Path(json.loads(sys.argv[1])["scratch"], "started")
started.open("a").write(".")
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    step = json.loads(line)["step"]
    print(json.dumps({"name": "process", "value": started.stat().st_size}), flush=True)
    if step == "dies":
        os.kill(os.getpid(), 9)
    if step == "hangs":
        time.sleep(60)
    if step == "wrong":
        print(json.dumps({"name": "rows", "value": {}, "right": False}), flush=True)
    print(json.dumps({"ended": "failed" if step == "fails" else "done", "reason": step}), flush=True)
"""


def test_a_step_that_fails_dies_or_hangs_costs_no_other(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES)
    process, record, run, table = map(importlib.import_module, [f"gpu_steps.{name}" for name in MODULES])
    (tmp_path / "worker.py").write_text(WORKER)
    monkeypatch.setattr(process, "_WORKER", tmp_path / "worker.py")
    monkeypatch.setattr(run, "_GRACE_S", 0.3)
    ends = ("well", "fails", "wrong", "dies", "hangs", "well")
    steps = [table.Step(f"{number} {end}", "", end, 0.01) for number, end in enumerate(ends)]
    steps += [table.Step("apart", "", "well", 0.01, apart=True), table.Step("too long", "", "well", 10_000)]
    kept = record.Record(tmp_path / "found.json", {})
    run.Run(kept, {"scratch": str(tmp_path)}, 60).run(steps)
    found = json.loads((tmp_path / "found.json").read_text())["steps"]
    assert {name: (step["state"], step["found"].get("process")) for name, step in found.items()} == {
        "0 well": ("done", 1),
        "1 fails": ("failed", 1),
        "2 wrong": ("wrong", 2),  # a step that failed leaves its process to no other
        "3 dies": ("stopped", 2),
        "4 hangs": ("stopped", 3),
        "5 well": ("done", 4),
        "apart": ("done", 5),
        "too long": ("skipped", None),
    }
    assert found["3 dies"]["reason"] == "its process ended with SIGKILL"
    assert found["4 hangs"]["reason"] == "its time is over"
    assert "WRONG: rows" in capsys.readouterr().err
    assert not kept.is_good


def test_a_run_ends_with_two_ratios(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    summary = importlib.import_module("gpu_steps.summary")
    steps = {
        "decoding": {"found": {"decoding images/s": 4000.0}},
        "job": {"found": {"job images/s": 1900.0, "device images/s": 2000.0}},
        "job-one": {"found": {}},
    }
    assert list(summary.summarise(steps)["ratios"].values()) == [0.95, None]
    steps["job-one"]["found"]["job images/s"] = 1000.0
    assert list(summary.summarise(steps)["ratios"].values()) == [0.95, 0.25]
    assert list(summary.summarise({})["ratios"].values()) == [None, None]


# -- model code for users: each runs as its docstring says, in a folder of its own ------------------------

README_ROW = re.compile(r"^\| \[(\S+\.py)\]\(\1\) \| (.+) \| `(.+)` \|$", re.MULTILINE)
OTHER_SCRIPTS = {
    *("back_off_rates.py", "host_ceiling.py", "make_sample_data.py", "measure_gpu.py", "promise_rates.py"),
    *("make_wordnet.py", "published_accuracy.py", "train_sample_models.py"),
}


def line_of(script: str) -> str:
    """The line that the docstring says to run."""
    document = ast.get_docstring(ast.parse((EXAMPLES / script).read_text()))
    return next(line.strip() for line in document.splitlines() if line.startswith("    python "))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a user sits: empty at first."""
    return tmp_path_factory.mktemp("user")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # beside other tests, two wait for each other
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def example(folder, monkeypatch, capsys):
    """Run an example by the line in its docstring, or with other words; what it prints."""

    def run(script: str, *words: str) -> str:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", [script, *(words or shlex.split(line_of(script))[2:])])
        capsys.readouterr()
        code = None
        try:
            with torch.random.fork_rng():
                runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        except SystemExit as left:
            code = left.code
        said = capsys.readouterr()
        assert (code or 0, said.err) == (0, ""), said
        return said.out

    return run


@pytest.fixture
def labels(example, folder):
    """What the first example leaves, for those that read it."""
    if not (folder / "labels" / "_SUCCESS").exists():
        example("label_folder.py")
    return folder / "labels"


def test_every_example_is_in_the_table_with_its_own_line():
    scripts = {path.name for path in EXAMPLES.glob("*.py")} - OTHER_SCRIPTS
    readme = (EXAMPLES / "README.md").read_text()
    rows = README_ROW.findall(readme)
    assert sorted(name for name, _, _ in rows) == sorted(scripts)
    assert {name: line for name, _, line in rows} == {name: line_of(name) for name in scripts}
    assert all((EXAMPLES / name).stat().st_size < 6_500 for name in scripts)  # a screen or so each
    assert all(f"`{name}`" in readme for name in OTHER_SCRIPTS)


def test_the_host_side_of_a_labeler_is_measured(example):
    words = "--threads 2 --decode-ms 2 --resize-ms 1 --num-images 64 --seconds 0.1 --kilobytes 2"
    found = json.loads(example("host_ceiling.py", *words.split(), "--json"))
    assert found["possible_per_s"] == pytest.approx(2 / 0.003)
    assert found["share"] == pytest.approx(found["images_per_s"] / found["possible_per_s"])
    assert 0 < found["share"] < 1  # each image sleeps
    assert found["cpu_us_per_image"] > 0
    assert found["images"] >= 32  # a tar at least
    assert "possible   667 images/s, if only the sleeps took time" in example("host_ceiling.py", *words.split())


@pytest.mark.parametrize("script", ["host_ceiling.py", "measure_gpu.py"])
@pytest.mark.parametrize(
    ("words", "says"), [("--threads 0", "0 is not above 0"), ("--images nowhere", "INPUT .*nowhere")]
)
def test_wrong_words_for_a_measurement_are_one_line(script, words, says, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [script, *words.split()])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    assert re.search(says, f"{left.value.code}{capsys.readouterr().err}")


def test_a_folder_is_labelled_and_then_nothing_is_left_to_do(example, labels):
    again = example("label_folder.py")
    assert again.startswith("0 images in this run")
    assert again.count("agreement") == 5
    assert len(pq.read_table(labels / "predictions")) == 80


def test_shards_on_s3_are_labelled_and_verified(example, s3, sample_data):
    bucket = s3.bucket()
    for number in range(2):
        name = f"shard-00{number}.tar"
        s3.put(bucket, name, (sample_data / name).read_bytes())
    out = f"s3://{bucket}/labels"
    words = ["--out", out, "--s3-endpoint", s3.endpoint, "--engine", "inline", "--models", "shufflenet_v2_x0_5"]
    words += ["--weights-dir", str(sample_data / "weights"), "--labels", str(sample_data / "classes.txt")]
    said = example("label_s3.py", f"s3://{bucket}/shard-{{000..001}}.tar", *words)
    assert said == ("2 of 2 shards, 164 images in this run\n164 samples in the shards = 161 labelled + 3 quarantined\n")
    listed = s3.client.list_objects_v2(Bucket=bucket, Prefix="labels/predictions/")
    assert listed["KeyCount"] == 6  # parts of 32 images, because it is a small job


def test_an_ensemble_says_who_says_what(example, folder):
    said = example("ensemble_of_papers.py")
    assert len(re.findall(r"^(shuffle|squeeze|mobile) and .* of 238 images$", said, re.MULTILINE)) == 3
    right = dict(re.findall(r"^  (shuffle|squeeze|mobile|consensus) +([\d.]+)%$", said, re.MULTILINE))
    assert len(right) == 4
    assert max(right, key=lambda name: float(right[name])) == "consensus"
    job = json.loads((folder / "papers" / "job.json").read_text())["results"]
    assert (job["combine"], [member["factor"] for member in job["members"]]) == ("geometric", [2.0, 1.0, 1.0])


def test_a_checkpoint_of_ones_own_labels_with_its_own_classes(example, folder):
    said = example("own_checkpoint.py")
    assert "Labelled 158 others" in said
    assert float(re.search(r"Right: ([\d.]+)%", said).group(1)) > 85  # the network it came from: 85.4 %
    assert (folder / "own.safetensors").stat().st_size > 1_000_000


def test_a_student_of_pseudo_labels_beats_the_weakest_member(example, folder, sample_data):
    said = example("pseudo_label.py")
    members = [float(share) for share in re.findall(r"^  member +\S+ +([\d.]+)%$", said, re.MULTILINE)]
    student = float(re.search(r"^  student +\S+ +([\d.]+)%", said, re.MULTILINE).group(1))
    assert len(members) == 3
    assert student > min(members)

    def keys(tars):
        return {name.rpartition(".")[0] for tar in tars for name in tarfile.open(tar).getnames()}

    exported = keys((folder / "pseudo" / "dataset" / "data").glob("*.tar"))
    assert len(exported) == int(re.search(r"Exported (\d+) of 161", said).group(1))
    assert not exported & keys([sample_data / "shard-002.tar"])


def test_a_killed_job_goes_on_and_is_proved(example):
    said = example("resume_and_verify.py")
    killed, rest = re.search(r"when (\d+) images were done; finished: False\n.*the other (\d+);", said).groups()
    assert int(killed) + int(rest) == 245
    assert int(killed) > 0
    assert said.endswith("Nothing is missing, doubled, foreign or altered.\n")


@pytest.mark.parametrize("library", ["duckdb", "polars", "pandas"])
def test_an_output_is_read_by(example, labels, library):
    rows = pq.read_table(labels / "predictions", columns=["class_name"])["class_name"].to_pylist()
    (name, count), *_ = sorted(Counter(rows).items(), key=lambda item: (-item[1], item[0]))
    said = example(f"query_{library}.py")
    assert re.search(rf"{name} .*\b{count}\b", said)
    assert ("squeezenet1_1" in said) == (library != "pandas")


def test_an_output_is_loaded_by_datasets(example, labels, folder, monkeypatch):
    import datasets

    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    said = example("load_datasets.py")
    assert said.startswith("80 predictions with the columns shard, key, ")
    assert re.search(r"^\d+ of 80 images are in dataset, of 14 classes$", said, re.MULTILINE)
    assert len(re.findall(r"^  \S+: \w+ 0\.\d\d, \d+ x \d+$", said, re.MULTILINE)) == 3


def test_the_tour_passes_all_stations(example):
    said = example("tour.py")
    for station in ("plan: 2 shards", "label: 161", "status: 164 images, finished: True", "verify: 0 discrepancies"):
        assert station in said
    assert "evaluate: consensus" in said
    assert re.search(r"calibrate: temperature \d", said)
    assert re.search(r"export: \d+ of 161 images", said)
