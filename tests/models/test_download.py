"""Downloads from a real server on loopback: whole or not at all, and watched."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading

import pytest
import safetensors.torch
import torch
from torchvision import models as tv

from pipeline.config.members import MemberRequest
from pipeline.errors import WeightsError
from pipeline.models import catalog
from pipeline.models.download import DownloadError, from_url
from pipeline.models.weights import resolve
from pipeline.storage import Storage

DATA = bytes(range(256)) * 12_000  # three megabytes


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers from a dict of files; breaks off as often as it is told to."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append(self.path)
        data = self.server.files.get(self.path)
        if data is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.cuts > 0:
            self.server.cuts -= 1
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        self.wfile.write(data)

    do_HEAD = do_GET

    def log_message(self, *_args):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.files, running.cuts, running.asked = {}, 0, []
        running.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_download_is_watched_to_its_end(server):
    server.files["/x.pth"] = DATA
    seen = []
    assert from_url(f"{server.url}/x.pth", "x.pth", lambda *words: seen.append(words)) == DATA
    done = [number for _, number, _ in seen]
    assert done == sorted(set(done))
    assert len(done) >= 3
    assert seen[-1] == ("x.pth", len(DATA), len(DATA))


@pytest.mark.parametrize("cuts", [1, 2])
def test_an_answer_that_breaks_off_is_asked_for_again(server, cuts):
    server.files["/x.pth"], server.cuts = DATA, cuts
    assert from_url(f"{server.url}/x.pth", "x.pth", lambda *_: None) == DATA
    assert len(server.asked) == cuts + 1


def test_but_not_for_ever(server):
    server.files["/x.pth"], server.cuts = DATA, 99
    with pytest.raises(DownloadError, match=r"broke off 3 times, last with IncompleteRead\(0 bytes read, \d+ more"):
        from_url(f"{server.url}/x.pth", "x.pth", lambda *_: None)
    assert len(server.asked) == 3


def test_what_is_not_there_is_not_asked_for_twice(server):
    with pytest.raises(DownloadError, match="Not Found"):
        from_url(f"{server.url}/x.pth", "x.pth", lambda *_: None)
    assert server.asked == ["/x.pth"]


def checkpoint(num_classes: int) -> bytes:
    torch.manual_seed(0)
    network = tv.squeezenet1_1(weights=None, num_classes=num_classes)
    return safetensors.torch.save(dict(network.state_dict()))


@pytest.fixture
def published_here(server, monkeypatch, tmp_path):
    """A server that has squeezenet1_1's weights under a name that carries their hash."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch-home"))
    data = checkpoint(7)
    name = f"squeezenet1_1-{hashlib.sha256(data).hexdigest()[:8]}.safetensors"
    real = catalog.find("squeezenet1_1").published[0]
    published = dataclasses.replace(real, file_name=name, url=f"{server.url}/{name}")
    architecture = catalog.Architecture("squeezenet1_1", (published,))
    monkeypatch.setattr("pipeline.models.weights.find", lambda _name: architecture)
    server.files[f"/{name}"] = data
    return published


def test_published_weights_are_downloaded_once(server, published_here, tmp_path):
    for _ in range(2):
        assert resolve(MemberRequest.parse("squeezenet1_1"), None, Storage()).spec.num_classes == 7
    assert server.asked == [f"/{published_here.file_name}"]
    assert [path.name for path in (tmp_path / "torch-home").rglob("*") if path.is_file()] == [published_here.file_name]


def test_a_download_that_is_not_what_its_name_promises_is_not_kept(server, published_here, tmp_path):
    server.files[f"/{published_here.file_name}"] = checkpoint(8)
    with pytest.raises(WeightsError, match="promises a sha256"):
        resolve(MemberRequest.parse("squeezenet1_1"), None, Storage())
    assert not [path for path in (tmp_path / "torch-home").rglob("*") if path.is_file()]


_FROM_THE_HUB = """
import json, sys
from pipeline.models.download import DownloadError, from_hub
seen = []
try:
    path = from_hub("timm/xception41.tf_in1k", "xception41", lambda *words: seen.append(words))
    print(json.dumps({"bytes": path.stat().st_size, "name": path.name, "seen": seen[-1:]}))
except DownloadError as error:
    print(json.dumps({"error": str(error)}))
"""


def from_the_hub(server, home):
    """In a process of its own, because the hub's client reads its settings when it is imported."""
    hub = {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", _FROM_THE_HUB], env={**os.environ, **hub}, capture_output=True, text=True, check=True
    )
    with contextlib.suppress(json.JSONDecodeError):
        return json.loads(done.stdout), done.stderr
    raise AssertionError(done.stdout + done.stderr)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_the_hubs_files_are_watched_and_nothing_else_is_drawn(server, tmp_path, file):
    server.files[f"/timm/xception41.tf_in1k/resolve/main/{file}"] = DATA
    found, said = from_the_hub(server, tmp_path)
    assert found == {"bytes": len(DATA), "name": file, "seen": [["xception41", len(DATA), len(DATA)]]}
    assert "%" not in said


def test_a_repository_that_is_not_there(server, tmp_path):
    found, _ = from_the_hub(server, tmp_path)
    assert "error" in found
