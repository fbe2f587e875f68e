"""A job's YAML file checked as a whole: every problem with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.file_check import check_config_file
from pipeline.config.parse import parse_label_config
from pipeline.errors import RequestError


def test_every_problem_of_a_file_is_named_with_its_line(tmp_path: Path):
    path = tmp_path / "job.yaml"
    path.write_text(
        "top-kk: 3\ntop-k: 0\nmodel: [resnet18*, resnet34]\ntop_k: 4\ncombine: sum\nout: ''\nbatch-size: some\n"
    )
    checked = check_config_file(str(path))
    assert checked.config is None
    assert [line.removeprefix(f"{path}:") for line in checked.problems] == [
        "1: unknown option 'top-kk' (is 'top-k' meant?)",
        "3: --model: model 'resnet18*': the factor after * is not a number: ''",
        "4: --top-k: given twice",
        "5: --combine: Input should be 'mean', 'geometric' or 'vote', not 'sum'",
        "6: --out: missing",
        "7: --batch-size: 'auto' or a whole number above 0 is expected, not 'some'",
    ]
    with pytest.raises(RequestError) as raised:  # the command line's own options are not asked of the file
        parse_label_config({"inputs": ["in"], "out": "out", "batch_size": 4}, str(path))
    named = [problem.partition(".yaml:")[2] for problem in str(raised.value).split("; ")]
    assert [problem[:1] for problem in named] == ["1", "3", "4", "5"]
    assert named[0] == "1: unknown option 'top-kk' (is 'top-k' meant?)"


def test_problems_between_options_and_wrong_members_have_lines_too(tmp_path: Path):
    path = tmp_path / "job.yaml"
    path.write_text("out: o\nkeep: label\n")
    assert check_config_file(str(path)).problems == (f"{path}:2: keep: label is already a column of the predictions",)
    path.write_text("out: o\nmodel: [resnet18, resnet18]\n")
    (line,) = check_config_file(str(path)).problems
    assert line.startswith(f"{path}:2: --model: two members are called 'resnet18'")
    path.write_text("model: 5\n")
    assert len(check_config_file(str(path)).problems) == 1


def test_a_valid_file_gives_its_settings(tmp_path: Path):
    path = tmp_path / "job.yaml"
    path.write_text("model: resnet18,b:resnet34*2\ntop-k: 3\n")
    checked = check_config_file(str(path))
    assert (checked.problems, tuple(checked.values), checked.missing) == ((), ("model", "top_k"), ("inputs", "out"))
    assert checked.config is not None
    assert [member.alias for member in checked.config.members] == ["resnet18", "b"]


def test_an_invalid_date_is_a_wrong_file(tmp_path: Path):
    path = tmp_path / "job.yaml"
    path.write_text("limit: 2026-13-45\n")
    with pytest.raises(RequestError, match="not YAML"):
        check_config_file(str(path))
