"""The reference is that of the code, and leaves nothing out."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq
import typer
from command_lines import label_words
from conftest import REPOSITORY, make_tar, sample_members

from pipeline.cli import app
from pipeline.cli.reference import ENVIRONMENT, FILES, reference
from pipeline.columns import COLUMN_MEANINGS, QUARANTINE_SCHEMA, predictions_schema
from pipeline.output.parts import unreadable_name
from pipeline.records import REASON_MEANINGS, Reason

PUBLISHED = REPOSITORY / "pipeline" / "REFERENCE.md"


def commands(command, path=("shardlabel",)):
    """Every command, with the words that call it."""
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*path, name))


def test_the_published_reference_is_that_of_the_code():
    assert PUBLISHED.read_text() == reference(), "renew it: make reference"


def test_every_command_has_examples_of_itself_that_fit_a_terminal():
    for path, command in commands(typer.main.get_command(app)):
        if getattr(command, "commands", {}):
            continue
        shown = command.epilog.splitlines()
        assert shown[0] == "\b", path
        assert any(line.strip().startswith(" ".join(path).replace(" show", "")) for line in shown), path
        assert all(len(line) <= 78 for line in shown), path


def test_every_command_and_option_is_explained():
    page = PUBLISHED.read_text()
    for path, command in commands(typer.main.get_command(app)):
        assert f"\n### {' '.join(path)}\n" in page
        assert [parameter.name for parameter in command.params if len(parameter.help or "") < 5] == [], path


def test_whoever_may_name_a_store_may_say_who_pays():
    for path, command in commands(typer.main.get_command(app)):
        names = {name for parameter in command.params for name in parameter.opts}
        assert ("--s3-endpoint" in names) == ("--request-payer" in names) == ("--no-sign-request" in names), path


def test_every_column_and_reason_has_a_meaning():
    assert {*COLUMN_MEANINGS} == {*predictions_schema(["m"]).names, *QUARANTINE_SCHEMA.names}
    assert {*REASON_MEANINGS} == {*Reason}


def test_every_variable_that_is_read_or_set_is_listed():
    listed = {name for names in ENVIRONMENT for name in names.split(", ")}
    code = "\n".join(path.read_text() for path in (REPOSITORY / "pipeline").rglob("*.py"))
    named = re.findall(r'environ(?:\.\w+\(|\[)"(\w+)"|"(\w+)" (?:not )?in os\.environ|envvar="(\w+)"', code)
    assert {name for names in named for name in names if name} <= listed
    assert len(named) >= 5


def test_every_file_of_an_output_is_listed(tmp_path: Path, sample_data: Path, shardlabel):
    loose, out = tmp_path / "loose", tmp_path / "out"
    loose.mkdir()
    for name, data in sample_members(2)[::2]:
        (loose / name).write_bytes(data)
    tar = make_tar(tmp_path / "a.tar", [*sample_members(2), ("bad.jpg", b"no image")])
    assert shardlabel("label", tar, loose, "--out", out, "--keep-probs", *label_words(sample_data)).returncode == 0
    found = [str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()]
    found.append(f"quarantine/{unreadable_name('0123456789abcdef', 'fedcba9876543210')}")
    patterns = [
        re.escape(name)
        .replace("ALIAS", "[^/]+")
        .replace("JOB", r"[0-9a-f]{8}")
        .replace("UNIT", r"[0-9a-f]{16}")
        .replace("NUMBER", r"\d+")
        .replace(r"\[\-last\]", "(-last)?")
        for name in FILES
    ]
    assert [name for name in found if not any(re.fullmatch(pattern, name) for pattern in patterns)] == []
    assert sum(name.startswith("probabilities/") for name in found) == 2
    assert sum(name.startswith("quarantine/") for name in found) == 2
    (part,) = (out / "quarantine").iterdir()
    assert pq.read_schema(part).names == QUARANTINE_SCHEMA.names
