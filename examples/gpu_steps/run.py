"""Runs the steps, each within its time; one that fails costs no other."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from gpu_steps.process import ProcessLostError, StepProcess
from gpu_steps.record import Record
from gpu_steps.table import FULL_RUN_S, Step

_GRACE = 1.5  # a step that takes so many times its seconds is ended
_GRACE_S = 15.0
_STARTING_S = 120.0  # at most, for loading torch from a cold disk
_LATE_S = 5.0  # the run as a whole
_LEAST_SHARE = 0.4  # of its seconds, below which a step is not begun
_DAMAGED = "failed", "stopped"


class Run:
    """One run of some steps.

    Args:
        record: Where findings go.
        setting: The worker's :class:`gpu_steps.material.Setting`, as JSON takes it.
        seconds: Of the whole run, from now on.
    """

    def __init__(self, record: Record, setting: Mapping[str, Any], seconds: float) -> None:
        self._record = record
        self._setting = setting
        self._deadline = time.monotonic() + seconds
        self._scale = seconds / FULL_RUN_S
        self._shared: StepProcess | None = None

    def run(self, steps: Sequence[Step]) -> None:
        """Run them in order, as long as there is time."""
        try:
            for step in steps:
                self._run(step)
        finally:
            self._let_go()

    def _run(self, step: Step) -> None:
        began = time.monotonic()
        seconds, left = step.seconds * self._scale, self._deadline - began
        if left < _LEAST_SHARE * seconds:
            reason = f"{max(0.0, left):.0f} s are left, and it may take {seconds:.0f} s"
            self._record.end(step, "skipped", 0.0, reason)
            return
        self._record.begin(step)
        process = self._process_for(step)
        try:
            state, reason = self._follow(process, step, min(seconds, left))
        except ProcessLostError as error:
            state, reason = "stopped", str(error)
            process.kill()
        finally:
            if step.apart:
                process.close()
        self._record.end(step, state, time.monotonic() - began, reason)
        if state in _DAMAGED and not step.apart:  # what an error leaves of a process and of its device is not known
            self._let_go()

    def _process_for(self, step: Step) -> StepProcess:
        """The process for a step: its own, or the one that the others share."""
        if step.apart:
            return StepProcess(self._setting, step.environment)
        if self._shared is None:
            self._shared = StepProcess(self._setting, {})
        return self._shared

    def _follow(self, process: StepProcess, step: Step, seconds: float) -> tuple[str, str]:
        """Have a process run a step, and write down what it finds: how it ended, and why."""
        process.wait_ready(min(_STARTING_S, self._deadline - time.monotonic()))
        process.send(step.where, seconds)
        last = min(time.monotonic() + _GRACE * seconds + _GRACE_S, self._deadline + _LATE_S)
        while True:
            message = process.receive(last - time.monotonic())
            if "ended" in message:
                return message["ended"], message.get("reason", "")
            self._record.add(step, message["name"], message["value"], right=message.get("right"))

    def _let_go(self) -> None:
        if self._shared is not None:
            self._shared.close()
            self._shared = None
