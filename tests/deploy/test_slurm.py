"""The Slurm script, with stand-ins for Slurm, Ray and shardlabel: what it starts, stops, queues again and returns."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, SAMPLE_DATA

SCRIPT = REPOSITORY / "deploy" / "slurm" / "shardlabel.sbatch"

# each writes its words to $CALLS; what it does besides is the shell that follows
STAND_INS = {
    "srun": 'while [ "$1" != ray ]; do shift; done; exec "$@"',
    "scontrol": 'if [ "$1" = show ]; then printf "node1\\nnode2\\n"; fi',
    # Ray's own: whatever becomes of its start, 0 comes back; the command's code is passed on
    "ray": 'if [ "$1" = symmetric-run ]; then [ -z "$RAY_FAILS" ] || exit 0; while [ "$1" != -- ]; do shift; done; '
    'shift; "$@"; fi',
    "shardlabel": """case $1 in
label)
    trap 'echo "label stopped" >> "$CALLS"; exit 130' TERM
    if [ -n "$LABEL_TAKES_LONG" ]; then echo "label at work" >> "$CALLS"; while :; do sleep 0.05; done; fi
    exit "$LABEL_CODE" ;;
verify) exit "$VERIFY_CODE" ;;
config) exit "$CHECK_CODE" ;;
esac""",
}


# in a namespace of its own, since Ray stops whatever Ray it sees: told to stop after two parts, then run again
TWICE = """
ip link set lo up
bash "$SCRIPT" job.yaml out > first 2>&1 &
job=$!
until [ "$(find out/predictions -name 'part-*' 2>/dev/null | wc -l)" -ge 2 ]; do kill -0 $job || exit 9; sleep 0.1; done
kill -TERM $job
wait $job && cat first && exec bash "$SCRIPT" job.yaml out
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on two machines that are not there."""
    folder = tmp_path / "venv" / "bin"
    folder.mkdir(parents=True)
    for name, does in STAND_INS.items():
        stand_in = folder / name
        stand_in.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >> "$CALLS"\n{does}\n')
        stand_in.chmod(stand_in.stat().st_mode | stat.S_IXUSR)
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "SHARDLABEL_VENV": str(tmp_path / "venv"),
        "CALLS": str(tmp_path / "calls"),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_ON_NODE": "64",
        "LABEL_CODE": "0",
        "VERIFY_CODE": "0",
        "CHECK_CODE": "0",
        "RAY_FAILS": "",
        "LABEL_TAKES_LONG": "",
    }


def calls(slurm: dict[str, str]) -> list[str]:
    path = Path(slurm["CALLS"])
    return path.read_text().splitlines() if path.exists() else []


def run(slurm: dict[str, str], **changes: str) -> int:
    words = ["bash", str(SCRIPT), "job.yaml", "s3://bucket/labels"]
    return subprocess.run(words, env=slurm | changes, check=False, timeout=60).returncode


def test_the_job_runs_on_all_machines_and_is_verified(slurm):
    assert run(slurm) == 0
    check, token, show, srun, ray, label, verify = calls(slurm)
    assert check == "shardlabel config check job.yaml"
    assert token == "ray get-auth-token --generate"
    assert show == "scontrol show hostnames node[1-2]"
    assert srun.startswith("srun --cpus-per-task=64 ")
    assert ray.startswith("ray symmetric-run --address node1:6379 --min-nodes 2 --object-store-memory=2000000000 -- ")
    assert label == "shardlabel label --config job.yaml --out s3://bucket/labels --ray-address auto"
    assert verify == "shardlabel verify s3://bucket/labels"
    assert not list(Path(slurm["TMPDIR"]).glob("tmp.*"))


@pytest.mark.parametrize("code", [1, 3, 4])
def test_the_code_of_the_job_is_passed_on(slurm, code):
    assert run(slurm, LABEL_CODE=str(code)) == code
    assert not [call for call in calls(slurm) if "verify" in call or "requeue" in call]


def test_a_ray_that_did_not_start_is_noticed(slurm):
    assert run(slurm, RAY_FAILS="yes", VERIFY_CODE="2") == 2
    assert calls(slurm)[-1] == "shardlabel verify s3://bucket/labels"
    assert not [call for call in calls(slurm) if call.startswith("shardlabel label")]


def test_a_wrong_file_takes_no_machines(slurm):
    assert run(slurm, CHECK_CODE="2") == 2
    assert calls(slurm) == ["shardlabel config check job.yaml"]


def test_before_its_time_is_up_it_stops_and_queues_itself_again(slurm):
    words = ["bash", str(SCRIPT), "job.yaml", "OUT"]
    process = subprocess.Popen(words, env=slurm | {"LABEL_TAKES_LONG": "yes"}, stdout=-1, text=True)
    while "label at work" not in calls(slurm):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)  # to the batch shell alone, as --signal=B: says
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "queued again" in said
    assert calls(slurm)[-2:] == ["label stopped", "scontrol requeue 7"]


def test_both_words_are_asked_for(slurm):
    done = subprocess.run(["bash", str(SCRIPT), "job.yaml"], env=slurm, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "usage: sbatch" in done.stderr
    assert calls(slurm) == []


def test_slurm_is_told_what_resuming_needs():
    options = re.findall(r"^#SBATCH (--\S+)$", SCRIPT.read_text(), re.MULTILINE)
    assert {"--requeue", "--open-mode=append", "--exclusive", "--ntasks-per-node=1"} <= set(options)
    (notice,) = [int(option.removeprefix("--signal=B:TERM@")) for option in options if "--signal" in option]
    (within,) = map(int, re.findall(r"^stop_within_s=(\d+)", SCRIPT.read_text(), re.MULTILINE))
    assert within < notice
    # a command before an option would end the options
    head = SCRIPT.read_text().partition("set -uo pipefail")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert "#SBATCH" not in SCRIPT.read_text().partition("set -uo pipefail")[2]


@pytest.mark.slow
def test_with_the_real_ray_it_stops_and_goes_on_where_it_stopped(slurm, tmp_path: Path):
    if shutil.which("unshare") is None or shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("only root can keep Ray's `ray stop` from other jobs of this machine (unshare, ip)")
    for name in ("ray", "shardlabel", "python"):
        (tmp_path / "venv" / "bin" / name).unlink(missing_ok=True)
        (tmp_path / "venv" / "bin" / name).symlink_to(Path(sys.executable).parent / name)
    scontrol = tmp_path / "venv" / "bin" / "scontrol"
    scontrol.write_text(scontrol.read_text().replace('printf "node1\\nnode2\\n"', "echo 127.0.0.1"))
    (tmp_path / "job.yaml").write_text(
        f"inputs: {SAMPLE_DATA}\nmodel: squeezenet1_1\nweights-dir: {SAMPLE_DATA / 'weights'}\n"
        f"labels: {SAMPLE_DATA / 'classes.txt'}\ndevice: cpu\nprecision: fp32\nrows-per-part: 10\n"
    )
    job = f"test{os.getpid()}"
    done = subprocess.run(
        ["unshare", "--net", "--pid", "--fork", "--mount-proc", "bash", "-c", TWICE],
        cwd=tmp_path,
        env=slurm
        | {"SCRIPT": str(SCRIPT), "PYTHONPATH": str(REPOSITORY), "SLURM_JOB_NUM_NODES": "1"}
        | {"SLURM_JOB_ID": job},
        capture_output=True,
        text=True,
        check=False,
    )
    shutil.rmtree(f"/tmp/ray-{job}", ignore_errors=True)
    assert done.returncode == 0, done.stdout + done.stderr
    first, again, second = done.stdout.partition("queued again, to go on from here")
    assert again, done.stdout
    assert "return code 130" in first
    assert "accounted for exactly once" not in first
    (left,) = map(int, re.findall(r"^ +images +(\d+) in ", second, re.MULTILINE))
    assert 0 < left <= 225  # two parts at least were there already
    assert "accounted for exactly once" in second
    assert f"scontrol requeue {job}" in calls(slurm)
