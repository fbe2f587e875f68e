"""The server of the page: on this machine alone, for who knows the address, whose path is a secret.

Every request needs the token and a Host that is this machine by name: a page of another site, whose name has been made
to lead here, has another Host. The page's policy lets it ask this server alone.
"""

from __future__ import annotations

import hmac
import json
import secrets
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pipeline.annotation_page.pictures import PictureMissing
from pipeline.annotation_page.session import Session
from pipeline.errors import RequestError, ShardlabelError
from pipeline.text.safe import json_text, printable

_ADDRESS = "127.0.0.1"
_HOSTS = frozenset({"127.0.0.1", "localhost"})  # at any port: ssh may forward another one
_FILES = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    **{
        f"{name}.js": (f"{name}.js", "text/javascript; charset=utf-8")
        for name in ("page", "classes", "search", "pictures", "saving")
    },
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_MAX_BODY = 64 << 10
_SIDE_PX, _MIN_SIDE_PX, _MAX_SIDE_PX = 1600, 64, 8192
_IDLE_S = 60.0


class PageServer:
    """Serves a session until it is interrupted.

    Args:
        session: What it serves.
        port: To listen on; 0 for a free one.

    Attributes:
        url: The address to open.
        ticket_url: An address that leads to it once: it may be seen by others, in a list of processes.

    Raises:
        RequestError: The port is not free.
    """

    def __init__(self, session: Session, port: int = 0) -> None:
        try:
            self._server = _Server((_ADDRESS, port), _Handler)
        except (OSError, OverflowError) as error:
            raise RequestError(f"--port {port}: {getattr(error, 'strerror', None) or error}") from error
        self._server.session = session
        base = f"http://{_ADDRESS}:{self._server.server_address[1]}/"
        self.url, self.ticket_url = f"{base}{self._server.token}/", base + self._server.ticket

    def serve(self) -> None:
        """Answer requests until :meth:`stop` is called from another thread, or Ctrl-C."""
        self._server.serve_forever(poll_interval=0.2)

    def stop(self) -> None:
        """Make :meth:`serve` return."""
        self._server.shutdown()

    def close(self) -> None:
        """Close the port, after the answer that is being written."""
        self._server.server_close()
        self._server.session.close()


class _Server(ThreadingHTTPServer):
    request_queue_size = 64
    daemon_threads = True  # browsers hold connections open without asking anything: nobody waits for those
    session: Session

    def __init__(self, *args: Any) -> None:  # noqa: ANN401 - the base class's own
        self.token = secrets.token_urlsafe(24)
        self.ticket = secrets.token_urlsafe(24)
        self._lock = threading.Lock()
        super().__init__(*args)

    def use_ticket(self, given: str) -> bool:
        """Whether this is the ticket, which then is used up."""
        with self._lock:
            known = bool(self.ticket) and _equal(given, self.ticket)
            self.ticket = "" if known else self.ticket
        return known

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - likewise
        """A browser that hangs up is no error; nothing is printed into the user's terminal."""


class _Refused(Exception):  # noqa: N818 - no error of the program
    """A request that gets no answer but this.

    Attributes:
        status: Of HTTP.
    """

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _IDLE_S
    server_version = "shardlabel"
    sys_version = ""
    protocol_version = "HTTP/1.0"  # one request a connection: none of them holds a thread for long

    def do_GET(self) -> None:
        """A file of the page, the state, a picture, or what was predicted for it."""
        self._answer(self._get)

    do_HEAD = do_GET  # a name that http.server gives

    def do_POST(self) -> None:
        """An annotator's answer."""
        self._answer(self._post)

    def log_message(self, *args: object) -> None:
        """Nothing is logged: the terminal is the user's, and addresses hold the token."""

    def _answer(self, respond: Callable[[str, Mapping[str, str]], None]) -> None:
        try:
            if _host_name(self.headers.get("Host", "")) not in _HOSTS:
                raise _Refused(HTTPStatus.FORBIDDEN, "this page is served for 127.0.0.1 and localhost alone")
            if (origin := self.headers.get("Origin")) and _host_name(origin.removeprefix("http://")) not in _HOSTS:
                raise _Refused(HTTPStatus.FORBIDDEN, "another site asks")
            split = urlsplit(self.path)
            token, slash, path = split.path.removeprefix("/").partition("/")
            if self.server.use_ticket(token):
                self._send(HTTPStatus.SEE_OTHER, "text/plain", b"", {"Location": f"/{self.server.token}/"})
                return
            if not slash or not _equal(token, self.server.token):
                raise _Refused(HTTPStatus.FORBIDDEN, "open the whole address that `shardlabel annotate` has printed")
            query = parse_qs(split.query, keep_blank_values=True)
            respond(path, {name: values[-1] for name, values in query.items()})
        except _Refused as refused:
            self._send_json(refused.status, {"problem": str(refused)})
        except ShardlabelError as error:
            self._send_json(HTTPStatus.UNPROCESSABLE_ENTITY, {"problem": printable(error)})

    def _get(self, path: str, query: Mapping[str, str]) -> None:
        session = self.server.session
        if path in _FILES:
            name, kind = _FILES[path]
            self._send(HTTPStatus.OK, kind, files("pipeline.annotation_page").joinpath(name).read_bytes())
        elif path == "state":
            self._send_json(HTTPStatus.OK, session.state(query.get("by")))
        elif path == "count":
            self._send_json(HTTPStatus.OK, session.count())
        elif path.startswith("predictions/"):
            self._send_json(HTTPStatus.OK, session.candidates(self._number(path)))
        elif path.startswith("picture/"):
            self._send_picture(self._number(path), query)
        else:
            raise _Refused(HTTPStatus.NOT_FOUND, "there is no such page")

    def _post(self, path: str, query: Mapping[str, str]) -> None:
        if path != "answer":
            raise _Refused(HTTPStatus.NOT_FOUND, "there is no such page")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _MAX_BODY:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "an answer is shorter")
        if self.headers.get_content_type() != "application/json":
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "an answer is JSON")
        try:
            told = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, "an answer is JSON") from error
        if not isinstance(told, dict):
            raise _Refused(HTTPStatus.BAD_REQUEST, "an answer is a JSON object")
        status, content = self.server.session.answer(told)
        self._send_json(HTTPStatus(status), content)

    def _number(self, path: str) -> int:
        """The number of an image, at the end of a path."""
        number = path.rpartition("/")[2]
        if not number.isdecimal() or int(number) >= len(self.server.session):
            raise _Refused(HTTPStatus.NOT_FOUND, "there is no such image")
        return int(number)

    def _send_picture(self, at: int, query: Mapping[str, str]) -> None:
        side = query.get("px", "")
        side_px = min(_MAX_SIDE_PX, max(_MIN_SIDE_PX, int(side))) if side.isdecimal() else _SIDE_PX
        ahead = [int(one) for one in query.get("ahead", "").split(",") if one.isdecimal()]
        session = self.server.session
        try:
            kind, picture = session.pictures.rendered(at, side_px, [one for one in ahead if one < len(session)])
        except PictureMissing as missing:
            raise _Refused(HTTPStatus.NOT_FOUND, printable(missing)) from missing
        self._send(HTTPStatus.OK, kind, picture)

    def _send_json(self, status: HTTPStatus, content: object) -> None:
        self._send(status, "application/json", json_text(content).encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes, more: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(body)), **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _host_name(host: str) -> str:
    """The name in a ``Host`` header, without the port."""
    name, colon, port = host.partition(":")
    return name.lower() if not colon or port.isdecimal() else ""


def _equal(given: str, secret: str) -> bool:
    """Whether two texts are equal, in a time that does not tell how far they are."""
    return hmac.compare_digest(given.encode(), secret.encode())
