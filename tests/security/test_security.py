"""What comes from outside does no harm: names are no paths and no orders to a terminal, and secrets stay secret."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import jpeg, make_tar

from pipeline.errors import StorageError
from pipeline.job.progress import Bar, Json, Plain
from pipeline.text.safe import holds_secret, json_text, printable, redacted

MODEL = "shufflenet_v2_x0_5"
CANARY = "Canary/7+secret"
SIGNED = f"X-Amz-Credential=AK%2F2026&X-Amz-Signature={CANARY}"
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e\ud800-\udfff]")
NASTY = [
    "../../etc/x.jpg",
    "/etc/passwd.jpg",
    "a/../../../tmp/out.jpg",
    "new\nline.jpg",
    "\x1b]0;owned\x07\x1b[2J.jpg",
    "c1\x9b31m.jpg",
    "back\u202egpj.exe.jpg",
    "[red]markup[/red].jpg",
]


def words(sample_data: Path) -> list[str]:
    weights = ["--weights-dir", str(sample_data / "weights"), "--labels", str(sample_data / "classes.txt")]
    return ["-m", MODEL, *weights, "--engine", "inline", "--precision", "fp32", "--max-bad-rate", "1"]


@pytest.fixture
def shardlabel(shardlabel):
    """The command line in this process: its exit code, and all that it said."""

    def run(*arguments: str) -> tuple[int, str]:
        done = shardlabel(*arguments)
        return done.returncode, done.stdout + done.stderr

    return run


# -- text ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünï 😀 [red]", "plain ünï 😀 [red]"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\r\tc\x00", "a\\nb\\r\\tc\\x00"),
        ("\x9b31m\x7f", "\\x9b31m\\x7f"),
        ("\u202eab\u2028", "\\u202eab\\u2028"),
        ("\udcff", "\\udcff"),
    ],
)
def test_nothing_that_a_terminal_obeys_is_printed(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown
    assert json.loads(json_text([text])) == [text]
    assert not CONTROL.search(json_text({"a": text}, indent=2))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"s3://AKIA:{CANARY}@bucket/key: no such object", "s3://***@bucket/key: no such object"),
        (f"http://user:{CANARY}@host:9000/", "http://***@host:9000/"),
        (f"https://{'t0ken'}@host", "https://***@host"),
        (
            f"https://b.s3.amazonaws.com/k?{SIGNED}&X-Amz-Date=1",
            "https://b.s3.amazonaws.com/k?X-Amz-Credential=***&X-Amz-Signature=***&X-Amz-Date=1",
        ),
    ],
)
def test_secrets_in_uris_are_left_out(text, shown):
    assert redacted(text) == shown == redacted(shown)
    assert holds_secret(text.split()[0].rstrip(":"))
    assert str(StorageError(f"INPUT {text}")) == f"INPUT {shown}"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/a@b.jpg",
        "s3://bucket/a:b@c/signature=1.jpg",
        "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint:mine/a@b.jpg",
        "/data/a@b?signature=1",
        "http://127.0.0.1:9000",
        "-m a:resnet18=s3://bucket/x@1.pth",
    ],
)
def test_other_uris_stay_as_they_are(uri):
    assert redacted(uri) == uri or "://" not in uri
    assert not holds_secret(uri)


def test_errors_are_one_line():
    assert str(StorageError("x: damaged: one\n  two\n")) == "x: damaged: one two"


def test_progress_obeys_nothing_either(capfd):
    name = "x\x1b]0;owned\x07[red].pth\x9b"
    for reporter in (Plain(), Json(), Bar()):
        reporter.note(name)
        reporter.download(name, 1, 2)
        reporter.close()
        said = "".join(capfd.readouterr())
        assert "[red].pth" in said
        assert "\x1b]0" not in said
        assert "\x9b" not in said


# -- names --------------------------------------------------------------------------------------------------


def test_names_in_a_tar_are_neither_paths_nor_orders(tmp_path, sample_data, shardlabel):
    inputs = tmp_path / "in"
    inputs.mkdir()
    shard = make_tar(inputs / "a.tar", [(name, jpeg(number)) for number, name in enumerate(NASTY)])
    before = set(tmp_path.rglob("*"))
    out = tmp_path / "out"
    code, said = shardlabel("label", str(shard), "-o", str(out), *words(sample_data), "--rows-per-part", "4")
    assert code == 0
    assert not CONTROL.search(said)
    new = set(tmp_path.rglob("*")) - before
    assert all(path == out or out in path.parents for path in new)
    parts = sorted((out / "predictions").iterdir())
    assert [key for part in parts for key in pq.read_table(part)["key"].to_pylist()] == [
        name.removesuffix(".jpg") if ".exe" not in name else name.partition(".")[0] for name in NASTY
    ]
    assert shardlabel("verify", str(out))[0] == 0
    parts[0].unlink()
    parts[1].unlink()
    for arguments in (["verify"], ["verify", "--json"], ["status"], ["status", "--json"], ["evaluate"]):
        code, said = shardlabel(*arguments, str(out))
        assert not CONTROL.search(said), arguments
    code, said = shardlabel("verify", str(out))
    assert code == 1
    assert "'../../etc/x' (index 0)" in said


def test_names_of_files_and_classes_are_no_orders(tmp_path, sample_data, shardlabel):
    folder = tmp_path / "p\x1b[31m\nx[red]"
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}\x1b[2J\x9b.jpg").write_bytes(jpeg(number))
    (folder / os.fsdecode(b"bytes\xff.jpg")).write_bytes(b"no image")
    names = [f"\x1b]0;class {number}\x07" for number in range(14)]
    (tmp_path / "classes.json").write_text(json.dumps(names))
    weights = ["--weights-dir", str(sample_data / "weights"), "--labels", str(tmp_path / "classes.json")]
    options = ["-m", MODEL, *weights]
    out = tmp_path / "o\x1b[0m"
    code, said = shardlabel("label", str(folder), "-o", str(out), *options, "--engine", "inline")
    assert code == 0, said
    everything = said
    (folder / "0\x1b[2J\x9b.jpg").unlink()
    for arguments in (["verify", str(out)], ["status", str(out)], ["evaluate", str(out)]):
        everything += shardlabel(*arguments)[1]
    everything += shardlabel("plan", str(folder), *options, "--no-measure")[1]
    everything += shardlabel("label", str(folder / "none\x1b[2J.tar"), "-o", str(out), *options)[1]
    everything += shardlabel("label", str(folder), "-o", str(out), "-m", "x\x1b[2J")[1]
    everything += shardlabel("models", "x\x1b[2J")[1]
    everything += shardlabel("stat\x1b[2J")[1]
    assert not CONTROL.search(everything)
    assert "\\x1b[2J" in everything


# -- secrets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["label", f"s3://AK:{CANARY}@bucket/a.tar", "-o", "out"],
        ["label", f"s3://AK:{CANARY}@bucket/a-{{0..3}}.tar", "-o", "out"],
        ["label", f"https://bucket.s3.amazonaws.com/a.tar?{SIGNED}", "-o", "out"],
        ["label", f"s3://bucket/a.tar?{SIGNED}", "-o", "out"],
        ["label", "@list.txt", "-o", "out"],
        ["label", "a.tar", "-o", f"s3://AK:{CANARY}@bucket/out"],
        ["label", "a.tar", "-o", "out", "-m", f"resnet18=s3://AK:{CANARY}@bucket/x.pth"],
        ["label", "a.tar", "-o", "out", "-m", f"!:resnet18=s3://AK:{CANARY}@bucket/x.pth"],
        ["label", "a.tar", "-o", "out", "--weights-dir", f"s3://AK:{CANARY}@bucket/weights"],
        ["label", "a.tar", "-o", "s3://bucket/out", "--s3-endpoint", f"http://AK:{CANARY}@127.0.0.1:9"],
        ["label", "a.tar", "-o", "s3://bucket/out", "--s3-endpoint", f"AK:{CANARY}@127.0.0.1:9"],
        ["label", "--config", "job.yaml"],
        ["status", f"s3://AK:{CANARY}@bucket/out"],
        ["verify", f"s3://AK:{CANARY}@bucket/out"],
        ["evaluate", "s3://bucket/out", "--s3-endpoint", f"http://AK:{CANARY}@127.0.0.1:9"],
        ["export", f"s3://AK:{CANARY}@bucket/out", "--to", "dataset", "--format", "csv"],
        ["plan", f"s3://AK:{CANARY}@bucket/a.tar", "--no-measure"],
        ["models", "resnet18", "--weights-dir", f"s3://AK:{CANARY}@bucket/w"],
        ["models", "fetch", "resnet18", "--to", f"s3://AK:{CANARY}@bucket/w"],
        ["status", "out", f"s3://AK:{CANARY}@bucket/too-many"],
    ],
)
def test_requests_with_secrets_in_them_are_refused_without_repeating_them(
    tmp_path, sample_data, shardlabel, monkeypatch, arguments
):
    monkeypatch.chdir(tmp_path)
    make_tar(tmp_path / "a.tar", [("a.jpg", jpeg())])
    (tmp_path / "list.txt").write_text(f"a.tar\ns3://AK:{CANARY}@bucket/a.tar\n")
    (tmp_path / "job.yaml").write_text(f"inputs: [a.tar]\nout: out\nengine: 's3://AK:{CANARY}@bucket'\n")
    code, said = shardlabel(*arguments)
    assert code == 2, said
    assert CANARY not in said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) <= 7  # typer's usage errors are in a frame
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "job.yaml", "list.txt"]


def test_the_credentials_of_a_job_are_nowhere_to_be_found(s3, tmp_path, sample_data, shardlabel, monkeypatch):
    """Every kind of credential is a canary; then everything that commands say and write is searched for them."""
    secrets = {
        "AWS_ACCESS_KEY_ID": "AKIACANARY",
        "AWS_SECRET_ACCESS_KEY": CANARY,
        "AWS_SESSION_TOKEN": "CanaryToken",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    bucket = s3.bucket()
    members = [("0.jpg", jpeg(0)), ("0.cls", b"1"), ("1.jpg", b"no image")]
    s3.put(bucket, "in/a.tar", make_tar(tmp_path / "a.tar", members).read_bytes())
    inputs = f"s3://{bucket}/in/{{a,missing}}.tar"
    there = ["--s3-endpoint", s3.endpoint]
    said = ""
    for progress, more in (("json", ["--verbose"]), ("plain", [])):
        options = [*words(sample_data), "--progress", progress, *more, *there]
        code, lines = shardlabel("label", inputs, "-o", f"s3://{bucket}/out", *options)
        assert code == 4, lines
        said += lines
    for arguments in (["status"], ["verify", "--deep"], ["evaluate"]):
        said += shardlabel(*arguments, f"s3://{bucket}/out", *there)[1]
    nowhere = ["--s3-endpoint", "http://127.0.0.1:9"]
    monkeypatch.setattr("pipeline.storage.s3_retry._BACKOFF_S", 0.001)
    said += shardlabel("status", f"s3://{bucket}/out", *nowhere)[1]
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)
    said += shardlabel("status", f"s3://{bucket}/out", *there)[1]
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", float("inf"))
    written = []
    for item in s3.client.list_objects_v2(Bucket=bucket, Prefix="out/")["Contents"]:
        path = tmp_path / "object"
        s3.client.download_file(bucket, item["Key"], str(path))
        written.append(str(pq.read_table(path).to_pydict()) if item["Key"].endswith("parquet") else path.read_text())
    assert len(written) >= 5  # job.json, the plan, predictions, and two files of quarantine
    for secret in secrets.values():
        assert secret not in said
        assert not [text for text in written if secret in text]
