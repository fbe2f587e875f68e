"""The command line as a person, a script and a scheduler use it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_lines import label_words
from conftest import make_tar, sample_members

MEMBER = {"alias": "m", "arch": "resnet18", "factor": 1.0, "weights_sha256": "0"}
JOB = {"fingerprint": "0", "results": {"members": [MEMBER], "combine": "mean", "top_k": 1}, "class_names": ["a"]}
COMMANDS = ("label", "plan", "bench", "status", "verify", "evaluate", "calibrate", "export", "demo", "config")


# the command line, and which slow ones it has imported in the end
def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "pipeline", *words]


def run(*words: str, cwd: Path, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), cwd=cwd, capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, shardlabel):
    result = shardlabel(name, "--help")
    assert result.returncode == 0
    assert "Usage: " in result.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["label", "x.tar"], "--out: missing"),
        (["label", "--out", "o"], "INPUT: missing"),
        (["label", "x.tar", "--out", "o", "--engine", "spark"], "'--engine'"),
        (["label", "x.tar", "--out", "o"], r"shardlabel: INPUT .*x\.tar: no such file"),
        (["label", "x.tar", "--out", "o", "--batch-size", "many"], "--batch-size"),
        (["status", "nowhere"], "not an output of shardlabel"),
        (["verify", "gs://bucket/out"], "unknown scheme"),
        (["frobnicate"], "No such command"),
    ],
)
def test_a_wrong_request_is_one_clear_line_and_exit_2(words, says, tmp_path, shardlabel):
    result = shardlabel(*words, cwd=tmp_path)
    assert result.returncode == 2
    assert re.search(says, result.stderr)
    assert "Traceback" not in result.stderr
    assert os.listdir(tmp_path) == []


def test_a_stdout_without_room_is_one_line_and_exit_1(tmp_path):
    with open("/dev/full", "w") as full:
        result = subprocess.run(command("config", "schema"), cwd=tmp_path, stdout=full, stderr=-1, text=True)
    assert result.returncode == 1
    assert result.stderr == "shardlabel: what it prints cannot be written: No space left on device\n"


def test_a_whole_session(sample_data, tmp_path, shardlabel):
    make_tar(tmp_path / "a.tar", [*sample_members(6), ("bad.jpg", b"nothing"), ("bad.cls", b"1")])
    words = label_words(sample_data)
    first = shardlabel("label", "a.tar", "--out", "out", *words, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "labelled     6" in first.stdout
    assert "1 not_an_image" in first.stdout
    assert f"{tmp_path}/out/predictions/*.parquet" in first.stdout
    again = shardlabel("label", "a.tar", "--out", "out", *words, cwd=tmp_path)
    assert "nothing left to do" in again.stdout
    assert "1 of 1 done (finished)" in shardlabel("status", "out", cwd=tmp_path).stdout
    assert "accounted for exactly once" in shardlabel("verify", "out", cwd=tmp_path).stdout
    assert "consensus (mean)" in shardlabel("evaluate", "out", cwd=tmp_path).stdout
    found = json.loads(shardlabel("status", "out", "--json", cwd=tmp_path).stdout)
    assert found["quarantined"] == {"not_an_image": 1}
    next((tmp_path / "out/predictions").iterdir()).unlink()
    wrong = shardlabel("verify", "out", cwd=tmp_path)
    assert wrong.returncode == 1
    assert "DISCREPANCY" in wrong.stdout


def test_progress_as_json_lines_ends_in_the_summary(sample_data, tmp_path, shardlabel):
    make_tar(tmp_path / "a.tar", sample_members(5))
    words = ["label", "a.tar", "--out", "out", "--progress", "json", *label_words(sample_data)]
    result = shardlabel(*words, cwd=tmp_path)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["event"] for line in lines].count("summary") == 1
    summary = lines[-1]
    assert {"images", "labelled", "quarantined", "seconds", "images_per_s", "parts", "failed_units"} <= set(summary)
    assert (summary["images"], summary["labelled"], summary["quarantined"]) == (5, 5, 0)
    assert (summary["parts"], summary["failed_units"]) == (1, 0)
    assert summary["images_per_s"] == pytest.approx(5 / summary["seconds"], rel=0.05)


def test_options_come_from_a_file_and_the_command_line_wins(sample_data, tmp_path, shardlabel):
    make_tar(tmp_path / "a.tar", sample_members(3))
    config = f"""
        model: [shufflenet_v2_x0_5]
        weights-dir: {sample_data / "weights"}
        labels: {sample_data / "classes.txt"}
        engine: inline
        top_k: 3
        inputs: [a.tar]
        out: out
    """
    (tmp_path / "job.yaml").write_text(config)
    result = shardlabel("label", "--config", "job.yaml", "--top-k", "2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "out/job.json").read_text())["results"]["top_k"] == 2


def test_a_missing_shard_of_a_range_ends_in_exit_4(sample_data, tmp_path, shardlabel):
    make_tar(tmp_path / "s-0.tar", sample_members(2))
    result = shardlabel("label", "s-{0..1}.tar", "-o", "out", *label_words(sample_data), cwd=tmp_path)
    assert result.returncode == 4
    assert "s-1.tar" in result.stderr
    assert "run the same command to try them again" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_keeps_what_is_done_and_says_how_to_go_on(sample_data, tmp_path, number, shardlabel):
    make_tar(tmp_path / "a.tar", sample_members(200))
    words = ["label", "a.tar", "-o", "out", "--rows-per-part", "20", *label_words(sample_data)]
    process = subprocess.Popen(command(*words), cwd=tmp_path, stdout=-1, stderr=-1, text=True)
    while process.poll() is None and len(list(tmp_path.glob("out/predictions/*"))) < 2:
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == 130
    assert said.strip().splitlines()[-1] == "shardlabel: stopped; run the same command again to go on from here"
    assert not list(tmp_path.glob("out/*/.tmp*"))
    assert shardlabel(*words, cwd=tmp_path).returncode == 0
    assert shardlabel("verify", "out", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_every_command_at_once(tmp_path, number):
    """Held up before any work begins: it reads a pipe that nobody writes to."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/job.json").write_text(json.dumps(JOB))
    os.mkfifo(tmp_path / "plan.json")
    words = command("status", "out", "--plan", "plan.json")
    process = subprocess.Popen(words, cwd=tmp_path, stdout=-1, stderr=-1, text=True)
    writing = None
    while writing is None and process.poll() is None:
        with contextlib.suppress(OSError):  # nobody reads it yet
            writing = os.open(tmp_path / "plan.json", os.O_WRONLY | os.O_NONBLOCK)
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    os.close(writing)
    assert process.returncode == 130
    assert "Traceback" not in said


def unread(*words: str, cwd: Path, **options) -> int:
    """The exit code of a command whose output nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return subprocess.run(
            command(*words), cwd=cwd, stdout=writing, stderr=writing, check=False, **options
        ).returncode
    finally:
        os.close(writing)


def test_who_reads_the_output_decides_neither_what_is_done_nor_the_exit_code(sample_data, tmp_path, shardlabel):
    make_tar(tmp_path / "a.tar", sample_members(2))
    assert unread("label", "a.tar", "-o", "out", "--progress", "json", *label_words(sample_data), cwd=tmp_path) == 0
    assert shardlabel("verify", "out", cwd=tmp_path).returncode == 0
    next((tmp_path / "out/predictions").iterdir()).unlink()
    assert unread("verify", "out", cwd=tmp_path) == 1
    assert unread("--help", cwd=tmp_path, env={**os.environ, "PYTHONUNBUFFERED": "1"}) == 0
    assert unread("frobnicate", cwd=tmp_path) == 2


def test_standard_output_may_be_closed(tmp_path):
    words = ["sh", "-c", 'exec "$@" >&-', "sh", *command("--version")]
    assert subprocess.run(words, cwd=tmp_path, capture_output=True, text=True).stderr == ""


@pytest.mark.slow  # CI runs the demo itself
def test_the_demo_runs_on_ray_and_says_what_it_did(tmp_path):
    result = run("demo", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for words in ("245 in", "consensus (mean)", "1 truncated_image", "duckdb", "predictions/*.parquet"):
        assert words in result.stdout
    line = next(line for line in result.stdout.splitlines() if "duckdb.sql" in line)
    table = subprocess.run(line.strip(), shell=True, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "retina" in table


@pytest.mark.parametrize(
    ("command_line", "code"),
    [
        ("raise KeyboardInterrupt", 130),  # while it is imported
        ("def main():\n    raise KeyboardInterrupt", 130),
        # as dataclasses do while torch is imported: Python once ended by the signal, although it was caught
        ("try:\n    exec('raise KeyboardInterrupt')\nexcept BaseException:\n    main = lambda: exit(130)", 130),
        ("import atexit, os\ndef main():\n    atexit.register(os.kill, os.getpid(), 2)\n    exit(4)", 4),  # at the end
    ],
)
def test_ctrl_c_is_exit_130_from_the_first_import_and_changes_nothing_at_the_end(tmp_path, command_line, code):
    (tmp_path / "command_line.py").write_text(command_line)
    script = (
        "import builtins\n"
        "real = builtins.__import__\n"
        "builtins.__import__ = lambda name, *rest: real(name.replace('pipeline.cli', 'command_line'), *rest)\n"
        "from pipeline.__main__ import main\n"
        "main()\n"
    )
    (tmp_path / "run.py").write_text(script)
    done = subprocess.run([sys.executable, "run.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
