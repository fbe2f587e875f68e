"""The process that runs steps: it may die, hang, or leave a damaged device behind, without harm to the run."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_WORKER = Path(__file__).with_name("worker.py")
_END_S = 5.0

Message = dict[str, Any]


class ProcessLostError(Exception):
    """The process has ended, or did not answer in time."""


class StepProcess:
    """A process that runs one step after another, and tells what it finds.

    Args:
        setting: The worker's :class:`gpu_steps.material.Setting`, as JSON takes it.
        environment: Variables beside those of this process.
    """

    def __init__(self, setting: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        # the processes that it starts, a labeler's among them, find the checkout as well
        paths = [str(_WORKER.parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        # a session of its own: its children end with it
        self._process = subprocess.Popen(
            [sys.executable, str(_WORKER), json.dumps(setting)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
            start_new_session=True,
            text=True,
        )
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._is_ready = False

    def wait_ready(self, seconds: float) -> None:
        """Wait until it has loaded what steps need, if it has not yet.

        Raises:
            ProcessLostError: It has ended, or takes longer.
        """
        if not self._is_ready:
            self.receive(seconds)
            self._is_ready = True

    def send(self, step: str, seconds: float) -> None:
        """Ask for a step.

        Raises:
            ProcessLostError: It has ended.
        """
        assert self._process.stdin is not None
        try:
            print(json.dumps({"step": step, "seconds": seconds}), file=self._process.stdin, flush=True)
        except OSError as error:
            raise ProcessLostError("its process has ended") from error

    def receive(self, seconds: float) -> Message:
        """The next message.

        Raises:
            ProcessLostError: It has ended, or said nothing for so long.
        """
        try:
            message = self._messages.get(timeout=max(0.0, seconds))
        except queue.Empty:
            raise ProcessLostError("its time is over") from None
        if message is None:
            code = self._process.wait(_END_S)
            raise ProcessLostError(f"its process ended with {signal.Signals(-code).name if code < 0 else code}")
        return message

    def close(self) -> None:
        """End it, at once if it does not end by itself."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.stdin.close()
            self._process.wait(_END_S)
        self.kill()

    def kill(self) -> None:
        """End it and its children at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._messages.put(json.loads(line))
        self._messages.put(None)
