"""What the guides show is what happens: their commands run on the photographs that ship with shardlabel.

Each guide is played from its top to its end, in the folder that the guides' README makes. A block that begins with a
comment about something "of your own" (a bucket, a cluster) is not run; ``test_readme.py`` reads its commands. Text
behind a block is what it prints: lines may be left out, and numbers may differ a little from machine to machine.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY

from pipeline.cli.help import GUIDES, GUIDES_OF

FOLDER = REPOSITORY / "examples" / "guides"
SETUP = FOLDER / "README.md"
GUIDE_FILES = sorted(path.name for path in FOLDER.glob("*.md") if path != SETUP)
NOT_PLAYED = {"clusters.md", "comparison.md", "glossary.md", "s3.md", "scale.md"}
HOME = "/home/you/try"  # how the guides call the folder
NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?")
# lines whose numbers are not compared: times, sizes, intervals, and what depends on the folder's place, because a hash
# of shard and key decides which truths certify a promise, and which fit and judge a calibration
VARIES = re.compile(r"images/s| s\b|\b[kMG]B\b|\d-\d|certif|target_precision|promised at|selected|each$|fold|log-stack")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        language: ``sh``, ``python``, ``text``, ...
        body: Its lines.
        printed: The text behind it, if it is followed by text alone.
    """

    language: str
    body: str
    printed: str = ""

    @property
    def runs(self) -> bool:
        """Whether it can run on the sample photographs."""
        return self.language in {"sh", "python"} and "of your own" not in self.body.splitlines()[0]


def blocks_of(text: str) -> list[Block]:
    """The blocks of a guide, each with the text that follows it at once."""
    found = list(BLOCK.finditer(text))
    plain = [Block(match[1], match[2]) for match in found]
    for number, (match, following) in enumerate(pairwise(found)):
        if following[1] == "text" and not text[match.end() : following.start()].strip():
            plain[number] = Block(match[1], match[2], following[2])
    return plain


def commands(body: str) -> list[tuple[str, int]]:
    """The lines of a block, continued ones joined, each with the exit code that its comment names."""
    lines = [line for line in body.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
    codes = [re.search(r"# ends with (\d+)", line) for line in lines]
    return [(line, int(code[1]) if code else 0) for line, code in zip(lines, codes, strict=True)]


def differences(shown: str, printed: str) -> list[str]:
    """Lines that are shown and were not printed, in this order."""
    missing, lines, at = [], [line for line in shown.splitlines() if line.strip(" .")], 0
    printed_lines = printed.splitlines()
    while lines:
        for wrapped in (1, 2):  # a long line is shown as two
            line = " ".join(lines[:wrapped])
            found = [n for n, other in enumerate(printed_lines) if n >= at and _same(line, other)]
            if found:
                break
        if found:
            at = found[0] + 1
            del lines[:wrapped]
        else:
            missing.append(lines.pop(0))
    return missing


def _same(shown: str, printed: str) -> bool:
    """Whether words are the same, in any order, and numbers nearly so."""
    words, others = (sorted(re.sub(r"[(),;]", " ", NUMBER.sub("#", line)).split()) for line in (shown, printed))
    if words != others:
        return False
    if VARIES.search(shown):
        return True
    pairs = zip(*(sorted(float(n.replace(",", "")) for n in NUMBER.findall(s)) for s in (shown, printed)), strict=True)
    return all(abs(a - b) <= max(0.1 * abs(a), 0.1 if a % 1 and a < 1 else 2) for a, b in pairs)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # beside other tests, two wait for each other
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def folder(tmp_path) -> Path:
    """The folder that the guides' README makes, by its own lines."""
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    setup = next(block for block in blocks_of(SETUP.read_text()) if block.language == "sh")
    subprocess.run(["bash", "-euc", setup.body], cwd=tmp_path, check=True)
    return tmp_path / "try"


@pytest.fixture
def play(shardlabel, folder, monkeypatch, capsys) -> Callable[[Block], str]:
    """Run a block in that folder; all that it prints."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def one(line: str) -> tuple[int, str]:
        name, *words = shlex.split(line, comments=True)
        if name == "duckdb":  # its command line comes apart from its library
            import duckdb

            duckdb.sql(words[1]).show()
            return 0, capsys.readouterr().out
        if name != "shardlabel":
            done = subprocess.run(
                ["bash", "-euc", line], env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
            )
            return done.returncode, done.stdout + done.stderr
        target = words[words.index(">") + 1] if ">" in words else None
        done = shardlabel(*(words[: words.index(">")] if target else words))
        if target:
            (folder / target).write_text(done.stdout)
        return done.returncode, done.stderr + done.stdout * (target is None)

    def run(block: Block) -> str:
        if block.language == "python":
            exec(compile(block.body, "guide", "exec"), {"__name__": "__main__"})
            return capsys.readouterr().out
        said = ""
        for line, code in commands(block.body):
            got, text = one(line)
            assert got == code, (line, text)
            said += text
        return said.replace(str(folder), HOME)

    return run


@pytest.mark.parametrize("name", sorted(set(GUIDE_FILES) - NOT_PLAYED))
def test_a_guide_does_what_it_shows(name, play):
    blocks = blocks_of((FOLDER / name).read_text())
    assert any(block.runs for block in blocks)
    for block in blocks:
        if block.runs:
            printed = play(block)
            assert not differences(block.printed, printed), f"{block.body}\nprinted\n{printed}"


@pytest.mark.parametrize("name", sorted(NOT_PLAYED))
def test_guides_about_other_peoples_machines_have_nothing_to_run(name):
    assert not any(block.runs for block in blocks_of((FOLDER / name).read_text()))


def test_what_is_not_printed_is_noticed():
    printed = "labels\n  images  161 in 2.0 s, 80.1 images/s\n  top-1   83.2%\n"
    assert not differences("  images  161 in 3.1 s, 50.2 images/s\n...\n  top-1  82.6%\n", printed)
    assert differences("  images  161 in 3.1 s\n", printed) == ["  images  161 in 3.1 s"]
    assert differences("  top-1   63.2%\n", printed) == ["  top-1   63.2%"]
    assert differences("  top-1   83.2%\nlabels\n", printed) == ["labels"]


def test_every_guide_leads_to_every_other():
    index = SETUP.read_text()
    for name in GUIDE_FILES:
        text = (FOLDER / name).read_text()
        assert f"]({name})" in index, name
        assert "](README.md" in text, name
        assert sum(f"]({other}" in text for other in GUIDE_FILES) >= 2, name


def test_every_guide_is_found_from_the_readme():
    readme = (REPOSITORY / "README.md").read_text()
    assert [name for name in GUIDE_FILES if f"](examples/guides/{name})" not in readme] == []


def test_the_help_of_commands_names_guides_that_exist(shardlabel):
    for command, names in GUIDES_OF.items():
        shown = shardlabel(*command.split(), "--help").stdout
        for name in names:
            assert (REPOSITORY / GUIDES / f"{name}.md").is_file()
            assert f"{GUIDES}/{name}.md" in shown, command


def test_messages_that_are_explained_are_those_of_the_product():
    strings = [
        "".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
        if isinstance(node, ast.JoinedStr)
        else node.value
        for path in (REPOSITORY / "pipeline").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    ]
    explained = re.findall(r"^\| `(.+?)` \|", (FOLDER / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(explained) > 20
    for message in explained:
        pieces = [piece.strip(" :,;@'") for piece in re.split(r"\b[A-Z]+\b", message)]
        for piece in filter(lambda text: len(text) > 5, pieces):
            assert any(piece in text for text in strings), (message, piece)
