"""A Ray that does not start, and a cluster that is not there, are one line that says what to do."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.engines.on_ray import RayEngine
from pipeline.engines.ray_start import limits_of_time, start_ray
from pipeline.errors import EngineError, RequestError

GRPC = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # the empty frame of settings with which a server begins


@contextlib.contextmanager
def listener(answer: bytes, host: str = "0.0.0.0") -> Iterator[int]:
    """A port where somebody listens who answers the first that comes; with nothing, if there is no answer."""
    with socket.socket() as server, contextlib.ExitStack() as until_closed:
        server.bind((host, 0))
        server.listen()

        def reply() -> None:
            with contextlib.suppress(OSError):
                connection, _ = server.accept()
                until_closed.enter_context(connection)
                connection.recv(1024)
                connection.sendall(answer)

        threading.Thread(target=reply, daemon=True).start()
        yield server.getsockname()[1]


@pytest.fixture
def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def test_an_address_where_nobody_listens_is_a_wrong_request_at_once(free_port):
    address = f"127.0.0.1:{free_port}"
    begun = time.monotonic()
    with pytest.raises(
        RequestError, match=re.escape(f"--ray-address {address}: ") + ".*refused; .*HOST:PORT.*; --engine inline"
    ):
        RayEngine(address).start()
    assert time.monotonic() - begun < 60  # Ray alone tries for a quarter of an hour


@pytest.mark.parametrize("address", ["nonsense", "host:port", "http://127.0.0.1:8265", "no-such-host.invalid:6379", ""])
def test_what_is_no_address_is_a_wrong_request(address):
    with pytest.raises(RequestError, match=r"the Ray cluster cannot be reached: .*; give HOST:PORT"):
        RayEngine(address).start()


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])  # Ray takes 127.0.0.1 for the machine's own address
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "did not answer as a Ray does within 0 s"),
        (b"HTTP/1.1 400 Bad Request\r\n", "what listens there is an HTTP server"),
        (b"220 smtp.example", "what listens there is no Ray"),
    ],
)
def test_a_listener_that_is_no_ray_is_a_wrong_request_in_a_line(answer, says, host, monkeypatch):
    monkeypatch.setattr("pipeline.engines.ray_start._JOIN_S", 0.2)
    said: list[str] = []
    what = f"[0-9.]+:[0-9]+ accepted the connection, but {says}; give HOST:PORT.*--engine inline"
    with listener(answer, host) as port, pytest.raises(RequestError, match=what) as raised:
        RayEngine(f"127.0.0.1:{port}", note=said.append).start()
    assert "\n" not in str(raised.value)
    assert said == [f"joining the Ray cluster at 127.0.0.1:{port}: it has 0 s to answer"]


def test_a_ray_on_the_loopback_address_alone_is_said_to_be_out_of_reach():
    with listener(GRPC, "127.0.0.1") as port, pytest.raises(RequestError, match=r"Ray takes 127\.0\.0\.1:\d+ for "):
        RayEngine(f"127.0.0.1:{port}").start()


def test_a_ray_client_is_refused_because_ray_data_does_not_run_through_it():
    with pytest.raises(
        RequestError, match=r"^--ray-address ray://head:10001: .*HOST:PORT.*job submit; --engine inline"
    ):
        RayEngine("ray://head:10001").start()


@pytest.mark.parametrize(("host", "mode"), [("127.0.0.1", "token"), ("127.0.0.2", None)])
def test_a_cluster_on_this_machine_is_shown_the_token_that_ray_start_asks_for(host, mode, monkeypatch):
    for name, value in (("RAY_AUTH_TOKEN", "ab" * 32), ("RAY_AUTH_MODE", "")):
        monkeypatch.setenv(name, value)
    del os.environ["RAY_AUTH_MODE"]  # as it was comes back at the end
    with listener(GRPC) as port, pytest.raises(RequestError):
        start_ray(FakeRay(Exception("as far as this goes")), f"{host}:{port}", verbose=False)
    assert os.environ.get("RAY_AUTH_MODE") == mode


@pytest.mark.slow
def test_a_port_of_something_else_is_a_wrong_request(monkeypatch):
    monkeypatch.setenv("RAY_gcs_server_port_wait_time_s", "1")
    with listener(GRPC) as port, pytest.raises(RequestError, match="Failed to connect to GCS") as raised:
        RayEngine(f"127.0.0.1:{port}").start()
    assert "Traceback" not in str(raised.value)


def test_a_ray_that_cannot_write_its_files_is_one_line_and_exit_1(sample_data, tmp_path, shardlabel, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file"))
    words = ["label", sample_data / "shard-000.tar", "--out", tmp_path / "out", "-m", "shufflenet_v2_x0_5"]
    words += ["--weights-dir", sample_data / "weights", "--labels", sample_data / "classes.txt"]
    result = shardlabel(*words, "--engine", "ray")
    assert result.returncode == 1
    starts = r"loading PyTorch\nstarting Ray on this machine: .*--engine inline.*\n"
    says = r"shardlabel: Ray does not start on this machine: .*Not a directory; .*RAY_TMPDIR.*--engine inline.*\n"
    assert re.fullmatch(starts + says, result.stderr)


def test_a_ray_whose_processes_do_not_come_up_says_what_to_do(monkeypatch):
    monkeypatch.setenv("RAY_gcs_server_port_wait_time_s", "0")  # a machine that is too busy, for all that Ray can see
    with pytest.raises(EngineError, match=r"does not start .*Timed out.*; free memory, .*; --engine inline") as raised:
        RayEngine().start()
    assert raised.value.__cause__ is not None
    assert "RAY_gcs_server_port_wait_time_s" in os.environ


def test_a_start_here_is_patient_and_leaves_the_environment_as_it_was(monkeypatch):
    monkeypatch.setenv("RAY_worker_register_timeout_seconds", "7")
    before = dict(os.environ)
    with limits_of_time(None):
        patient = dict(os.environ)
    with limits_of_time("127.0.0.1:6379"):
        joining = dict(os.environ)
    assert patient["RAY_raylet_start_wait_time_s"] == patient["RAY_gcs_server_port_wait_time_s"] == "300"
    assert patient["RAY_worker_register_timeout_seconds"] == "7"  # somebody's own
    assert "RAY_raylet_start_wait_time_s" not in joining
    assert joining["RAY_gcs_server_port_wait_time_s"] == "2"
    assert dict(os.environ) == before


class FakeRay:
    """As much of Ray as a start that fails needs, which real ones do only now and then."""

    def __init__(self, error: BaseException) -> None:
        import ray

        self._private, self.exceptions = ray._private, ray.exceptions
        self._error = error
        self.is_down = False

    def init(self, **_options) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise self._error

    def shutdown(self) -> None:
        self.is_down = True


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.9"), "versions of Ray and Python"),
        (RuntimeError("No node info found matching attributes: '10.0.0.1'"), "on a machine of the cluster"),
        (
            caused(ConnectionError("Failed to connect"), RuntimeError("Unauthenticated: no token")),
            "token.*RAY_AUTH_TOKEN",
        ),
        (Exception("Head node temp_dir not found in NodeInfo"), "HOST:PORT"),
    ],
)
def test_each_reason_why_a_cluster_does_not_take_us_has_its_remedy(error, says):
    ray = FakeRay(error)
    with listener(GRPC) as port, pytest.raises(RequestError, match=says) as raised:
        start_ray(ray, f"127.0.0.1:{port}", verbose=False)
    assert "\n" not in str(raised.value)
    assert ray.is_down


def test_a_plain_exception_of_ray_is_an_engine_error_and_leaves_sigterm_alone():
    before = signal.getsignal(signal.SIGTERM)
    ray = FakeRay(Exception("The current node timed out during startup. " + "More. " * 100))
    with pytest.raises(EngineError, match=r"The current node timed out during startup.*--engine inline"):
        start_ray(ray, None, verbose=False)
    assert ray.is_down
    assert signal.getsignal(signal.SIGTERM) == before
    assert threading.current_thread() is threading.main_thread()


def test_sigterm_while_ray_starts_is_an_interruption():
    with pytest.raises(KeyboardInterrupt):
        start_ray(FakeRay(SystemExit(15)), None, verbose=False)
