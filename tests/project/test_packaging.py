"""What is shipped: the lock, the wheel, and the public surface."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY, SAMPLE_DATA

import pipeline


def test_the_lock_is_hashed_and_names_no_index():
    lock = (REPOSITORY / "requirements.lock").read_text()
    pins = re.findall(r"^([a-z0-9._-]+)==(\S+) \\$", lock, re.MULTILINE)
    assert len(pins) > 80
    assert lock.count("--hash=sha256:") >= len(pins)
    assert "://" not in lock
    assert "index" not in re.sub(r"^.*via.*$|^ +#.*$", "", lock, flags=re.MULTILINE)


def test_the_public_surface():
    assert pipeline.__all__ == [
        "annotate",
        "bench",
        "calibrate",
        "classes",
        "combine",
        "evaluate",
        "export",
        "gallery",
        "label",
        "plan",
        "relocate",
        "report",
        "review",
        "sample",
        "status",
        "verify",
    ]
    assert all(callable(getattr(pipeline, name)) for name in pipeline.__all__)
    with pytest.raises(AttributeError):
        _ = pipeline.nothing


def test_the_wheel_holds_the_package_and_its_sample_data(tmp_path: Path):
    build = "import hatchling.build, sys; print(hatchling.build.build_wheel(sys.argv[1]))"
    result = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    with zipfile.ZipFile(tmp_path / result.stdout.split()[-1]) as wheel:
        names = set(wheel.namelist())
        wheel.extractall(tmp_path / "site")
    assert {"pipeline/cli/__init__.py", "pipeline/py.typed", "pipeline/_sample_data/classes.txt"} <= names
    assert {"shardlabel/__init__.py", "shardlabel/py.typed"} <= names
    assert {"pipeline/page/page.html.j2", "pipeline/page/style.css"} <= names
    assert {f"pipeline/annotation_page/page.{kind}" for kind in ("html", "css", "js")} <= names
    assert {"pipeline/taxonomy/wordnet.tsv", "pipeline/taxonomy/LICENSE.wordnet"} <= names
    assert not [name for name in names if name.startswith(("tests/", "deploy/", "examples/"))]
    code = "import pipeline, pipeline.cli.demo_table as d; print(pipeline.__file__); print(d.sample_data())"
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "site", capture_output=True, text=True, check=True
    ).stdout
    assert said.split() == [
        str(tmp_path / "site/pipeline/__init__.py"),
        str(tmp_path / "site/pipeline/_sample_data"),
    ]


def test_the_sample_data_is_small():
    assert sum(path.stat().st_size for path in SAMPLE_DATA.rglob("*") if path.is_file()) < 10_000_000
