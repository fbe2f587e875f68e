"""Settings from a file and from the caller, and the fingerprint."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline import label, plan
from pipeline.config.parse import parse_label_config
from pipeline.config.problems import on_command_line
from pipeline.config.settings import DEFAULT_MODELS, LabelConfig, fingerprint
from pipeline.errors import RequestError

OPTIONS = {"inputs": ["in"], "out": "out"}


def test_defaults_are_those_of_the_contract():
    config = parse_label_config(OPTIONS)
    assert config.model == DEFAULT_MODELS == ("resnet50", "resnext50_32x4d", "efficientnet_v2_s")
    assert (config.combine, config.top_k, config.device, config.precision) == ("mean", 5, "auto", "auto")
    assert (config.batch_size, config.decode, config.engine, config.workers) == ("auto", "exact", "auto", "auto")
    assert (config.keep, config.limit, config.max_bad_rate, config.overwrite) == ((), None, 0.5, False)
    assert [m.alias for m in config.members] == list(DEFAULT_MODELS)
    assert pickle.loads(pickle.dumps(config)) == config


def test_places_may_be_paths():
    config = parse_label_config(
        {"inputs": Path("in"), "out": Path("out"), "weights_dir": Path("w"), "labels": Path("l")}
    )
    assert (config.inputs, config.out, config.weights_dir, config.labels) == (("in",), "out", "w", "l")
    assert parse_label_config({"inputs": [Path("a"), "b"], "out": "o"}).inputs == ("a", "b")
    assert parse_label_config({"inputs": "a,b", "out": "o"}).inputs == ("a,b",)


def test_a_file_gives_options_and_the_caller_wins(tmp_path: Path):
    path = tmp_path / "job.yaml"
    path.write_text(
        "model: [resnet18, 'b:resnet34*2']\ntop-k: 3\nbatch_size: 16\nworkers: auto\ncompile: auto\n"
        "max-bad-rate: 0.25\nkeep: json,txt,json\nno-sign-request: true\ns3-endpoint: http://h:1\nout: elsewhere\n"
    )
    config = parse_label_config(
        {"inputs": ["in"], "out": "here", "top_k": 7, "model": ["resnet50,resnet101"]}, str(path)
    )
    assert (config.out, config.top_k, config.model) == ("here", 7, ("resnet50", "resnet101"))
    assert (config.batch_size, config.workers, config.compile, config.max_bad_rate) == (16, "auto", None, 0.25)
    assert config.keep == ("json", "txt")
    assert (config.storage.no_sign_request, config.storage.s3_endpoint) == (True, "http://h:1")
    assert parse_label_config({"inputs": "in"}, str(path)).out == "elsewhere"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"foo_bar": 1}, "unknown option 'foo-bar'"),
        ({"top_k": 0}, "--top-k: .*greater than or equal to 1, not 0"),
        ({"top_k": "many"}, "--top-k: .*integer.*, not 'many'"),
        ({"combine": "sum"}, "--combine: .*'mean', 'geometric' or 'vote', not 'sum'"),
        ({"batch_size": 0}, "--batch-size: 'auto' or a whole number above 0 is expected, not 0"),
        ({"batch_size": True}, "--batch-size: 'auto' or a whole number above 0 is expected, not True"),
        ({"workers": "few"}, "--workers: 'auto' or a whole number above 0 is expected, not 'few'"),
        ({"max_bad_rate": 1.5}, "--max-bad-rate: .*, not 1.5"),
        ({"max_bad_rate": float("nan")}, "--max-bad-rate: "),
        ({"limit": 0}, "--limit: .*, not 0"),
        ({"rows_per_part": -1}, "--rows-per-part: .*, not -1"),
        ({"keep": "json,label"}, "keep: label is already a column"),
        ({"model": 5}, "--model: .*, not 5"),
        ({"inputs": [5]}, "INPUT: .*, not 5"),
        ({"inputs": []}, "INPUT: missing"),
        ({"inputs": [""]}, "INPUT: missing"),
        ({"out": ""}, "--out: missing"),
    ],
)
def test_a_wrong_option_gets_one_clear_line(options: dict[str, object], line: str):
    with pytest.raises(RequestError, match=f"^{line}[^;]*$") as caught:
        parse_label_config({**OPTIONS, **options})
    assert "\n" not in str(caught.value)


def test_whole_numbers_may_come_as_text():
    assert parse_label_config({**OPTIONS, "batch_size": "32", "workers": 2}).batch_size == 32


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"top-k: [", "not YAML"),
        (b"overwrite: !!bool perhaps", "not YAML"),
        (b"out: !!timestamp soon", "not YAML"),
        (b"a: " + b"[" * 3000, "not YAML"),
        (b"- a\n- b\n", "expected a mapping"),
        (b"", "expected a mapping"),
        (b"out: caf\xe9\n", "not UTF-8"),
        (b"top-kk: 1\n", "unknown option 'top-kk'"),
    ],
)
def test_a_wrong_file_gets_one_clear_line(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=message) as caught:
        parse_label_config(OPTIONS, str(path))
    assert "\n" not in str(caught.value)
    with pytest.raises(RequestError, match=r"--config .*no\.yaml: No such file"):
        parse_label_config(OPTIONS, str(tmp_path / "no.yaml"))


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        LabelConfig(**OPTIONS).top_k = 3


def test_the_fingerprint_goes_by_content_not_by_order():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert len(fingerprint({})) == 64


@pytest.mark.parametrize(
    ("options", "python", "command"),
    [
        ({"batch_size": 0}, "batch_size: ", "--batch-size: "),
        ({"batch_siz": 1}, "unknown option 'batch_siz' (is 'batch_size' meant?)", "unknown option 'batch-siz' (is 'b"),
        ({"inputs": ""}, "inputs: missing", "INPUT: missing"),
    ],
)
def test_a_wrong_option_has_the_name_that_it_was_given_by(options: dict[str, Any], python: str, command: str):
    for call in (lambda: label(**{"inputs": "x", "out": "y", **options}), lambda: plan(**{"inputs": "x", **options})):
        with pytest.raises(RequestError, match="^" + re.escape(python)):
            call()
        with on_command_line(), pytest.raises(RequestError, match="^" + re.escape(command)):
            call()


def test_a_command_names_options_as_they_were_typed(shardlabel):
    for words in (("label", "x", "--out", "y"), ("plan", "x")):
        refused = shardlabel(*words, "--batch-size", 0)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "shardlabel: --batch-size: " in refused.stderr
