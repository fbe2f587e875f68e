"""Runs steps as they are asked for on stdin, and tells on stdout what they find, a line of JSON each."""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # an uninstalled checkout
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from gpu_steps.material import Material, Setting

_REHEARSAL = 0.1  # of the time, on a CPU


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
    if not material.on_gpu:
        torch.set_num_threads(1)  # with more, threads of other programs keep these waiting
    send(lines, {"ready": True})
    for line in sys.stdin:
        asked = json.loads(line)
        module, _, function = asked["step"].partition(".")
        tell = Tell(lines, asked["seconds"] * (1 if material.on_gpu else _REHEARSAL))
        try:
            getattr(importlib.import_module(f"gpu_steps.{module}"), function)(material, tell)
            if material.on_gpu:
                gc.collect()
                torch.cuda.empty_cache()  # the next step begins with a free card
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
