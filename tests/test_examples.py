"""The scripts beside the package run as their first lines say."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from conftest import REPOSITORY

FOREIGN = ("ray", "boto3", "botocore", "rich", "typer")
# the script as __main__, and what it imported in the end
RUN = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print("imported", *sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.mark.slow
def test_a_machine_is_measured_without_ray_or_the_network(tmp_path):
    script, found = REPOSITORY / "examples" / "measure_gpu.py", tmp_path / "rates.json"
    words = "--device cpu --members shufflenet_v2_x0_5,squeezenet1_1 --num-images 16 --num-tars 2 --minutes 0.05"
    words += " --batch-size 4 --threads 2 --precision fp32 --json"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN, str(script), *words.split(), str(found)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *table, imported = done.stdout.splitlines()
    assert not set(FOREIGN) & set(imported.split())
    rates = json.loads(found.read_text())
    assert list(rates["jobs"]) == ["ensemble", "shufflenet_v2_x0_5"]
    for title, job in rates["jobs"].items():
        assert any(line.startswith(f"job: {title}") for line in table)
        assert 0 < job["share"] < 3
        assert {stage["stage"] for stage in job["stages"]} >= {"decode", "resize", "forward", "ensemble", "job"}
        assert all(stage["images_per_s"] > 0 for stage in job["stages"])
    assert sum("job over limit" in line for line in table) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rates.json"]
