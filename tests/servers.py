"""Real servers on loopback: an S3 server, and a proxy in front of it that breaks things on request."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote, urlsplit

import boto3
import pytest
from botocore.config import Config

from pipeline.config import StorageConfig
from pipeline.storage import Storage

_SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKTEST",
    "AWS_SECRET_ACCESS_KEY": "SKTEST",
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
            aws_access_key_id="AKTEST",
            aws_secret_access_key="SKTEST",
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
def s3_server() -> Iterator[S3Server]:
    """One S3 server for the whole run."""
    server_module = pytest.importorskip("moto.server", reason="moto's server is not installed")
    server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield S3Server(f"http://{host}:{port}")
    server.stop()


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
        kind: ``slow_down``: 503 instead of asking the server. ``reset``: the connection is reset after
            ``num_bytes`` of the body. ``truncate``: it is closed there. ``stall``: nothing more comes.
            ``lost``: the server has done what was asked, but its answer never arrives. ``cut``: the connection
            is reset after ``num_bytes`` of the request's own body; the server never hears of it.
        method: Of the request; any if empty.
        path: Part of the request's path, percent-decoded.
        skip: So many matching requests are left alone first.
        times: So many are hit then.
        num_bytes: See ``kind``.
    """

    kind: Literal["slow_down", "reset", "truncate", "stall", "lost", "cut"]
    method: str = ""
    path: str = ""
    skip: int = 0
    times: int = 1
    num_bytes: int = 0

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
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream)
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self._loop = asyncio.new_event_loop()
        self._serving: set[asyncio.Task[None]] = set()
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
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            pass  # a side has gone, or the test is over
        finally:
            self._serving.discard(task)
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
        if fault is not None and fault.kind == "cut":
            await reader.readexactly(fault.num_bytes)
            _reset(writer)
            return False
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        if fault is not None and fault.kind == "slow_down":
            answer = b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n"
            writer.write(answer % len(_SLOW_DOWN) + (_SLOW_DOWN if method != "HEAD" else b""))
            await writer.drain()
            return True
        assert self._upstream.hostname is not None
        upstream, upward = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        try:
            upward.write(head + body)
            return await self._answer(method, upstream, writer, fault)
        finally:
            await _shut(upward)

    async def _answer(
        self, method: str, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault | None
    ) -> bool:
        head = await upstream.readuntil(b"\r\n\r\n")
        (_, status, *_), headers = _parsed(head)
        has_body = method != "HEAD" and status not in {"204", "304"}
        if has_body and "content-length" not in headers:
            raise ValueError(f"an answer of unknown length: {head!r}")
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


def _parsed(head: bytes) -> tuple[list[str], dict[str, str]]:
    """First line and headers, their names in lower case."""
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return first.split(" ", 2), {name.strip().lower(): value.strip() for name, _, value in pairs}


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _shut(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
