"""The template of host processes: it has imported all they need, and is forked for each of them.

So the libraries are loaded once, beside the members, and their memory is shared: a process that has imported them by
itself takes 340 MB and 2 s of a core, a forked one some 30 MB. The labeler's own process must not be forked, because it
has threads and may have begun with CUDA; the template has neither.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import socket
import struct
import subprocess
import sys
from typing import NoReturn

from pipeline.errors import EngineError
from pipeline.machine import start_python

_PID = struct.Struct("<I")
_START_S = 300.0


class Template:
    """A template, started in the background."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(_START_S)
        with theirs:
            self._process = start_python("pipeline.hosts.template", str(theirs.fileno()), pass_fds=(theirs.fileno(),))

    def fork(self, connection: int, memory: int) -> int:
        """Fork a host process; returns its process id. A template that is gone is started again first.

        Args:
            connection: Descriptor of its end of the connection to this process.
            memory: Descriptor of its :class:`pipeline.hosts.crop_memory.CropMemory`.

        Raises:
            EngineError: No process can be started.
        """
        try:
            try:
                return self._ask(connection, memory)
            except (ConnectionError, EOFError):
                self.close()
                self._start()
                return self._ask(connection, memory)
        except (OSError, EOFError) as error:
            raise EngineError(f"no process can be started to decode images in: {error or 'it ends at once'}") from error

    def _ask(self, connection: int, memory: int) -> int:
        socket.send_fds(self._socket, [b"\0"], [connection, memory])
        answer = self._socket.recv(_PID.size, socket.MSG_WAITALL)
        if len(answer) < _PID.size:
            raise EOFError
        return int(_PID.unpack(answer)[0])

    def close(self) -> None:
        """End it; what it has forked goes on."""
        self._socket.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
            return
        self._process.kill()
        self._process.wait()


def main(descriptor: int) -> None:
    """Run a template."""
    importlib.import_module("pipeline.hosts.worker")  # and with it all that host processes need
    gc.collect()
    gc.freeze()  # objects that are not looked at stay shared
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    with socket.socket(fileno=descriptor) as control, contextlib.suppress(ConnectionError):
        while (descriptors := socket.recv_fds(control, 1, 2)[1]) and (pid := os.fork()):
            for number in descriptors:
                os.close(number)
            control.sendall(_PID.pack(pid))
        if descriptors:
            _become_host(control, descriptors)


def _become_host(control: socket.socket, descriptors: list[int]) -> NoReturn:
    """In a forked process: serve the labeler's process, and end without waiting for threads."""
    from pipeline.hosts.host import serve

    control.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    serve(*descriptors)
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
