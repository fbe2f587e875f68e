"""Jobs that are killed, held up and run against each other, at moments that can be named.

A job runs in a child process. What it does to the files of its output is counted by an audit hook there, so that
the n-th such step is the same moment every time. Steps are counted before they are done::

    open      a temporary file is about to be made          os.chmod   it is whole and on disk, without a name
    os.link   it is about to get its name, if that is free   os.rename  it is about to replace what has the name
    os.remove it has its name
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.forkserver import ensure_running
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from pipeline.errors import ShardlabelError

STEPS = ("open", "os.chmod", "os.link", "os.rename", "os.remove")
CRASHED = 70  # an error that is not one of ours
_PATIENCE_S = 120.0
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["pipeline.commands.label", "pipeline.labeler.labeler", "before_the_fork"])


@functools.cache
def _begin_forking() -> None:
    """Start the process that jobs are forked from, where it finds these modules: it passes over those it does not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        ensure_running()


@dataclass
class Trap:
    """What happens at the ``at``-th step below ``place`` in OUT.

    Attributes:
        at: Which step, from 1; 0 for none.
        place: Part of the path.
        steps: Which kinds count.
        torn: Instead of being killed at once, the process is killed by the kernel in the middle of its next write.
        meet: Instead of being killed, the process waits here for another one.
        count_to: A file for the number of steps of a job that came to its end.
    """

    at: int = 0
    place: str = ""
    steps: tuple[str, ...] = STEPS
    torn: bool = False
    meet: Callable[[], object] | None = None
    count_to: str | None = None

    def set(self, out: str) -> None:
        """Set the trap for this process."""
        self.count, self._out, self._lock = 0, out, threading.Lock()
        if self.torn:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple) -> None:
        if event not in self.steps:
            return
        path = args[1] if event in {"os.link", "os.rename"} else args[0]
        if not isinstance(path, str) or not path.startswith(self._out) or self.place not in path:
            return
        if event == "open" and not args[2] & os.O_CREAT:
            return
        with self._lock:
            self.count += 1
            sprung = self.count == self.at
        if sprung:
            self._spring()

    def _spring(self) -> None:
        if self.meet is not None:
            self.meet()
        elif self.torn:
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        else:
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Run:
    """A job in a child process.

    Attributes:
        process: The process.
        said: Where it says what it ended with.
        message: That, if it was an error, once it has been waited for.
    """

    process: BaseProcess
    said: Connection
    message: str = ""

    def wait(self) -> int:
        """Its exit code, or minus the signal that ended it."""
        self.process.join(_PATIENCE_S)
        assert self.process.exitcode is not None, "the job hangs"
        with contextlib.suppress(EOFError):
            if self.said.poll():
                self.message = self.said.recv()
        return self.process.exitcode


def start(inputs: str | list[str], out: Path, words: dict, trap: Trap | None = None, command: str = "label") -> Run:
    """Start a job; an export has its source for inputs, and its dataset for output."""
    _begin_forking()
    said, says = _FORKS.Pipe(duplex=False)
    process = _FORKS.Process(target=_job, args=(command, inputs, str(out), words, trap, says))
    process.start()
    return Run(process, said)


def run(inputs: str | list[str], out: Path, words: dict, trap: Trap | None = None, command: str = "label") -> int:
    """Run a job; its exit code, or minus the signal that ended it."""
    return start(inputs, out, words, trap, command).wait()


def _job(command: str, inputs: str | list[str], out: str, words: dict, trap: Trap | None, says: Connection) -> None:
    import pipeline

    if trap is not None:
        trap.set(out)
    try:
        code = getattr(pipeline, command)(inputs, out, **words).exit_code
    except ShardlabelError as error:
        says.send(str(error))
        code = error.exit_code
    except BaseException:  # noqa: BLE001 - shown, and told apart from errors of ours
        traceback.print_exc()
        code = CRASHED
    if trap is not None and trap.count_to:
        Path(trap.count_to).write_text(str(trap.count))
    os._exit(code)


class Gate:
    """Where one process is held until another opens it."""

    def __init__(self) -> None:
        self._held, self._open = _FORKS.Event(), _FORKS.Event()

    def hold(self) -> None:
        """Wait here; in the process that is to be held."""
        self._held.set()
        assert self._open.wait(_PATIENCE_S)

    def wait_until_held(self) -> None:
        """Wait until the other process has come here."""
        assert self._held.wait(_PATIENCE_S), "the job never came to the gate"

    def open(self) -> None:
        """Let it go on."""
        self._open.set()
