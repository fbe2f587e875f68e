"""What a command answers before it loads torch, and that a line is there before anything that takes long."""

from __future__ import annotations

import contextlib
import gc
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.cli import loading
from pipeline.cli.loading import leave_if_loading, load, load_in_background, loading_if_slow
from tests.conftest import make_tar, sample_members

# Runs command lines one after another in one process, and tells what each answered, and what is loaded then.
SESSION = """
import contextlib, io, json, sys, pipeline.cli
answers = []
for words in json.loads(sys.argv[1]):
    sys.argv, said = ["shardlabel", *words], io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        pipeline.cli.main()
    answers.append([said.getvalue(), sorted({"torch", "torchvision", "timm", "ray", "boto3"} & {*sys.modules})])
print(json.dumps(answers))
"""


def test_help_counting_and_wrong_requests_are_answered_without_torch_and_ray(sample_data, tmp_path):
    make_tar(tmp_path / "a.tar", sample_members(3))
    (tmp_path / "noise").write_bytes(b"\xff\x00")
    weights = ["--weights-dir", str(sample_data / "weights")]
    known = ["label", "a.tar", "-o", "o", "-m", "squeezenet1_1", *weights]
    wanted = {
        "--help": "Usage: ",
        "label --help": "Usage: ",
        "label -o o": "INPUT: missing",
        "status nowhere": "not an output",
        "plan --no-measure a.tar": "3 (counted)",
        "plan a.tar -m resnet5O": "unknown model 'resnet5O'; did you mean resnet50",
        "export nowhere --to d --format csv": "not an output",
        "classes wordnet": "1,000 of 1,000 classes in 808 groups",
        "classes a.tar": "a.tar: not UTF-8 text",
        "label a.tar -o o -m resnet5O": "unknown model 'resnet5O'; did you mean resnet50",
        "label a.tar -o o -m timm/resnet5O": "unknown model 'timm/resnet5O'; did you mean timm/resnet50",
        "label a.tar -o o -m resnet50@V9": "no weights called 'V9'; it has IMAGENET1K_V2, IMAGENET1K_V1",
        "label a.tar -o o -m resnet50=here.pth": "here.pth: no such file",
        "label b.tar -o o": "b.tar: no such file",
        "label a.tar -o o -m resnet18 --weights-dir nowhere": "--weights-dir",
        f"{' '.join(known)} --labels names.txt": "--labels",
        f"{' '.join(known)} --labels noise": "not UTF-8",
        f"{' '.join(known)} --calibration a.tar": "no calibration of shardlabel",
        f"{' '.join(known)} --reuse nowhere": "not an output",
        f"{' '.join(known)} -o a.tar/o": "OUT cannot be written",
    }
    words = json.dumps([line.split(" ") for line in wanted])
    done = subprocess.run([sys.executable, "-c", SESSION, words], cwd=tmp_path, capture_output=True, text=True)
    for line, (answer, loaded) in zip(wanted, json.loads(done.stdout), strict=True):
        assert (line, loaded) == (line, [])
        assert wanted[line] in answer
        assert "Traceback" not in answer
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "noise"]


def test_loading_is_said_before_it_is_done(sample_data, tmp_path, shardlabel):
    weights = ["--weights-dir", sample_data / "weights", "--labels", sample_data / "classes.txt"]
    words = ["label", sample_data / "shard-000.tar", "-o", tmp_path / "out", "-m", "squeezenet1_1", "--limit", "1"]
    said = shardlabel(*words, *weights).stderr.splitlines()
    assert said[0] == "loading PyTorch"
    assert said[1].startswith("engine inline: one machine, ")


@pytest.fixture
def impatient(monkeypatch, tmp_path) -> Path:
    """The path of a module that takes long to import; nothing is waited for before a line is said."""
    monkeypatch.setattr(loading, "_SILENCE_S", 0.0)
    monkeypatch.setattr(loading, "_PATIENCE_S", 0.0)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = tmp_path / "slow_to_import.py"
    module.write_text("import threading\nstarted, go_on = threading.Event(), threading.Event()\nstarted.set()\n")
    yield module
    with contextlib.suppress(RuntimeError):
        load("slow_to_import")
    gc.unfreeze()
    sys.modules.pop("slow_to_import", None)


def test_what_takes_long_is_said_and_loads_meanwhile(impatient):
    said, heard = [], threading.Event()

    def note(line: str) -> None:
        said.append(line)
        heard.set()

    with loading_if_slow("slow_to_import", note, "looking"):
        assert heard.wait(10)
        while "slow_to_import" not in sys.modules:
            pass
    assert said == ["looking"]


def test_what_is_quick_says_and_loads_nothing(monkeypatch):
    said = []
    with contextlib.suppress(ValueError), loading_if_slow("no_such_module", said.append, "looking"):
        raise ValueError
    assert said == []
    assert not loading._loading


def test_a_module_that_cannot_be_loaded_raises_where_it_is_used(impatient):
    impatient.write_text("raise RuntimeError('broken')\n")
    load_in_background("slow_to_import")
    with pytest.raises(RuntimeError, match="broken"):
        load("slow_to_import")
    assert gc.isenabled()


def test_a_process_that_leaves_while_it_loads_ends_at_once(impatient, monkeypatch):
    impatient.write_text("import threading\ngo_on = threading.Event()\ngo_on.wait(30)\n")
    codes = []
    monkeypatch.setattr("os._exit", codes.append)
    leave_if_loading(2)
    assert codes == []
    load_in_background("slow_to_import")
    leave_if_loading(2)
    while "go_on" not in vars(sys.modules.get("slow_to_import", threading)):
        pass
    sys.modules["slow_to_import"].go_on.set()
    assert codes == [2]


def test_ctrl_c_before_anything_has_begun_is_a_line_and_130(tmp_path, shardlabel, monkeypatch):
    def interrupted(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.job.request.open_request", interrupted)
    result = shardlabel("label", tmp_path, "-o", tmp_path / "out")
    assert result.returncode == 130
    assert result.stderr == "shardlabel: interrupted; run the same command again to go on from here\n"
