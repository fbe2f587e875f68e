"""A job's file: what `config` writes, checks and publishes, and every such file in the repository."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from conftest import REPOSITORY

from pipeline.cli import config as commands
from pipeline.cli.job_file import schema, template
from pipeline.config.file_check import check_config_file
from pipeline.config.parse import parse_label_config
from pipeline.config.settings import LabelConfig
from pipeline.errors import RequestError

PUBLISHED = REPOSITORY / "pipeline" / "label.schema.json"
# any YAML file that names members or inputs, whatever its name: a job's file that no test knows would go stale
JOB_FILES = sorted(
    path
    for folder in ("deploy", "examples")
    for path in (REPOSITORY / folder).rglob("*.yaml")
    if re.search(r"^(model|inputs):", path.read_text(), re.MULTILINE)
)


def validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(json.loads(schema()))
    return jsonschema.Draft202012Validator(json.loads(schema()))


def uncommented(text: str) -> str:
    """A template with all that is commented out put in force: the last line of each of its paragraphs."""
    paragraphs = text.strip().split("\n\n")[1:]
    return "\n".join(paragraph.splitlines()[-1].removeprefix("# ") for paragraph in paragraphs)


def test_the_published_schema_is_that_of_the_code():
    assert PUBLISHED.read_text() == schema(), "renew it: shardlabel config schema > pipeline/label.schema.json"


def test_the_schema_has_every_option_and_says_what_it_means():
    properties = json.loads(schema())["properties"]
    assert {name.replace("-", "_") for name in properties} == set(LabelConfig.model_fields)
    assert all("$ref" in entry or len(entry["description"]) > 10 for entry in properties.values())


def test_the_template_is_sound_and_is_the_defaults(tmp_path: Path):
    path = tmp_path / "job.yaml"
    path.write_text(template(str(path)))
    checked = check_config_file(str(path))
    assert checked.problems == ()
    assert tuple(checked.values) == ("inputs", "out")
    path.write_text(uncommented(template(str(path))))
    everything = yaml.safe_load(path.read_text())
    assert {name.replace("-", "_") for name in everything} == set(LabelConfig.model_fields)
    assert parse_label_config({}, str(path)) == checked.config
    validator().validate(everything)


@pytest.mark.parametrize(
    ("content", "good"),
    [
        ("{model: 'resnet18,resnet34', inputs: a.tar, keep: 'json,txt'}", True),
        ("{model: [resnet18], inputs: [a.tar], top_k: 3, batch-size: 8, max-failed-units: 0, compile: auto}", True),
        ("{weights-dir: null, rows-per-part: null, compile: true}", True),
        ("{batch-size: 0}", False),
        ("{workers: many}", False),
        ("{inputs: []}", False),
        ("{top_k: 0}", False),
        ("{combine: sum}", False),
        ("{max-bad-rate: 1.5}", False),
        ("{nothing: 1}", False),
    ],
)
def test_the_schema_and_the_check_agree(content: str, good: bool, tmp_path: Path):
    path = tmp_path / "job.yaml"
    path.write_text(content)
    assert validator().is_valid(yaml.safe_load(content)) is good
    assert (check_config_file(str(path)).problems == ()) is good


@pytest.mark.parametrize("path", JOB_FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_job_file_in_the_repository_is_sound(path: Path):
    assert check_config_file(str(path)).problems == ()
    validator().validate(yaml.safe_load(path.read_text()))


def test_init_writes_a_file_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "job.yaml"
    assert commands.init(str(path)) == 0
    assert path.read_text() == template(str(path))
    with pytest.raises(RequestError, match="is there already"):
        commands.init(str(path))
    with pytest.raises(RequestError, match="No such file"):
        commands.init(str(tmp_path / "none" / "job.yaml"))
    capsys.readouterr()
    assert commands.init("-") == 0
    assert capsys.readouterr().out == template("job.yaml")


def test_check_shows_the_options_or_the_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "job.yaml"
    path.write_text("model: 'b:resnet34=s3://key:secret@bucket/x.pth*2'\ninputs: a.tar\n")
    assert commands.check(str(path)) == 0
    said = capsys.readouterr().out
    assert "resnet34, checkpoint s3://***@bucket/x.pth, counts 2 times, called b" in said
    assert "--out, on the command line" in said
    path.write_text("combine: sum\ntop-k: 0\nout: s3://key:secret@b/\nmodel: 's3://key:secret@b'\n")
    assert commands.check(str(path)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 3
    assert "secret" not in said.err


def test_no_arguments_show_the_help():
    result = subprocess.run([sys.executable, "-m", "pipeline", "config"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "\n  check " in result.stderr
    assert "\\n" not in result.stderr
