"""Fixtures that many tests share: real images, real tars, small real checkpoints, a real S3 server."""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

# before torch is there: processes that share a few cores only wait for each other with more threads than that
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import typer
from built_once import networks_built_once
from PIL import Image

from pipeline.cli import main
from pipeline.records import Sample
from pipeline.vision import timm_package

gc.set_threshold(10_000)  # torch's million objects are no garbage, and most tests make little
timm_package()  # before a test imports timm or torchvision, which would load torch's compiler
typer.main.get_command = functools.cache(typer.main.get_command)  # of a process that runs many command lines
pytest_plugins = ["servers"]

REPOSITORY = Path(__file__).parent.parent
SHARED = REPOSITORY.parent / "shared"
SAMPLE_DATA = REPOSITORY / "examples" / "data"
# folders of tests that label, and are not about networks themselves
LABELLING = {"commands", "cli", "verifying", "exporting", "faults", "inputs", "labeler", "page", "project", "security"}

# What is remembered of networks is that of earlier tests, not of who runs them; all processes of the tests share it.
# What others keep in the user's cache stays there: weights, the hub, Ceph.
_USER_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
for _name, _folder in (("TORCH_HOME", "torch"), ("HF_HOME", "huggingface"), ("SHARDLABEL_CEPH", "shardlabel/ceph")):
    os.environ.setdefault(_name, str(_USER_CACHE / _folder))
os.environ["XDG_CACHE_HOME"] = str(REPOSITORY / ".pytest_cache" / "measured")

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
for _name in ("COLUMNS", "LINES"):  # readline, which pytest loads, has given them to pytest's worker processes
    os.environ.pop(_name, None)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # started in the background: what is started from here would ignore Ctrl-C, too
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Files that take longest, first: each runs in one process, and one that began late would keep the others waiting at
# the end. Those that start Ray stand apart, because two of them at once take most of the machine.
LONGEST_FIRST = """
    models/test_parity engines/test_engines project/test_examples project/test_guides faults/test_two_jobs
    models/test_classifier deploy/test_monitoring commands/test_label commands/test_combine faults/test_poison
    models/test_forward stages/test_decode cli/test_main storage/test_s3 commands/test_label_stores
    commands/test_report models/test_catalog annotation_page/test_browser commands/test_label_s3 models/test_weights
    commands/test_bench stages/test_read_damage stages/test_read_model commands/test_relocate
    commands/test_label_moved trust/test_promise commands/test_label_samples models/test_preprocessing page/test_page
    commands/test_models faults/test_kills exporting/test_export verifying/test_advice models/test_fitting
    stages/test_decode_damage security/test_security labeler/test_labeler models/test_surroundings
""".split()


# These share what takes seconds: the process that their jobs are forked from, and the job that faults are tried on.
FORKING = {
    "tests/faults/test_kills.py",
    "tests/faults/test_two_jobs.py",
    "tests/faults/test_disks.py",
    "tests/exporting/test_export.py",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object):
    """``--dist loadfile``, but that the files of ``FORKING`` run in one process, too."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "forking" if file in FORKING else file

    return ByFile(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {name: rank for rank, name in enumerate(LONGEST_FIRST)}
    folder = Path(__file__).parent

    def rank(item: pytest.Item) -> tuple[int, str]:
        name = item.path.relative_to(folder).with_suffix("").as_posix()
        return ranks.get(name, len(ranks)), name

    items.sort(key=rank)


class _InTurns(pytest.Dir):
    """A folder whose files each process of the tests begins at another place.

    In a fresh clone they have to be compiled: what one process has compiled the others read.
    """

    def collect(self):
        nodes = list(super().collect())
        process = getattr(self.config, "workerinput", {"workerid": "gw0", "workercount": 1})
        begin = len(nodes) * int(process["workerid"].removeprefix("gw")) // process["workercount"]
        return nodes[begin:] + nodes[:begin]


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector:
    return _InTurns.from_parent(parent, path=path)


def pytest_collection_finish() -> None:
    """What is imported and collected stays: the garbage collector need not look through it again and again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real photographs, odd files and real checkpoints, where they are at hand."""
    if not (SHARED / "data").is_dir():
        pytest.skip("no ../shared beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """The data that ships with the project."""
    return SAMPLE_DATA


def jpeg(seed: int = 0, size: tuple[int, int] = (64, 48), quality: int = 90, **options) -> bytes:
    """A small JPEG that differs with its seed."""
    return _encode(seed, size, quality, options) if options else _encode_once(seed, size, quality)


@functools.lru_cache(maxsize=2000)
def _encode_once(seed: int, size: tuple[int, int], quality: int) -> bytes:
    return _encode(seed, size, quality, {})


def _encode(seed: int, size: tuple[int, int], quality: int, options: dict[str, object]) -> bytes:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=quality, **options)
    return buffer.getvalue()


def make_tar(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    """A tar with the given members, in order."""
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def sample_members(count: int, start: int = 0) -> list[tuple[str, bytes]]:
    """Members of good samples: ``key.jpg`` and ``key.cls``."""
    members = []
    for number in range(start, start + count):
        members += [(f"{number:05d}.jpg", jpeg(number)), (f"{number:05d}.cls", str(number % 14).encode())]
    return members


def truth_of(sample: Sample) -> int | None:
    """The class that a sample's ``.cls`` gives as a number; None without one."""
    return None if sample.cls is None else int(sample.cls)


@pytest.fixture(scope="module", autouse=True)
def _networks_built_once(request: pytest.FixtureRequest) -> Iterator[None]:
    with networks_built_once() if request.path.parent.name in LABELLING else contextlib.nullcontext():
        yield


@pytest.fixture
def shardlabel(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """The command line in this process, which has torch already: what came of it, as of a process of its own."""
    on_sigterm = signal.getsignal(signal.SIGTERM)

    def run(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        arguments = ["shardlabel", *map(str, words)]
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", arguments)
            patch.chdir(cwd or Path.cwd())
            with pytest.raises(SystemExit) as left:
                main()
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, int(left.value.code or 0), said.out, said.err)

    yield run
    signal.signal(signal.SIGTERM, on_sigterm)
