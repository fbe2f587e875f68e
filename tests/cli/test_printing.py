"""What is printed arrives, whatever the terminal or file can show."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pipeline.cli.printing import print_json, print_line, set_up_streams

TEXTS = ["étiquettes", "写真 📷", "\\u00e9", 'a "b"', "\udcff"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_letters_that_an_encoding_does_not_have_are_escaped(encoding: str, tmp_path: Path, monkeypatch):
    """Once a folder's accent was a traceback where Python had been told of ASCII, or the locale was an old one."""
    with open(tmp_path / "out", "w", encoding=encoding) as file:
        for name in ("stdout", "__stdout__"):
            monkeypatch.setattr(sys, name, file)
        set_up_streams()
        print_line(TEXTS[0] + TEXTS[1])
        print_json(TEXTS)
        sys.stdout.flush()
        monkeypatch.undo()
    line, _, document = (tmp_path / "out").read_text(encoding).partition("\n")
    assert json.loads(document) == TEXTS
    shown = {
        "ascii": "\\u00e9tiquettes\\u5199\\u771f \\ud83d\\udcf7",
        "latin-1": "étiquettes\\u5199\\u771f \\ud83d\\udcf7",
    }
    assert line == shown.get(encoding, "étiquettes写真 📷")
