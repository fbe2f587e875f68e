"""The Python API in the kernel of a real notebook."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY
from jupyter_client.manager import start_new_kernel
from small_jobs import options


class Kernel:
    def __init__(self, client) -> None:
        self.client = client

    def run(self, code: str) -> list[tuple[str, dict]]:
        """What a cell shows: kinds of messages and their content."""
        sent, shown = self.client.execute(code), []
        while True:
            message = self.client.get_iopub_msg(timeout=120)
            if message["parent_header"].get("msg_id") != sent:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                return shown
            if kind not in {"status", "execute_input"}:
                shown.append((kind, content))

    def complete(self, code: str) -> list[str]:
        return self.client.complete(code, reply=True, timeout=120)["content"]["matches"]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory) -> Iterator[Kernel]:
    folder = tmp_path_factory.mktemp("notebook")
    paths = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": paths, "IPYTHONDIR": str(folder), "JUPYTER_RUNTIME_DIR": str(folder)}
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(folder), env=env)
    try:
        yield Kernel(client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_job_in_a_notebook(kernel: Kernel, sample_data: Path):
    assert kernel.run("import shardlabel, pipeline, sys") == []
    assert kernel.complete("shardlabel.") == sorted(__import__("shardlabel").__all__)
    assert "keep_probs=" in kernel.complete("shardlabel.label('in', 'out', keep_")

    job = options(sample_data, limit=4)
    shown = kernel.run(f"shardlabel.label({str(sample_data)!r}, 'out', **{job!r})")
    assert shown[0][0] == "display_data"
    assert shown[-2][0] == "update_display_data"  # the same line, renewed
    assert "4 images in" in shown[-2][1]["data"]["text/plain"]
    assert {kind for kind, _ in shown[1:-1]} == {"update_display_data"}, shown
    result = shown[-1][1]["data"]
    assert result["text/plain"].startswith("LabelSummary(out=")
    assert "<table>" in result["text/html"]

    ((_, wrong),) = [each for each in kernel.run("shardlabel.status('nowhere')") if each[0] == "error"]
    assert wrong["ename"] == "OutputError"
    assert len(wrong["traceback"]) == 1
    assert kernel.run("sys.modules['shardlabel'].label is pipeline.label")[0][1]["data"]["text/plain"] == "True"
