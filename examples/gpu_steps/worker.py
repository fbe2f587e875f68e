"""Runs steps as they are asked for on stdin, and tells on stdout what they find, a line of JSON each."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

sys.path[:0] = [str(Path(__file__).resolve().parents[level]) for level in (1, 2)]  # an uninstalled checkout

from gpu_steps.material import Material, Setting


class Tell:
    """Tells what a step finds, and how much time is left for it."""

    def __init__(self, lines: TextIO, seconds: float) -> None:
        self._lines = lines
        self._deadline = time.monotonic() + seconds

    @property
    def seconds_left(self) -> float:
        """Until the step should have ended."""
        return self._deadline - time.monotonic()

    def figure(self, name: str, value: object) -> None:
        """Tell a figure."""
        send(self._lines, {"name": name, "value": value})

    def check(self, name: str, right: bool, **details: object) -> None:
        """Tell whether something is as it has to be."""
        send(self._lines, {"name": name, "value": details, "right": bool(right)})


def send(lines: TextIO, message: Mapping[str, object]) -> None:
    """Send one line."""
    print(json.dumps(message), file=lines, flush=True)


def main() -> None:
    """Run what is asked for until stdin ends."""
    material = Material(Setting(**json.loads(sys.argv[1])))
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is none of the messages
    send(lines, {"ready": True})
    for line in sys.stdin:
        asked = json.loads(line)
        module, _, function = asked["step"].partition(".")
        try:
            getattr(importlib.import_module(f"gpu_steps.{module}"), function)(material, Tell(lines, asked["seconds"]))
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not cost the other steps
            traceback.print_exc()
            first = str(error).strip().partition("\n")[0][:300]
            send(lines, {"ended": "failed", "reason": f"{type(error).__name__}: {first}"})
        else:
            send(lines, {"ended": "done"})
    lines.flush()
    os._exit(0)  # threads of a step that failed would keep it


if __name__ == "__main__":
    main()
