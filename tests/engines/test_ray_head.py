"""A cluster whose head is gone ends a job with a line, before Ray would end it without one."""

from __future__ import annotations

import socket
import threading

import pytest

from pipeline.engines import ray_head
from pipeline.errors import EngineError


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    for name, seconds in (("_EVERY_S", 0.01), ("_SAY_S", 0.0)):
        monkeypatch.setattr(ray_head, name, seconds)
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "20.1")  # 0.1 s more than it takes to leave in order


def test_a_head_that_is_gone_is_said_and_ends_the_run():
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(EngineError, match=f"head of the Ray cluster at {address} has been gone .*the same command"):
        ray_head.watch_head(address, threading.Event(), said.append)
    assert len(said) == 1
    assert "does not answer" in said[0]


def test_a_head_that_answers_is_watched_until_the_job_has_ended():
    ended, said = threading.Event(), list[str]()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        watching = threading.Thread(target=ray_head.watch_head, args=(address, ended, said.append))
        watching.start()
        for _ in range(3):
            server.accept()[0].close()
        ended.set()
        watching.join()
    assert said == []
