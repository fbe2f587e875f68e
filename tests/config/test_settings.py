"""The words of a request: the grammar of members, and settings from a file and from the caller."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from pipeline.config.check import check_config_file
from pipeline.config.settings import (
    DEFAULT_MODELS,
    LabelConfig,
    MemberRequest,
    fingerprint,
    label_config,
    parse_members,
)
from pipeline.errors import InputError, ModelError, RequestError
from pipeline.labels import imagenet_names, names_for, parse_names

ASKED = {"inputs": ["in"], "out": "out"}


def member(alias: str, arch: str, weights: str | None = None, checkpoint: str | None = None, factor: float = 1.0):
    return MemberRequest(alias=alias, arch=arch, weights=weights, checkpoint=checkpoint, factor=factor)


@pytest.mark.parametrize(
    ("spec", "meant"),
    [
        ("resnet18", member("resnet18", "resnet18")),
        (" resnet18 ", member("resnet18", "resnet18")),
        ("timm/xception41.tf_in1k", member("xception41.tf_in1k", "timm/xception41.tf_in1k")),
        ("big-1:timm/xception41*2", member("big-1", "timm/xception41", factor=2.0)),
        ("resnet18*.5", member("resnet18", "resnet18", factor=0.5)),
        ("resnet50@IMAGENET1K_V2*1e-1", member("resnet50", "resnet50", "IMAGENET1K_V2", factor=0.1)),
        ("resnet18=/w/k.pth", member("resnet18", "resnet18", checkpoint="/w/k.pth")),
        ("a:resnet18@V1=s3://b/k.pth*3", member("a", "resnet18", "V1", "s3://b/k.pth", 3.0)),
        ("resnet18=s3://b/k.pth", member("resnet18", "resnet18", checkpoint="s3://b/k.pth")),
        ("resnet18=file:///w/a:b@c=d.pth", member("resnet18", "resnet18", checkpoint="file:///w/a:b@c=d.pth")),
        ("resnet18=/w/epoch*loss=2.pth", member("resnet18", "resnet18", checkpoint="/w/epoch*loss=2.pth")),
        ("resnet18=/w/2*3/k.pth*4", member("resnet18", "resnet18", checkpoint="/w/2*3/k.pth", factor=4.0)),
        ("x:resnet18=C:k.pth", member("x", "resnet18", checkpoint="C:k.pth")),
    ],
)
def test_a_member_is_read(spec: str, meant: MemberRequest):
    assert MemberRequest.parse(spec) == meant


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("", "no architecture"),
        ("a:", "no architecture"),
        ("=/w/k.pth", "no architecture"),
        ("*2", "no architecture"),
        ("timm/", "no architecture"),
        (":resnet18", "the alias is empty"),
        ("resnet18@", "the weights is empty"),
        ("resnet18@*2", "the weights is empty"),
        ("resnet18=", "the checkpoint is empty"),
        ("resnet18=*2", "the checkpoint is empty"),
        ("resnet18*", "the factor after \\* is not a number: ''"),
        ("resnet18*two", "the factor after \\* is not a number: 'two'"),
        ("resnet18*0", "the factor must be above 0"),
        ("resnet18*-1", "the factor must be above 0"),
        ("resnet18=/w/k.pth*nan", "the factor must be above 0"),
        ("resnet18*1e999", "the factor must be above 0"),
        ("my model:resnet18", "an alias is made of letters"),
        ("a:b:resnet18", "an alias is made of letters"),
        ("-a:resnet18", "an alias is made of letters"),
    ],
)
def test_a_malformed_member_is_refused_by_name(spec: str, complaint: str):
    with pytest.raises(ModelError, match=complaint) as caught:
        MemberRequest.parse(spec)
    assert repr(spec) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_comma_lists_and_repeated_words_add_up():
    members = parse_members(("resnet18, resnet34", "b:resnet18*2", ""))
    assert [(m.alias, m.arch) for m in members] == [
        ("resnet18", "resnet18"),
        ("resnet34", "resnet34"),
        ("b", "resnet18"),
    ]


def test_two_members_of_one_name_and_none_at_all_are_refused():
    with pytest.raises(ModelError, match=r"two members are called 'resnet18': .* -m other:resnet18"):
        parse_members(("resnet18,resnet18=/w/k.pth",))
    with pytest.raises(ModelError, match="two members are called 'xception41'"):
        parse_members(("timm/xception41", "xception41:resnet18"))
    with pytest.raises(ModelError, match="no models"):
        parse_members((" , ",))


# -- settings -----------------------------------------------------------------------------------------------


def test_defaults_are_those_of_the_contract():
    config = label_config(ASKED)
    assert config.model == DEFAULT_MODELS == ("resnet50", "resnext50_32x4d", "efficientnet_v2_s")
    assert (config.combine, config.top_k, config.device, config.precision) == ("mean", 5, "auto", "auto")
    assert (config.batch_size, config.decode, config.engine, config.workers) == ("auto", "exact", "ray", "auto")
    assert (config.keep, config.limit, config.max_bad_rate, config.overwrite) == ((), None, 0.5, False)
    assert [m.alias for m in config.members] == list(DEFAULT_MODELS)
    assert pickle.loads(pickle.dumps(config)) == config


def test_places_may_be_paths():
    config = label_config({"inputs": Path("in"), "out": Path("out"), "weights_dir": Path("w"), "labels": Path("l")})
    assert (config.inputs, config.out, config.weights_dir, config.labels) == (("in",), "out", "w", "l")
    assert label_config({"inputs": [Path("a"), "b"], "out": "o"}).inputs == ("a", "b")
    assert label_config({"inputs": "a,b", "out": "o"}).inputs == ("a,b",)


def test_a_file_gives_words_and_the_caller_wins(tmp_path: Path):
    path = tmp_path / "job.yaml"
    path.write_text(
        "model: [resnet18, 'b:resnet34*2']\ntop-k: 3\nbatch_size: 16\nworkers: auto\ncompile: auto\n"
        "max-bad-rate: 0.25\nkeep: json,txt,json\nno-sign-request: true\ns3-endpoint: http://h:1\nout: elsewhere\n"
    )
    config = label_config({"inputs": ["in"], "out": "here", "top_k": 7, "model": ["resnet50,resnet101"]}, str(path))
    assert (config.out, config.top_k, config.model) == ("here", 7, ("resnet50", "resnet101"))
    assert (config.batch_size, config.workers, config.compile, config.max_bad_rate) == (16, "auto", None, 0.25)
    assert config.keep == ("json", "txt")
    assert (config.storage.no_sign_request, config.storage.s3_endpoint) == (True, "http://h:1")
    assert label_config({"inputs": "in"}, str(path)).out == "elsewhere"


@pytest.mark.parametrize(
    ("words", "line"),
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
def test_a_wrong_word_gets_one_clear_line(words: dict[str, object], line: str):
    with pytest.raises(RequestError, match=f"^{line}[^;]*$") as caught:
        label_config({**ASKED, **words})
    assert "\n" not in str(caught.value)


def test_whole_numbers_may_come_as_text():
    assert label_config({**ASKED, "batch_size": "32", "workers": 2}).batch_size == 32


@pytest.mark.parametrize(
    ("content", "complaint"),
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
def test_a_wrong_file_gets_one_clear_line(tmp_path: Path, content: bytes, complaint: str):
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=complaint) as caught:
        label_config(ASKED, str(path))
    assert "\n" not in str(caught.value)
    with pytest.raises(RequestError, match=r"--config .*no\.yaml: No such file"):
        label_config(ASKED, str(tmp_path / "no.yaml"))


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        LabelConfig(**ASKED).top_k = 3


def test_the_fingerprint_goes_by_content_not_by_order():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert len(fingerprint({})) == 64


# -- class names --------------------------------------------------------------------------------------------


def test_names_are_lines_or_a_json_list():
    assert parse_names(" cat\r\ndog, big\n\nowl\n\n", "f") == ("cat", "dog, big", "", "owl")
    assert parse_names('  ["cat", "caf\\u00e9"]', "f") == ("cat", "café")


@pytest.mark.parametrize("text", ["", "\n \n", "[]", '["cat"', "[1, 2]", "[" * 100_000, '["\\ud800"]'])
def test_names_that_are_none_are_refused(text: str):
    with pytest.raises(InputError, match=r"^--labels f: "):
        parse_names(text, "f")


def test_names_belong_to_the_label_space():
    assert names_for(1000, None) == imagenet_names()
    assert (imagenet_names()[0], len(imagenet_names())) == ("tench", 1000)
    assert names_for(3, None) == ("0", "1", "2")
    assert names_for(2, ("a", "b")) == ("a", "b")
    with pytest.raises(InputError, match="2 names, but the models have 3 classes"):
        names_for(3, ("a", "b"))


# -- a job's file, checked ----------------------------------------------------------------------------------


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
    with pytest.raises(RequestError, match=r"job\.yaml: line 4: --top-k is given twice"):
        label_config(ASKED, str(path))


def test_problems_between_options_and_wrong_members_have_lines_too(tmp_path: Path):
    path = tmp_path / "job.yaml"
    path.write_text("out: o\nkeep: label\n")
    assert check_config_file(str(path)).problems == (f"{path}:2: keep: label is already a column of the predictions",)
    path.write_text("out: o\nmodel: [resnet18, resnet18]\n")
    (line,) = check_config_file(str(path)).problems
    assert line.startswith(f"{path}:2: --model: two members are called 'resnet18'")
    path.write_text("model: 5\n")
    assert len(check_config_file(str(path)).problems) == 1


def test_a_sound_file_is_understood(tmp_path: Path):
    path = tmp_path / "job.yaml"
    path.write_text("model: resnet18,b:resnet34*2\ntop-k: 3\n")
    checked = check_config_file(str(path))
    assert (checked.problems, checked.given, checked.left_out) == ((), ("model", "top_k"), ("inputs", "out"))
    assert checked.config is not None
    assert [member.alias for member in checked.config.members] == ["resnet18", "b"]


def test_a_date_that_is_none_is_a_wrong_file(tmp_path: Path):
    path = tmp_path / "job.yaml"
    path.write_text("limit: 2026-13-45\n")
    with pytest.raises(RequestError, match="not YAML"):
        check_config_file(str(path))
