"""Joining a Ray cluster, or starting Ray on this machine: quietly, and safely. Ray itself is handed in."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import EngineError, RequestError, ShardlabelError
from pipeline.machine import num_local_cpus

_CONNECT_S = 10.0
_JOIN_S = 60.0  # for what listens at an address to answer as a Ray does
_GCS_WAIT = "RAY_gcs_server_port_wait_time_s"
_GCS_TRIES = "2"  # of 40 s each, with what answers at an address; Ray's own default is 20
_START_S = 300  # for each process of a Ray that is started here; Ray's own limits, of 30 to 100 s, end on busy machines
_START_LIMITS = {
    _GCS_WAIT: str(_START_S),
    "RAY_raylet_start_wait_time_s": str(_START_S),
    "RAY_worker_register_timeout_seconds": str(_START_S),
    "RAY_agent_register_timeout_ms": str(_START_S * 1000),
}
# what a client of HTTP/2 sends first, and an empty frame of settings (RFC 9113, 3.4); any gRPC server answers it
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS_FRAME = 4
_CLIENT = "ray://"
_MAX_REASON = 300
_TRACEBACK = "Traceback (most recent call last):"
_WITHOUT_RAY = "--engine inline runs the same job in this process, without Ray"


def set_environment(*, verbose: bool) -> None:
    """Set what Ray reads when it is imported, where nobody has set it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    if not verbose:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")


def announce(address: str | None) -> str:
    """What is said before Ray is started or joined, in one line."""
    if address is None:
        return "starting Ray on this machine: 10 s, minutes where it is busy; --engine inline does without"
    return f"joining the Ray cluster at {address}: it has {_JOIN_S:.0f} s to answer"


def start_ray(ray: Any, address: str | None, *, verbose: bool) -> None:  # noqa: ANN401 - a module
    """Join a cluster, or start Ray on this machine. What this process does on SIGTERM stays as it was.

    Args:
        ray: The module.
        address: Of a running cluster; None starts Ray here.
        verbose: Whether Ray may print.

    Raises:
        RequestError: The cluster cannot be reached, or does not take this process.
        EngineError: Ray does not start on this machine.
    """
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address is None:
            _start_here(ray, verbose=verbose)
        else:
            _join(ray, address, verbose=verbose)
    except SystemExit as error:  # what Ray does on SIGTERM while it starts
        raise KeyboardInterrupt from error
    finally:
        if on_sigterm is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)


def _start_here(ray: Any, *, verbose: bool) -> None:  # noqa: ANN401 - a module
    _keep_token_private()
    try:
        with _native_stderr_silenced(verbose=verbose), _on_loopback(ray):
            ray.init(
                address="local",
                include_dashboard=False,
                num_cpus=num_local_cpus(),
                log_to_driver=verbose,
                logging_level=_level(verbose=verbose),
            )
    except Exception as error:
        raise _not_started(ray, error) from error
    _keep_token_private()  # it may be a new one


def _join(ray: Any, address: str, *, verbose: bool) -> None:  # noqa: ANN401 - a module
    if address.startswith(_CLIENT):
        mend = "give HOST:PORT of the cluster's head on one of its machines, or send the command by ray job submit"
        raise RequestError(
            f"--ray-address {address}: Ray Data does not run through a Ray Client; {mend}; {_WITHOUT_RAY}"
        )
    try:
        _check_listener(ray, address)
        _take_token(ray, address, verbose=verbose)
        with _native_stderr_silenced(verbose=verbose):
            ray.init(address=address, log_to_driver=verbose, logging_level=_level(verbose=verbose))
    except Exception as error:
        raise _not_joined(ray, address, error) from error


def _level(*, verbose: bool) -> int:
    return logging.INFO if verbose else logging.ERROR


@contextlib.contextmanager
def limits_of_time(address: str | None) -> Iterator[None]:
    """Set Ray's limits of time where nobody has set them: patient for a start here, short for joining.

    Ray reads some of them when it is imported, and the processes that it starts inherit all.

    Args:
        address: Of a running cluster; None where Ray is started here.
    """
    limits = _START_LIMITS if address is None else {_GCS_WAIT: _GCS_TRIES}
    added = {name: value for name, value in limits.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _check_listener(ray: Any, address: str) -> None:  # noqa: ANN401 - a module
    """Make sure that what may be a Ray answers at an address. Ray itself would try for a quarter of an hour.

    Raises:
        OSError: Nothing does.
        ValueError: It is no address.
    """
    found = ray._private.services.canonicalize_bootstrap_address(address)
    if not found:  # "local", which Ray starts
        return
    try:
        _expect_ray(found)
    except ConnectionRefusedError as error:
        what = f"{found}: {error.strerror}"
        if address not in (found, "auto"):  # Ray never joins by a loopback address, whoever may listen there
            _expect_ray(address)
            what = f"Ray takes {address} for {found}, this machine's address: {error.strerror}"
        raise OSError(what) from None


def _expect_ray(place: str) -> None:
    """Make sure that what may be a Ray answers at HOST:PORT: a gRPC server, as each Ray has one.

    Raises:
        OSError: There is none, or it does not answer in time.
        ValueError: There is no port.
    """
    host, _, port = place.rpartition(":")
    if not port.isdigit():
        raise ValueError(f"{place}: no port")
    try:
        connection = socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S)
    except TimeoutError:
        raise OSError(f"{place} did not accept the connection within {_CONNECT_S:.0f} s") from None
    with connection:
        if os.environ.get("RAY_USE_TLS", "0") not in ("0", "false", "False"):  # with TLS nobody answers plain bytes
            return
        connection.sendall(_HTTP2_HELLO)
        if not select.select([connection], [], [], _JOIN_S)[0]:
            raise OSError(f"{place} accepted the connection, but did not answer as a Ray does within {_JOIN_S:.0f} s")
        answer = connection.recv(9)
    if len(answer) < 4 or answer[3] != _SETTINGS_FRAME:
        what = "an HTTP server" if answer.startswith((b"HTTP", b"<")) else "no Ray"
        raise OSError(f"{place} accepted the connection, but what listens there is {what}")


def _take_token(ray: Any, address: str, *, verbose: bool) -> None:  # noqa: ANN401 - a module
    """Show this user's token to a cluster on this machine, as Ray itself does for ``auto``.

    ``ray start`` asks for it where there is one, and each Ray that was started here has left one. A cluster elsewhere
    may have another, and is not shown this one.
    """
    services, setup = ray._private.services, ray._private.authentication.authentication_token_setup
    host = address.rpartition(":")[0].strip("[]")
    if services.is_localhost(host) or host == services.get_node_ip_address():
        setup.logger.setLevel(_level(verbose=verbose))
        setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


# -- what Ray raises, in one line of ours -----------------------------------------------------------------


def _not_started(ray: Any, error: Exception) -> ShardlabelError:  # noqa: ANN401 - a module
    """Why Ray does not start here. It raises a plain Exception, or anything else, for whatever its processes lack."""
    with contextlib.suppress(Exception):
        ray.shutdown()  # the processes that did start
    mend = "free memory, disk or processors if they are short, and run the same command again"
    if isinstance(error, OSError):
        mend = "let RAY_TMPDIR name a folder with a short path that can be written, and HOME one that is there"
    return EngineError(f"Ray does not start on this machine: {_reason(error)}; {mend}; {_WITHOUT_RAY}")


def _not_joined(ray: Any, address: str, error: Exception) -> ShardlabelError:  # noqa: ANN401 - a module
    with contextlib.suppress(Exception):
        ray.shutdown()
    reason = _reason(error)
    if "ersion mismatch" in reason:
        mend = "install the cluster's versions of Ray and Python here"
    elif isinstance(error, ray.exceptions.AuthenticationError) or any(
        word in reason for word in ("nauthenticated", "AuthToken")
    ):
        reason = "it wants a token, or another one"
        mend = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token"
    elif "No node info found" in reason:
        mend = "run the command on a machine of the cluster"
    else:
        mend = "give HOST:PORT of a running cluster's head, or leave it out to start Ray on this machine"
    what = f"--ray-address {address}: the Ray cluster cannot be reached: {reason}"
    return RequestError(f"{what}; {mend}; {_WITHOUT_RAY}")


def _reason(error: Exception) -> str:
    """The innermost cause that Ray names, in one line; of a traceback that it quotes only the end."""
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    if isinstance(cause, OSError) and cause.strerror:
        text = f"{cause.filename}: {cause.strerror}" if cause.filename else cause.strerror
    else:
        before, quoted, trace = str(cause).strip().partition(_TRACEBACK)
        text = before + trace.rpartition("\n")[2] if quoted else before
    text = " ".join(text.split()).rstrip(". ") or type(cause).__name__
    return text if len(text) <= _MAX_REASON else f"{text[: _MAX_REASON - 3]}..."


# -- quiet and private ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _native_stderr_silenced(*, verbose: bool) -> Iterator[None]:
    """Send file descriptor 2 nowhere for a while, if not verbose: Ray's core announces its log level there."""
    if verbose:
        yield
        return
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextlib.contextmanager
def _on_loopback(ray: Any) -> Iterator[None]:  # noqa: ANN401 - a module
    """Have a Ray that is started here listen on 127.0.0.1 alone: nobody is to join it.

    It does so by itself where it supports no clusters (macOS, Windows), and has no option for it: an address of
    127.0.0.1 that it is given becomes the machine's own. Anyone who gets in can run code; what keeps the other users of
    this machine out is Ray's token.
    """
    constants = ray._private.ray_constants
    kept, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = kept


@contextlib.contextmanager
def stdout_untouched(ray: Any, *, verbose: bool) -> Iterator[None]:  # noqa: ANN401 - a module
    """Have Ray print nothing, or on stderr: it reports deaths on stdout by itself, between lines of JSON."""
    worker = ray._private.worker
    original = worker.print_to_stdstream

    def print_on_stderr(data: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Ray's own
        if verbose:
            original({**data, "is_err": True}, *args, **kwargs)

    worker.print_to_stdstream = print_on_stderr
    try:
        yield
    finally:
        worker.print_to_stdstream = original


def _keep_token_private() -> None:
    """Let nobody else read the token that opens a Ray started here; Ray leaves that to the umask."""
    folder = Path.home() / ".ray"
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "auth_token").chmod(0o600)
