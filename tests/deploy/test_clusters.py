"""Machines of AWS and Google as Ray's launcher reads them, and the script that installs the project on them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY

from pipeline.config.file_check import check_config_file

DEPLOY = REPOSITORY / "deploy"
INSTALL = DEPLOY / "install.sh"
CLOUDS = ("aws", "gcp")
SCRIPTS = sorted([*DEPLOY.rglob("*.sh"), *DEPLOY.rglob("*.sbatch")])


def cluster(cloud: str) -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / cloud / "cluster.yaml").read_text())


def commands(content: dict[str, Any]) -> list[str]:
    return [line for name, lines in content.items() if name.endswith("commands") for line in lines]


def test_rays_launcher_takes_them():
    from ray.autoscaler._private.util import prepare_config, validate_config

    for cloud in CLOUDS:
        prepared = prepare_config(cluster(cloud))
        validate_config(prepared)
        # nothing of Ray's own defaults is left, which install another Ray
        assert not [line for line in commands(prepared) if "pip install -U" in line or "wheels" in line]
    with pytest.raises(Exception, match="nonsense"):
        validate_config(prepare_config(cluster("aws") | {"nonsense": 1}))


@pytest.mark.parametrize("cloud", CLOUDS)
def test_labelers_are_on_spot_and_the_head_is_not(cloud):
    types = cluster(cloud)["available_node_types"]
    head, labeler = types["head"]["node_config"], types["labeler"]["node_config"]
    if cloud == "aws":
        assert labeler["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert "InstanceMarketOptions" not in head
        assert labeler["ImageId"] == head["ImageId"]
    else:
        assert {"preemptible": True} in labeler["scheduling"]
        assert "scheduling" not in head
    assert types["labeler"]["min_workers"] >= 1
    assert types["head"]["resources"] == {"CPU": 0}


def test_the_image_of_aws_is_put_in_by_the_command_that_its_file_shows(tmp_path: Path):
    """In the region of the file; until then there is no image that anything could start by mistake."""
    copy = tmp_path / "deploy" / "aws" / "cluster.yaml"
    copy.parent.mkdir(parents=True)
    copy.write_text(text("aws"))
    (shown,) = re.findall(r'^#   (sed -i "s\|ImageId.*\n.*)$', text("aws"), re.MULTILINE)
    assert f"--region {cluster('aws')['provider']['region']} " in shown
    asked = tmp_path / "aws"
    asked.write_text('#!/bin/sh\n[ "$1 $2" = "ssm get-parameter" ] && echo ami-0123456789abcdef0\n')
    asked.chmod(0o700)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", shown.replace("\n#", "\n")], cwd=tmp_path, env=environment, check=True)
    nodes = yaml.safe_load(copy.read_text())["available_node_types"].values()
    assert {node["node_config"]["ImageId"] for node in nodes} == {"ami-0123456789abcdef0"}
    assert not re.fullmatch("ami-[0-9a-f]+", cluster("aws")["available_node_types"]["head"]["node_config"]["ImageId"])


@pytest.mark.parametrize("cloud", CLOUDS)
def test_nobody_else_gets_in(cloud):
    starts = [line for line in commands(cluster(cloud)) if re.search(r"\bray start\b", line)]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0] + starts[1]
    assert "0.0.0.0" not in (DEPLOY / cloud / "cluster.yaml").read_text()
    assert "/home/ubuntu/.ray/auth_token" in cluster(cloud)["file_mounts"]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_what_is_copied_and_called_is_there(cloud):
    content = cluster(cloud)
    (target,) = [remote for remote, local in content["file_mounts"].items() if local == "."]
    (install,) = [line.split() for line in content["setup_commands"] if line.endswith("/venv") and "install.sh" in line]
    assert REPOSITORY / Path(install[0]).relative_to(target) == INSTALL
    assert os.access(INSTALL, os.X_OK)
    for line in commands(content):
        assert not re.search(r"(?<!/)\bray stop", line)  # by its path: nothing is on PATH yet
    submitted = re.search(r"--working-dir (\S+) -- shardlabel label --config (\S+)$", text(cloud), re.MULTILINE)
    assert submitted is not None
    checked = check_config_file(str(REPOSITORY / submitted[1] / submitted[2]))
    assert (checked.problems, checked.missing) == ((), ())


@pytest.mark.parametrize("cloud", CLOUDS)
def test_machines_read_what_the_container_reads(cloud):
    image = (DEPLOY / "docker" / "Dockerfile").read_text()
    (packages,) = re.findall(r"apt-get install .*?((?: lib[\w-]+)+)", image)
    (line,) = [line for line in cluster(cloud)["setup_commands"] if "apt-get" in line]
    assert packages.split()
    assert set(packages.split()) <= set(line.split())


def text(cloud: str) -> str:
    return (DEPLOY / cloud / "cluster.yaml").read_text()


def test_scripts_are_sound():
    linter = Path(sys.executable).parent / "shellcheck"
    assert len(SCRIPTS) == 2
    for script in SCRIPTS:
        subprocess.run(["bash", "-n", str(script)], check=True)
    done = subprocess.run([str(linter), *map(str, SCRIPTS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_install_takes_hashed_packages_alone(tmp_path: Path):
    folder, log = tmp_path / "venv" / "bin", tmp_path / "calls"
    folder.mkdir(parents=True)
    for name in ("python", "uv", "shardlabel"):
        (folder / name).write_text(f'#!/usr/bin/env bash\necho "{name} $*" >> "{log}"\n')
        (folder / name).chmod(0o700)
    subprocess.run([str(INSTALL), str(folder.parent)], check=True, cwd=tmp_path)
    bootstrap, sync, project, version, libheif = log.read_text().splitlines()
    assert re.fullmatch(r"python -m pip install --quiet uv==[\d.]+", bootstrap)
    assert f"--require-hashes {DEPLOY / 'requirements.lock'}" in sync
    assert "--no-deps" in project
    assert f"--build-constraints {REPOSITORY / 'requirements.lock'}" in project
    assert project.endswith(str(REPOSITORY))
    assert version == "shardlabel --version"
    assert "find_library" in libheif


def test_the_install_says_what_heic_needs(tmp_path: Path):
    folder = tmp_path / "venv" / "bin"
    folder.mkdir(parents=True)
    for name in ("python", "uv", "shardlabel"):
        (folder / name).write_text('#!/bin/sh\ncase "$*" in *find_library*) exit 1;; esac\n')
        (folder / name).chmod(0o700)
    done = subprocess.run([str(INSTALL), str(folder.parent)], check=True, cwd=tmp_path, capture_output=True, text=True)
    assert "apt install libheif1 libheif-plugin-libde265" in done.stderr


def test_the_install_and_make_use_the_same_uv():
    (by_make,) = re.findall(r"^UV_VERSION := (\S+)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert f'"uv=={by_make}"' in INSTALL.read_text()


def pins(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+) \\$", path.read_text(), re.MULTILINE))


def test_a_cluster_runs_what_was_tested():
    deployed, tested = pins(DEPLOY / "requirements.lock"), pins(REPOSITORY / "requirements.lock")
    assert {"ray", "torch", "torchvision", "torchcodec", "aiohttp", "opencensus"} <= set(deployed)
    assert not {"pytest", "mypy", "moto", "ruff"} & set(deployed)
    differing = {name for name in deployed.keys() & tested.keys() if deployed[name] != tested[name]}
    assert differing == set(), "renew both: make lock"
    lock = (DEPLOY / "requirements.lock").read_text()
    assert lock.count("--hash=sha256:") >= len(deployed)
    assert "://" not in lock
    assert "index" not in lock
