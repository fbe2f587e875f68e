"""Whether the head of a Ray cluster is there: without it Ray ends this process after a minute, and says nothing."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable

from pipeline.errors import EngineError

_EVERY_S = 5.0
_CONNECT_S = 5.0
_SAY_S = 8.0  # a head that is started again may be back by then
_RAYS_LIMIT = "RAY_gcs_rpc_server_reconnect_timeout_s"
_RAYS_LIMIT_S = 60.0
_LEAVING_S = 20.0  # before Ray's own limit, so that there is time to end in order


def watch_head(address: str, ended: threading.Event, note: Callable[[str], object]) -> None:
    """Wait until a job has ended, or the head of its cluster is gone for good.

    Args:
        address: HOST:PORT of the head.
        ended: Set when the job has ended.
        note: Called with lines for the user.

    Raises:
        EngineError: The head is gone.
    """
    patience_s = max(_EVERY_S, _rays_limit() - _LEAVING_S)
    answered_at, is_said = time.monotonic(), False
    while not ended.wait(_EVERY_S):
        if _listens(address):
            answered_at, is_said = time.monotonic(), False
            continue
        gone_s = time.monotonic() - answered_at
        if gone_s >= patience_s:
            raise EngineError(
                f"the head of the Ray cluster at {address} has been gone for {gone_s:.0f} s; what is published stays, "
                "and the same command goes on from there when a cluster is up"
            )
        if gone_s >= _SAY_S and not is_said:
            note(f"the head of the Ray cluster at {address} does not answer; the run waits {patience_s:.0f} s for it")
            is_said = True


def _rays_limit() -> float:
    """How long Ray itself tries, seconds."""
    try:
        return float(os.environ.get(_RAYS_LIMIT, _RAYS_LIMIT_S))
    except ValueError:
        return _RAYS_LIMIT_S


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except OSError:
        return False
    return True
