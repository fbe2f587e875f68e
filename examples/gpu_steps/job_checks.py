"""Checks of whole jobs: their rows against a CPU's, twice, after a kill, and under compute-sanitizer."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from gpu_steps.material import Material
from pipeline import label
from pipeline.sample_data import sample_data, sample_members

if TYPE_CHECKING:
    from gpu_steps.worker import Tell

Row = dict[str, Any]

_SAME_TOP1 = 0.995  # share of the rows, in auto
_TIE = 1e-3  # a lead of the first class over the second, as a difference of logits, that fp32's rounding may turn
_SHIPPED = {"cuda": 245, "cpu": 16}  # images of the sample data
_LABEL = "import json, sys; from pipeline import label; label(**json.loads(sys.argv[1]))"
_LEAST_S, _REHEARSAL_S = 10.0, 60.0  # for a job in a process of its own
_FOUND = 86  # what it ends with when it finds something
_SANITIZER = "/usr/local/cuda/bin/compute-sanitizer"  # where it is not on PATH


# -- rows -------------------------------------------------------------------------------------------------


def check_rows(material: Material, tell: Tell) -> None:
    """Trained networks on the photographs that ship, then larger ones on photographs that are made."""
    shipped = {"inputs": str(sample_data()), "max_bad_rate": 1.0, "limit": _SHIPPED[material.device.type]}
    shipped |= sample_members()
    made = {"inputs": str(material.checked_tars), **_members(material, material.names[: 2 if material.on_gpu else 1])}
    for title, job in (("shipped", shipped), ("made", made)):
        expected = _label(material, job, f"{title}-cpu", device="cpu", precision="fp32")
        for precision in ("auto", "fp32"):
            found = _label(material, job, f"{title}-{precision}", precision=precision)
            _compare_with_cpu(tell, f"{title} photographs, {precision}", found, expected, precision)
        again = _label(material, job, f"{title}-again", precision="fp32")
        _compare_twice(tell, f"{title} photographs, the same rows twice in fp32", found, again)
    auto = _rows(material.scratch / "made-auto")
    _compare_twice(tell, "made photographs, the same rows twice", auto, _label(material, made, "made-auto-again"))


def _members(material: Material, names: tuple[str, ...]) -> Row:
    for name in names:
        material.member(name)  # so that its checkpoint is there
    labels = material.scratch / "classes.txt"
    labels.write_text("".join(f"class {number}\n" for number in range(material.member(names[0]).spec.num_classes)))
    return {"model": list(names), "weights_dir": str(material.weights_dir), "labels": str(labels)}


def _options(material: Material, job: Mapping[str, Any], out: str, **more: object) -> Row:
    usual = {"device": material.device.type, "engine": "inline", "progress": "none"}
    return {**usual, **job, "out": str(material.scratch / out), **more}


def _label(material: Material, job: Mapping[str, Any], out: str, **more: object) -> list[Row]:
    """Run a job, and read its rows."""
    label(**_options(material, job, out, **more))
    return _rows(material.scratch / out)


def _rows(out: Path) -> list[Row]:
    """All rows, in the order of the input."""
    return sorted(pq.read_table(out / "predictions").to_pylist(), key=lambda row: (row["shard"], row["index"]))


def _lead(top: Mapping[str, Any]) -> float:
    """How far the first class leads, as a difference of logits."""
    first, second = (max(score, 1e-30) for score in top["scores"][:2])
    return math.log(first / second)


def _compare_with_cpu(tell: Tell, name: str, found: list[Row], expected: list[Row], precision: str) -> None:
    """Compare the first classes of the consensus and of each member."""
    same = [row["key"] for row in found] == [row["key"] for row in expected]
    pairs = list(zip(found, expected, strict=True)) if same else []
    tops = {"consensus": pairs}
    for alias in expected[0]["members"]:
        tops[alias] = [(one["members"][alias], other["members"][alias]) for one, other in pairs]
    details: dict[str, object] = {"rows": len(found)}
    right = same
    for title, both in tops.items():
        others = [_lead(other) for one, other in both if one["labels"][0] != other["labels"][0]]
        details[title] = {"other top-1": len(others), "largest lead": max(others, default=0.0)}
        ties_only = all(lead < _TIE for lead in others)
        right &= ties_only if precision == "fp32" else len(others) <= (1 - _SAME_TOP1) * len(both)
    tell.check(name, right, **details)


def _compare_twice(tell: Tell, name: str, found: list[Row], again: list[Row]) -> None:
    """Compare all columns, bit for bit."""
    other = sum(one != two for one, two in zip(found, again, strict=False))
    labels = sum(one["label"] != two["label"] for one, two in zip(found, again, strict=False))
    moved = max((abs(one["score"] - two["score"]) for one, two in zip(found, again, strict=False)), default=0.0)
    details = {"rows": len(found), "that differ": other, "labels that differ": labels, "worst score": moved}
    tell.check(name, len(found) == len(again) and other == 0, **details)


# -- in processes of their own ----------------------------------------------------------------------------


def check_resume(material: Material, tell: Tell) -> None:
    """Kill a job when some parts are there, run it again, and compare with one that was left alone."""
    job = {"inputs": str(material.checked_tars), **sample_members(), "rows_per_part": 32 if material.on_gpu else 4}
    expected = _label(material, job, "undisturbed")
    options = _options(material, job, "killed")
    running = _start(options)
    try:
        while running.poll() is None and _num_parts(options) < 2:
            time.sleep(0.005)
    finally:
        running.kill()
        running.wait()
    killed_at = sum(pq.read_metadata(path).num_rows for path in _parts(options))
    found = _label(material, job, "killed")
    tell.check("killed in the middle", 0 < killed_at < len(expected), rows=killed_at, of=len(expected))
    _compare_twice(tell, "the same rows after a kill", found, expected)


def _start(options: Mapping[str, Any], *, before: tuple[str, ...] = (), **environment: str) -> subprocess.Popen[bytes]:
    """A job in a process of its own."""
    return subprocess.Popen(
        [*before, sys.executable, "-c", _LABEL, json.dumps(options)],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def _parts(options: Mapping[str, Any]) -> list[Path]:
    return list(Path(options["out"]).glob("predictions/*.parquet"))


def _num_parts(options: Mapping[str, Any]) -> int:
    return len(_parts(options))


def check_memory_use(material: Material, tell: Tell) -> None:
    """Run a small job under compute-sanitizer, each tensor in an allocation of its own; without it where it is not."""
    tool = shutil.which("compute-sanitizer") or (_SANITIZER if os.access(_SANITIZER, os.X_OK) else None)
    tell.figure("compute-sanitizer", tool or "it is not on PATH: the job runs without it")
    words = ("--tool", "memcheck", "--report-api-errors", "no", "--error-exitcode", str(_FOUND))
    before = () if tool is None else (tool, *words)
    job = {"inputs": str(sample_data()), "max_bad_rate": 1.0, "limit": 12, "batch_size": 8, **sample_members()}
    job["model"] = job["model"][-1:]
    # a cache would hide what is written behind a tensor; recordings cannot do without it
    for title, environment in (("apart", {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}), ("cached", {})):
        seconds = tell.seconds_left if material.on_gpu else _REHEARSAL_S
        if seconds < _LEAST_S:
            tell.figure(f"allocations {title}", "no time is left")
            return
        options = _options(material, job, f"memcheck-{title}", decode_threads=2)
        running = _start(options, before=before, **environment)
        try:
            text = running.communicate(timeout=seconds)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            tell.figure(f"allocations {title}", "it takes longer than there is time")
            return
        finally:
            running.kill()
            running.wait()
        lines = [line for line in text.splitlines() if line.startswith("=========") or "Error" in line]
        details = {"ended with": running.returncode, "said": lines[-3:]}
        if title == "apart" and running.returncode not in {0, _FOUND}:
            tell.figure("allocations apart: the job does not run so", details)
        else:
            tell.check(f"allocations {title}", running.returncode == 0 and _num_parts(options) > 0, **details)
