"""Decode in a child process: for images that kill or hang their decoder.

The child is a new interpreter, because forking a process with threads is unsafe. It runs the same
:func:`pipeline.stages.decode.decode` and sends the same pixels back over a socket::

    labeler -> child    fast_to_px, num_bytes | encoded image
    child -> labeler    length | JSON: width, height, shape and axes of the pixels in memory | pixels
                        length | JSON: reason, message

If a child dies, its image is the cause only if it was the first one there and no signal came from outside.
Otherwise an earlier image may have done the damage, or somebody else killed the process. So the image is tried
once more, in a new child. A child that takes too long is killed.

Images are decoded one at a time here, so that the labeler's memory limit holds.
"""

from __future__ import annotations

import contextlib
import json
import math
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.errors import EngineError, ImageError
from pipeline.machine import start_python
from pipeline.records import Reason
from pipeline.stages.decode import Decoded, decode

_REQUEST = struct.Struct("<IQ")  # fast_to_px or 0, num_bytes
_LENGTH = struct.Struct("<I")
_READY = b"ready"
_TICK_S = 1.0  # time is counted in ticks, so that a process that was stopped for an hour does not time out
_START_S = 300.0
_STARTS = 3
_IDLE_S = 60.0
_ORPHAN_S = 30
_EXIT_S = 10.0
# No valid image needs more memory; the limit stops a decoder before the machine runs out.
MAX_DATA_BYTES = 8 << 30
# Signals that a decoder does not send itself.
_EXTERNAL_SIGNALS = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM}


class _UnknownCause(Exception):  # noqa: N818 - what happened
    """The child has died, maybe not because of its current image."""


class _TimedOut(Exception):  # noqa: N818 - what happened
    """The child did not answer in time."""


class IsolatedDecoder:
    """Decodes in a child process, which is started when it is needed. Safe to share between threads.

    Args:
        limit_s: Time that an image may take, seconds.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._closed = False

    def decode(self, data: bytes, *, fast_to_px: int | None = None) -> Decoded:
        """Decode one image; arguments and result are those of :func:`pipeline.stages.decode.decode`.

        Raises:
            ImageError: It cannot be decoded; the reason is ``decoder_crashed`` if the child died or hung.
            EngineError: No child can be started, or :meth:`close` was called meanwhile.
        """
        with self._lock:
            try:
                return self._try(data, fast_to_px)
            except _UnknownCause:
                return self._try(data, fast_to_px, again=True)

    def _try(self, data: bytes, fast_to_px: int | None, *, again: bool = False) -> Decoded:
        child = self._child = self._child or _start_child(self._limit_s)
        try:
            return child.decode(data, fast_to_px)
        except _TimedOut as error:
            self._child = None
            child.end(0)
            message = f"decoding took longer than {self._limit_s:g} s and was ended"
            raise ImageError(Reason.DECODER_CRASHED, message) from error
        except (OSError, EOFError) as error:
            self._child = None
            status = child.end(_EXIT_S)
            if self._closed:
                raise EngineError("closed while an image was being decoded") from error
            if not again and (child.num_decoded > 0 or -status in _EXTERNAL_SIGNALS):
                raise _UnknownCause from error
            raise ImageError(Reason.DECODER_CRASHED, f"the decoder died of it: {_describe_exit(status)}") from error

    def close(self) -> None:
        """Kill the child, even while it decodes."""
        self._closed = True
        if (child := self._child) is not None:
            child.kill()  # the thread that waits for it gets an error
        if self._lock.acquire(timeout=_EXIT_S):
            if self._child is not None:
                self._child.end(0)
                self._child = None
            self._lock.release()


def _start_child(limit_s: float) -> _Child:
    """Start a child, and wait until it is ready.

    Raises:
        EngineError: No child can be started.
    """
    status = 0
    for _ in range(_STARTS):
        try:
            child = _Child(limit_s)
        except OSError as error:
            raise EngineError(f"no process can be started to decode images in: {error}") from error
        try:
            child.await_ready()
        except (OSError, EOFError, _TimedOut):
            status = child.end(0)
        else:
            return child
    raise EngineError(f"the process that images are to be decoded in does not start: {_describe_exit(status)}")


class _Child:
    """The labeler's end of a child process.

    Attributes:
        num_decoded: Number of images that it has decoded or refused.
    """

    def __init__(self, limit_s: float) -> None:
        self.num_decoded = 0
        self._limit_s = limit_s
        alarm_s = str(math.ceil(limit_s) + _ORPHAN_S)
        self._socket, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = start_python(
                    "pipeline.stages.isolation", str(theirs.fileno()), alarm_s, pass_fds=(theirs.fileno(),)
                )
        except OSError:
            self._socket.close()
            raise

    def await_ready(self) -> None:
        """Wait until the child can decode."""
        self._receive(memoryview(bytearray(len(_READY))), _START_S)

    def decode(self, data: bytes, fast_to_px: int | None) -> Decoded:
        """Let the child decode an image.

        Raises:
            ImageError: The child cannot decode it.
            OSError, EOFError: The child has died.
            _TimedOut: The child did not answer in time.
        """
        self._socket.settimeout(self._limit_s)
        self._socket.sendall(_REQUEST.pack(fast_to_px or 0, len(data)))
        self._socket.sendall(data)
        length = bytearray(_LENGTH.size)
        self._receive(memoryview(length), self._limit_s)
        head = bytearray(*_LENGTH.unpack(length))
        self._receive(memoryview(head), self._limit_s)
        answer: dict[str, Any] = json.loads(head)
        if "reason" in answer:
            self.num_decoded += 1
            raise ImageError(answer["reason"], answer["message"])
        pixels = np.empty(answer["shape"], np.uint8)
        self._receive(pixels.reshape(-1).data, self._limit_s)
        self.num_decoded += 1
        return Decoded(torch.from_numpy(pixels).permute(answer["axes"]), answer["width"], answer["height"])

    def _receive(self, view: memoryview, limit_s: float) -> None:
        tick_s = min(_TICK_S, limit_s)
        self._socket.settimeout(tick_s)
        ticks_left = round(limit_s / tick_s)
        while view:
            try:
                got = self._socket.recv_into(view)
            except TimeoutError as error:
                ticks_left -= 1
                if ticks_left <= 0:
                    raise _TimedOut from error
                continue
            if not got:
                raise EOFError
            view = view[got:]

    def kill(self) -> None:
        """Kill the child."""
        self._process.kill()

    def end(self, grace_s: float) -> int:
        """Wait for the child to end, kill it after a grace period (seconds), and return its exit status."""
        self._socket.close()
        try:
            return self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def _describe_exit(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"


# -- the child --------------------------------------------------------------------------------------------


def _serve(connection: socket.socket, alarm_s: int) -> None:
    """Decode the images that come in, until the labeler is gone or has sent nothing for a while."""
    connection.sendall(_READY)
    request = bytearray(_REQUEST.size)
    while True:
        connection.settimeout(_IDLE_S)
        _receive(connection, memoryview(request))
        connection.settimeout(None)
        fast_to_px, num_bytes = _REQUEST.unpack(request)
        data = bytearray(num_bytes)
        _receive(connection, memoryview(data))
        signal.alarm(alarm_s)  # ends this process if the labeler is gone
        try:
            decoded = decode(bytes(data), fast_to_px=fast_to_px or None)
        except ImageError as error:
            _send_json(connection, {"reason": error.reason, "message": error.message})
        else:
            _send_pixels(connection, decoded)
        signal.alarm(0)


def _send_pixels(connection: socket.socket, decoded: Decoded) -> None:
    """Send pixels with their memory layout, because the bits of a resized picture depend on it."""
    pixels = decoded.pixels_CHW
    order = sorted(range(pixels.ndim), key=lambda axis: pixels.stride(axis), reverse=True)
    memory = pixels.permute(order)
    if not memory.is_contiguous():
        order, memory = list(range(pixels.ndim)), pixels.contiguous()
    axes = [order.index(axis) for axis in range(pixels.ndim)]
    header = {"width": decoded.width, "height": decoded.height, "shape": list(memory.shape), "axes": axes}
    _send_json(connection, header)
    connection.sendall(memory.numpy().reshape(-1).data)


def _send_json(connection: socket.socket, content: dict[str, Any]) -> None:
    data = json.dumps(content).encode()
    connection.sendall(_LENGTH.pack(len(data)) + data)


def _receive(connection: socket.socket, view: memoryview) -> None:
    while view:
        got = connection.recv_into(view)
        if not got:
            raise EOFError
        view = view[got:]


def _limit_memory() -> None:
    """Limit the memory of this process, and let the kernel kill it before the labeler."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (MAX_DATA_BYTES, MAX_DATA_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(descriptor: int, alarm_s: int) -> None:
    """Run a child process."""
    _limit_memory()
    torch.set_num_threads(1)
    with socket.socket(fileno=descriptor) as connection, contextlib.suppress(OSError, EOFError):
        _serve(connection, alarm_s)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
