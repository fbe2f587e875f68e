"""Shell completion, through the protocol of each shell and in a real bash."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_lines import AT_THE_END
from conftest import REPOSITORY

from pipeline.models.catalog import torchvision_names


def ask(words: str, shell: str = "bash") -> tuple[list[str], str]:
    """What is offered for a line that is being typed, and which slow modules that took."""
    asked = {
        "bash": {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": words},
        "fish": {"_TYPER_COMPLETE_ARGS": words, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    done = subprocess.run(
        [sys.executable, "-c", AT_THE_END],
        env={**os.environ, **asked, "_SHARDLABEL_COMPLETE": f"complete_{shell}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    *offered, imported = done.stdout.splitlines()
    return [line for line in offered if line], imported


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("shardlabel ver", ["verify"]),
        ("shardlabel label --pre", ["--precision"]),
        ("shardlabel label --precision ", ["auto", "fp32", "mixed", "bf16", "fp16"]),
        ("shardlabel label x.tar --workers ", ["auto"]),
        ("shardlabel plan -m resnet50,densenet1", [f"resnet50,densenet{depth}" for depth in (121, 161, 169)]),
        ("shardlabel label --model timm/x", ["timm/xception41"]),
        ("shardlabel models f", ["fetch"]),
        ("shardlabel models vgg16", ["vgg16", "vgg16_bn"]),
        ("shardlabel models fetch alexnet squeezenet1_", ["squeezenet1_0", "squeezenet1_1"]),
        ("shardlabel classes wordnet --under hunting", ["hunting_dog.n.01"]),
        ("shardlabel label --config jo", []),  # the shell's own: names of files
        ("shardlabel label -m mine:resnet18=s3://b", []),
    ],
)
def test_bash_completes(words: str, offered: list[str]):
    assert ask(words) == (offered, "[]")


def test_every_architecture_of_torchvision_is_offered():
    offered, _ = ask("shardlabel label -m ")
    assert {*torchvision_names()} <= {*offered}


def test_zsh_and_fish_complete():
    assert ask("shardlabel label -m half:vit_b_1", "zsh")[0] == ["_arguments '*: :((\"half\\\\:vit_b_16\"))'"]
    assert ask("shardlabel label x.tar pho", "zsh")[0] == ["_files"]
    offered, imported = ask("shardlabel label -m googl", "fish")
    assert (offered, imported) == (["googlenet"], "[]")


@pytest.fixture
def on_path(tmp_path: Path) -> dict[str, str]:
    """An environment where ``shardlabel`` is this checkout."""
    script = tmp_path / "bin" / "shardlabel"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m pipeline "$@"\n')
    script.chmod(0o700)
    return {**os.environ, "PATH": f"{script.parent}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_a_real_bash_takes_what_readme_says(on_path):
    (line,) = [line for line in (REPOSITORY / "README.md").read_text().splitlines() if "=source_bash" in line]
    load = line.partition("#")[0].strip()
    typed = "COMP_WORDS=(shardlabel label -m resnet50,densenet16); COMP_CWORD=3; _shardlabel_completion shardlabel"
    shown = 'printf "%s\\n" "${COMPREPLY[@]}"; complete -p shardlabel'
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{load}; {typed}; {shown}"], env=on_path, capture_output=True, text=True, check=False
    )
    *offered, registered = done.stdout.split("\n")[:-1]
    assert offered == ["resnet50,densenet161", "resnet50,densenet169"], done.stderr
    assert registered == "complete -o default -F _shardlabel_completion shardlabel"  # else names of files
