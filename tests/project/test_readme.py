"""What the documents show can be typed: every command's words are known, every file that is linked is there."""

from __future__ import annotations

import contextlib
import re
import shlex

import pytest
import typer
from conftest import REPOSITORY

from pipeline.cli import _UsageError as Wrong
from pipeline.cli import app

MISSING = next(kind for kind in typer.BadParameter.__subclasses__() if kind.__name__ == "MissingParameter")
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "deploy/README.md", "pipeline/ARCHITECTURE.md", "tests/README.md", "findings/README.md"]
DOCUMENTS += ["pipeline/REFERENCE.md"]
DOCUMENTS += sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "examples" / "guides").glob("*.md"))


NO_COMMANDS = re.compile(r"\bCOMMAND\b|\[|<|\.\.\.|INPUT -m$|--(help|install-completion)\b")


def typed(text: str) -> list[str]:
    """Commands of shardlabel in blocks of code, behind a prompt or without."""
    blocks = re.findall(r"^```(?:sh|text|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = [line.partition("-- ")[2] if "ray job submit" in line else line.strip("$ ") for line in lines]
    return [line for line in found if line.startswith("shardlabel ") and not NO_COMMANDS.search(line)]


def named(text: str) -> list[str]:
    """Commands in prose, which may leave out what they are about."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    found = [" ".join(words.split()) for words in re.findall(r"`(shardlabel [^`]*)`", prose)]
    return [line for line in found if not NO_COMMANDS.search(line)]


def parse(line: str) -> None:
    """Read the words of a command as the command line does, and go no further."""
    words = shlex.split(re.split(r" [|>&;] ?| && ", line)[0], comments=True)
    command, context = typer.main.get_command(app), None
    name, *rest = words
    while True:
        context = command.make_context(name, rest, parent=context)
        rest = [*getattr(context, "_protected_args", ()), *context.args]
        if not rest or not hasattr(command, "commands"):
            return
        name, command, rest = command.resolve_command(context, rest)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_that_is_shown_is_understood(name):
    text = (REPOSITORY / name).read_text()
    for line in typed(text):
        parse(line)
    for line in named(text):
        with contextlib.suppress(MISSING):
            parse(line)
    if name in {"README.md", "pipeline/REFERENCE.md"}:
        assert len(typed(text) + named(text)) > 12


def test_what_is_not_understood_is_noticed():
    for wrong in ("shardlabel label x.tar --ouT y", "shardlabel labell x.tar", "shardlabel plan x --precision fp8"):
        with pytest.raises(Wrong, match=r"(?i)no such|invalid|not one of"):
            parse(wrong)


@pytest.mark.parametrize("name", [*DOCUMENTS, "examples/data/README.md"])
def test_every_file_that_is_linked_is_there(name):
    text = (REPOSITORY / name).read_text()
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", text):
        assert ((REPOSITORY / name).parent / target).exists(), target


@pytest.mark.parametrize("name", [*DOCUMENTS, "examples/README.md"])
def test_every_heading_that_is_linked_is_there(name):
    text = (REPOSITORY / name).read_text()
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)#([^)]+)\)", text):
        path = (REPOSITORY / name).parent / target if target else REPOSITORY / name
        headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, anchor


def test_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 200
