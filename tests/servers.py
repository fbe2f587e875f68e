"""Real servers on loopback: an S3 server, and a proxy in front of it that breaks things on request."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import re
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

import boto3
import pytest
from botocore.config import Config
from ceph import ACCESS_KEY, SECRET_KEY, Ceph, CephUnavailable, find_ceph

from pipeline.config.settings import StorageConfig
from pipeline.storage import Storage

_REFUSALS = {
    "slow_down": ("503 Slow Down", "SlowDown", "Please reduce your request rate."),
    "expired": ("403 Forbidden", "ExpiredToken", "The provided token has expired."),
    "unmet": ("412 Precondition Failed", "PreconditionFailed", "A condition does not hold."),
}
_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}
_UNWANTED = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_REGION", "AWS_SESSION_TOKEN")


class S3Server:
    """A running S3 server.

    Attributes:
        endpoint: Its URL.
        client: A boto3 client for it.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(s3={"addressing_style": "path"}),
        )
        self._numbers = itertools.count()

    def bucket(self) -> str:
        """The name of a new, empty bucket."""
        name = f"bucket-{next(self._numbers)}"
        self.client.create_bucket(Bucket=name)
        return name

    def put(self, bucket: str, key: str, data: bytes) -> str:
        """Write an object; its URI."""
        self.client.put_object(Bucket=bucket, Key=key, Body=data)
        return f"s3://{bucket}/{key}"

    def storage(self, **settings: object) -> Storage:
        """The project's own client for it."""
        return Storage(StorageConfig(**{"s3_endpoint": self.endpoint, **settings}))


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    """A simulation of S3: one for the whole run."""
    server_module = pytest.importorskip("moto.server", reason="moto's server is not installed")
    from moto import backends

    services = tuple(backends.list_of_moto_modules())
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # or it writes a line for each request
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "list_of_moto_modules", lambda: services)  # with each request it would list its folder
        server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        yield S3Server(f"http://{host}:{port}")
        server.stop()


@pytest.fixture(scope="session")
def ceph() -> Iterator[S3Server]:
    """A real store: one for the whole run."""
    with tempfile.TemporaryDirectory(prefix="ceph-") as home:  # of its own, since sockets want short paths
        try:
            running = Ceph(find_ceph(), Path(home))
        except CephUnavailable as error:
            pytest.skip(str(error))
        yield S3Server(running.endpoint)
        running.close()


both_servers = pytest.mark.parametrize("s3_server", ["moto", "ceph"], indirect=True)
both_servers_in_time = pytest.mark.parametrize(
    "s3_server", ["moto", pytest.param("ceph", marks=pytest.mark.slow)], indirect=True
)


@pytest.fixture
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """The S3 server of this test: moto's, where the test does not say ``both_servers``."""
    return request.getfixturevalue(getattr(request, "param", "moto"))


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The S3 server, with credentials for it in the environment of this test."""
    for name, value in _CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    for name in _UNWANTED:
        monkeypatch.delenv(name, raising=False)
    return s3_server


@pytest.fixture
def fault_proxy(s3: S3Server) -> Iterator[FaultProxy]:
    """A proxy in front of the S3 server, without faults yet."""
    proxy = FaultProxy(s3.endpoint)
    yield proxy
    proxy.stop()


@dataclass
class Fault:
    """What goes wrong, and with which answers.

    Attributes:
        kind: ``slow_down``: 503 instead of asking the server; ``expired``: likewise 403, as to a session that is
            over; ``unmet``: 412, as where a condition does not hold. ``reset``: the connection is reset after
            ``num_bytes`` of the body. ``truncate``: it is closed there. ``stall``: nothing more comes. ``lost``:
            the server has done what was asked, but its answer never arrives. ``cut``: the connection is reset
            after ``num_bytes`` of the request's own body; the server never hears of it. ``late``: all goes well,
            after ``delay_s``.
        method: Of the request; any if empty.
        path: Part of the request's path, percent-decoded.
        skip: So many matching requests are left alone first.
        times: So many are hit then.
        num_bytes, delay_s: See ``kind``.
        before: Called before anything else is done about the request.
    """

    kind: Literal["slow_down", "expired", "unmet", "reset", "truncate", "stall", "lost", "cut", "late"]
    method: str = ""
    path: str = ""
    skip: int = 0
    times: int = 1
    num_bytes: int = 0
    delay_s: float = 0.0
    before: Callable[[], object] | None = None

    def hits(self, method: str, path: str) -> bool:
        """Whether this request is to be hit; counts it."""
        if not (method.startswith(self.method) and self.path in path and self.times > 0):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True


@dataclass(frozen=True)
class Request:
    """A request that came in."""

    method: str
    path: str
    headers: dict[str, str] = field(repr=False)


class FaultProxy:
    """Forwards HTTP byte by byte, Host header included so that signatures stay valid, but for its faults.

    Attributes:
        endpoint: Its URL.
        faults: Asked in order for each request; the first that hits is used.
        requests: What has come in.
        reverses: Whether each page of a listing is turned around, as by a store that lists in no order.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream)
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.reverses = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._thread.start()
        self._server = self._wait(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def _wait(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    def stop(self) -> None:
        """End all connections and the server."""
        self._wait(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        serving = asyncio.all_tasks() - {asyncio.current_task()}
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            pass  # a side has gone, or the test is over
        finally:
            await _shut(writer)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; False when the connection is of no more use."""
        head = await reader.readuntil(b"\r\n\r\n")
        (method, target, _), headers = _parsed(head)
        self.requests.append(Request(method, unquote(target), headers))
        if headers.get("expect") == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = b"".join(line for line in head.splitlines(keepends=True) if not line.lower().startswith(b"expect:"))
        fault = next((fault for fault in self.faults if fault.hits(method, unquote(target))), None)
        if fault is not None and fault.before is not None:
            await asyncio.to_thread(fault.before)
        if fault is not None and fault.kind == "cut":
            await reader.readexactly(fault.num_bytes)
            _reset(writer)
            return False
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        if fault is not None and fault.kind in _REFUSALS:
            writer.write(_refusal(fault.kind, with_body=method != "HEAD"))
            await writer.drain()
            return True
        if fault is not None and fault.kind == "late":
            await asyncio.sleep(fault.delay_s)
            fault = None
        assert self._upstream.hostname is not None
        upstream, upward = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        try:
            upward.write(head + body)
            if self.reverses and method == "GET" and "list-type=2" in target:
                return await _answer_reversed(upstream, writer)
            return await self._answer(method, upstream, writer, fault)
        finally:
            await _shut(upward)

    async def _answer(
        self, method: str, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault | None
    ) -> bool:
        head = await upstream.readuntil(b"\r\n\r\n")
        (_, status, *_), headers = _parsed(head)
        has_body = method != "HEAD" and status not in {"204", "304"}
        if has_body and headers.get("transfer-encoding") == "chunked":
            body = await _chunks(upstream)
            head = _with_length(head, len(body))
            upstream = asyncio.StreamReader()
            upstream.feed_data(body)
            headers["content-length"] = str(len(body))
        left = int(headers["content-length"]) if has_body else 0
        if fault is not None and fault.kind == "lost":
            await upstream.readexactly(left)
            _reset(writer)
            return False
        writer.write(head)
        left = left if fault is None else min(left, fault.num_bytes)
        while left > 0:
            piece = await upstream.read(min(left, 1 << 16))
            left -= len(piece)
            writer.write(piece)
            await writer.drain()
        if fault is None:
            return True
        if fault.kind == "stall":
            await asyncio.sleep(3600)
        if fault.kind == "reset":
            await asyncio.sleep(0.05)  # a reset overtakes what the client has not read yet
            _reset(writer)
        return False


async def _answer_reversed(upstream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    head = await upstream.readuntil(b"\r\n\r\n")
    _, headers = _parsed(head)
    chunked = headers.get("transfer-encoding") == "chunked"
    body = await _chunks(upstream) if chunked else await upstream.readexactly(int(headers["content-length"]))
    turned = iter(re.findall(rb"<Contents>.*?</Contents>", body, re.DOTALL)[::-1])
    body = re.sub(rb"<Contents>.*?</Contents>", lambda _: next(turned), body, flags=re.DOTALL)
    writer.write((_with_length(head, len(body)) if chunked else head) + body)
    await writer.drain()
    return True


def _parsed(head: bytes) -> tuple[list[str], dict[str, str]]:
    """First line and headers, their names in lower case."""
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return first.split(" ", 2), {name.strip().lower(): value.strip() for name, _, value in pairs}


def _refusal(kind: str, *, with_body: bool) -> bytes:
    status, code, message = _REFUSALS[kind]
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return head + body if with_body else head


async def _chunks(upstream: asyncio.StreamReader) -> bytes:
    """A body that comes in chunks, whole."""
    body = b""
    while (size := int((await upstream.readline()).split(b";")[0], 16)) > 0:
        body += await upstream.readexactly(size)
        await upstream.readline()
    await upstream.readline()
    return body


def _with_length(head: bytes, num_bytes: int) -> bytes:
    """An answer's head, as if its body did not come in chunks."""
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"transfer-encoding:")]
    return b"\r\n".join([lines[0], b"Content-Length: %d" % num_bytes, *lines[1:]])


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _shut(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
