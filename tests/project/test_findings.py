"""The scripts of findings/: their form and their list. They need a package index, so that none is run here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

FINDINGS = Path(__file__).parents[2] / "findings"
README = FINDINGS / "README.md"
SCRIPTS = sorted(FINDINGS.glob("*.sh"))
# What would tie a script to one index, or name one.
INDEX = re.compile(r"--(extra-)?index-url|--find-links|--trusted-host|(?<!\w)-[if] |PIP_|UV_|https?://(?!127\.0\.0\.1)")
REQUIREMENT = re.compile(r"'[\w.-]+(?:\[\w+\])?==[\w.]+'")


def test_each_script_has_its_row():
    rows = re.findall(r"^\| \[([\w-]+)\]\(([\w-]+\.sh)\) \|", README.read_text(), re.MULTILINE)
    assert len(SCRIPTS) >= 8
    assert sorted(rows) == [(script.stem, script.name) for script in SCRIPTS]


def test_links_of_the_list_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", README.read_text()):
        assert (FINDINGS / target).exists(), target


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_says_what_it_is_about(script: Path):
    text = script.read_text()
    comment = re.match(r"#!/usr/bin/env bash\n((?:#.*\n)+)set -euo pipefail\n", text)
    assert comment is not None
    for heading in ("Versions:", "Date: 20", "Seen:", "Upstream:", "Depends on it:"):
        assert heading in comment[1], heading
    (depends,) = re.findall(r"^# Depends on it: ((?:.*\n)+?)(?=set )", text, re.MULTILINE)
    files = re.findall(r"[\w/]+\.(?:py|md)", depends)
    assert files
    for file in files:
        assert (FINDINGS.parent / file).is_file(), file


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_pins_what_it_installs_and_names_no_index(script: Path):
    text = script.read_text()
    assert INDEX.search(text) is None
    (installed,) = re.findall(r"-m pip install --quiet ((?:.|\\\n)*?[^\\])\n", text)
    given = installed.replace("\\\n", " ").split()
    assert given
    assert all(REQUIREMENT.fullmatch(each) for each in given)
    versions = re.search(r"Versions: (.*)", text)
    assert versions is not None
    for each in given[:1]:
        assert re.split(r"==", each.strip("'"))[1] in versions[1]
    assert "shardlabel" not in text
    assert "import pipeline" not in text


def test_scripts_are_sound():
    for script in SCRIPTS:
        subprocess.run(["bash", "-n", str(script)], check=True)
    linter = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([str(linter), *map(str, SCRIPTS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
