"""What was found: printed as it comes, and written to the JSON file after each finding."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from gpu_steps.summary import summarise
from gpu_steps.table import Step


class Record:
    """The findings of a run.

    Args:
        path: The JSON file; None for none.
        settings: What was asked for, for the file.

    Attributes:
        found: Everything so far, as JSON takes it.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self._path = path
        self._began = time.monotonic()
        self.found: dict[str, Any] = {"settings": settings, "steps": {}}

    def begin(self, step: Step) -> None:
        """A step begins."""
        self.found["steps"][step.name] = {"question": step.question, "state": "running", "found": {}, "wrong": []}
        self._say(step.name, step.question)
        self.write()

    def add(self, step: Step, name: str, value: object, *, right: bool | None = None) -> None:
        """Add a finding of a step.

        Args:
            step: The step.
            name: What was found.
            value: Anything that JSON takes.
            right: For a check whether it is as it has to be; None for a figure.
        """
        entry = self.found["steps"][step.name]
        entry["found"][name] = value
        if right is False:
            entry["wrong"].append(name)
        verdict = {None: "", True: "right: ", False: "WRONG: "}[right]
        self._say(step.name, f"  {verdict}{name}: {_in_short(value)}")
        self.write()

    def end(self, step: Step, state: str, seconds: float, reason: str = "") -> None:
        """A step has ended: ``done``, ``failed``, ``stopped`` or ``skipped``."""
        entry = self.found["steps"].setdefault(step.name, {"question": step.question, "found": {}, "wrong": []})
        entry |= {"state": "wrong" if state == "done" and entry["wrong"] else state, "seconds": round(seconds, 1)}
        if reason:
            entry["reason"] = reason
            self._say(step.name, f"  {state}: {reason}")
        self.write()

    @property
    def is_good(self) -> bool:
        """Whether no step failed, and no check is wrong."""
        return all(entry["state"] in {"done", "skipped"} for entry in self.found["steps"].values())

    def write(self) -> None:
        """Replace the file by what is known now."""
        self.found["seconds"] = round(time.monotonic() - self._began, 1)
        self.found |= summarise(self.found["steps"])
        if self._path is not None:
            beside = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
            beside.write_text(json.dumps(self.found, indent=1) + "\n")
            beside.replace(self._path)

    def _say(self, name: str, text: str) -> None:
        print(f"{time.monotonic() - self._began:6.1f} s  {name:<10} {text}", file=sys.stderr, flush=True)


def _in_short(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_in_short(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return f"[{', '.join(_in_short(inner) for inner in value)}]"
    return (
        f"{value:,.4g}"
        if isinstance(value, float) and abs(value) < 1000
        else (f"{value:,.0f}" if isinstance(value, float) else str(value))
    )
