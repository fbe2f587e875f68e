"""The container as far as it can be built without an engine: its context, its steps, and what the CPU variant lacks."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY, SAMPLE_DATA

DOCKERFILE = REPOSITORY / "deploy" / "docker" / "Dockerfile"
SITE = Path(sysconfig.get_paths()["purelib"])
BIN = Path(sys.executable).parent


def instructions() -> list[tuple[str, str]]:
    """Each instruction with its words, continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(name, words) for name, _, words in (line.partition(" ") for line in joined.splitlines() if line)]


def arguments_of(name: str) -> list[str]:
    return [words for instruction, words in instructions() if instruction == name]


def in_context(path: str) -> bool:
    """Whether a file reaches the builder: the last pattern that fits it, or a folder above it, decides."""
    kept = True
    for line in (REPOSITORY / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        above = [path, *map(str, Path(path).parents)][:-1]
        anywhere = pattern.removeprefix("**/")
        if any(
            fnmatch.fnmatchcase(part, pattern) if anywhere == pattern else Path(part).name == anywhere for part in above
        ):
            kept = line.startswith("!")
    return kept


def context() -> list[str]:
    found = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return [path for path in found.stdout.splitlines() if in_context(path)]


def test_the_linter_has_nothing_to_say():
    done = subprocess.run([str(BIN / "hadolint"), str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    worse = DOCKERFILE.read_text().replace("uv==", "uv>=").replace("--no-cache-dir ", "")
    done = subprocess.run([str(BIN / "hadolint"), "-"], input=worse, capture_output=True, text=True, check=False)
    assert done.returncode != 0


def test_the_context_is_what_is_copied_and_no_more():
    paths = context()
    copied = [words.split()[:-1] for words in arguments_of("COPY") if not words.startswith("--from")]
    sources = [source for group in copied for source in group]
    assert sources
    for source in sources:
        assert (REPOSITORY / source).exists()
        assert any(path == source or path.startswith(f"{source}/") for path in paths), source
    strangers = [path for path in paths if not any(path == s or path.startswith(f"{s}/") for s in sources)]
    assert strangers == []
    assert not in_context(".git/config")
    assert not in_context("tests/conftest.py")
    assert not in_context("deploy/kubernetes/base/rayjob.yaml")
    assert not in_context("pipeline/cli/__pycache__/jobs.cpython-311.pyc")


def test_the_project_builds_from_the_context_alone(tmp_path: Path):
    for path in context():
        (tmp_path / "src" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / path, tmp_path / "src" / path)
    build = "import hatchling.build, sys; print(hatchling.build.build_wheel(sys.argv[1]))"
    subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=tmp_path / "src", check=True, stdout=subprocess.DEVNULL
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    assert {"pipeline/cli/__init__.py", "pipeline/label.schema.json", "pipeline/_sample_data/classes.txt"} <= names


def test_packages_are_hashed_and_versions_are_pinned():
    (base,) = {words.removeprefix("BASE=") for words in arguments_of("ARG") if words.startswith("BASE=")}
    assert re.fullmatch(r"python:3\.11\.\d+-slim-[a-z]+(@sha256:[0-9a-f]{64})?", base)
    assert [words.split()[0] for words in arguments_of("FROM")] == ["${BASE}"] * 2
    steps = "\n".join(arguments_of("RUN"))
    assert "uv pip sync --require-hashes --compile-bytecode deploy/requirements.lock" in steps
    assert "--build-constraints requirements.lock" in steps
    (by_make,) = re.findall(r"^UV_VERSION := (\S+)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert f'"uv=={by_make}"' in steps
    # nothing is fetched but packages and the base
    assert not re.search(r"\b(curl|wget|git|ADD)\b|://", "\n".join(f"{a} {b}" for a, b in instructions()))
    assert re.findall(r"apt-get install .*", steps) == [
        "apt-get install --yes --no-install-recommends libheif1 libheif-plugin-libde265 && rm -rf /var/lib/apt/lists/*"
    ]
    # what is built is not shaped by the machine's own index settings, and names none
    assert "index" not in DOCKERFILE.read_text()


def test_the_base_is_pinned_by_the_command_that_the_file_shows(tmp_path: Path):
    copy, digest = tmp_path / "deploy" / "docker" / "Dockerfile", "sha256:" + "a1" * 32
    copy.parent.mkdir(parents=True)
    shutil.copyfile(DOCKERFILE, copy)
    (shown,) = re.findall(r"^#   (sed -i .*\n.*)$", DOCKERFILE.read_text(), re.MULTILINE)
    (tmp_path / "docker").write_text(f"#!/bin/sh\necho {digest}\n")
    (tmp_path / "docker").chmod(0o700)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for _ in range(2):  # the second time it is renewed
        subprocess.run(["bash", "-c", shown.replace("\n#", "\n")], cwd=tmp_path, env=environment, check=True)
    (base,) = re.findall(r"^ARG BASE=(.*)$", copy.read_text(), re.MULTILINE)
    name = base.removesuffix(f"@{digest}")
    assert f"ARG BASE={name}" in DOCKERFILE.read_text()
    assert f"imagetools inspect {name} " in shown


def test_it_runs_as_nobody_in_particular_and_finds_its_commands():
    assert arguments_of("USER") == ["1000:1000"]
    names = [name for name, _ in instructions()]
    assert names[names.index("USER") :] == ["USER", "WORKDIR", "ENTRYPOINT", "CMD"]  # nothing as root after it
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    (entry,) = re.findall(r'^\["(\w+)"\]$', "\n".join(arguments_of("ENTRYPOINT")))
    assert entry in scripts
    linked = re.findall(r"/opt/shardlabel/bin/(\w+)", arguments_of("RUN")[-1])
    assert linked == ["ray", "shardlabel"]
    assert all((BIN / name).exists() for name in linked)
    environment = " ".join(arguments_of("ENV"))
    for needed in ("PATH=/opt/shardlabel/bin:$PATH", "HOME=/home/shardlabel", "RAY_AUTH_MODE=token"):
        assert needed in environment


def removed() -> tuple[list[str], str]:
    """The packages, and the pattern of the files, that the CPU variant does without."""
    (step,) = [words for words in arguments_of("RUN") if "VARIANT" in words]
    return re.findall(r"uv pip uninstall ([^&]+?) +&&", step)[0].split(), re.findall(r'-name "([^"]+)"', step)[0]


def test_what_the_cpu_variant_takes_away_is_there_to_be_taken():
    packages, pattern = removed()
    lock = (REPOSITORY / "deploy" / "requirements.lock").read_text()
    assert all(re.search(rf"^{package}==", lock, re.MULTILINE) for package in packages)
    found = {path.name for path in SITE.glob("nvidia/cudnn/lib/*.so*") if fnmatch.fnmatchcase(path.name, pattern)}
    assert len(found) > 3
    assert "libcudnn.so.9" not in found  # torch is linked to it


@pytest.mark.slow
def test_the_cpu_variant_labels_without_what_was_taken_away(tmp_path: Path):
    packages, pattern = removed()
    gone = set()
    for package in packages:
        (record,) = SITE.glob(f"{package.replace('-', '_')}-*.dist-info/RECORD")
        gone |= {line.partition(",")[0] for line in record.read_text().splitlines()}
    site = tmp_path / "site"
    for top in ("nvidia", "triton", "cuda"):
        for path in (SITE / top).rglob("*"):
            name = str(path.relative_to(SITE))
            if path.is_dir() or "__pycache__" in name or name in gone or fnmatch.fnmatchcase(path.name, pattern):
                continue
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            (site / name).symlink_to(path)
    for entry in SITE.iterdir():
        if entry.suffix != ".pth" and entry.name not in {"nvidia", "triton", "cuda"}:
            (site / entry.name).symlink_to(entry)
    assert not (site / "triton").exists()
    words = ["label", str(SAMPLE_DATA / "shard-000.tar"), "--out", str(tmp_path / "out"), "--engine", "inline"]
    words += ["-m", "shufflenet_v2_x0_5", "--weights-dir", str(SAMPLE_DATA / "weights")]
    words += ["--labels", str(SAMPLE_DATA / "classes.txt"), "--device", "cpu"]
    done = subprocess.run(
        [sys._base_executable, "-S", "-m", "pipeline", *words],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": f"{site}:{REPOSITORY}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "_SUCCESS").exists()
