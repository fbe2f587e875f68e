"""What holds for all of deploy/: no secrets, nothing open to the world, and a page that names what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and path.name != "requirements.lock")
PAGE = (DEPLOY / "README.md").read_text()
FORBIDDEN = {
    "a key of AWS": r"AKIA[0-9A-Z]{16}|aws_secret_access_key\s*=\s*[^.\s]",
    "a private key": r"BEGIN [A-Z ]*PRIVATE KEY",
    "a port for everyone": r"0\.0\.0\.0|LoadBalancer|NodePort|hostPort|hostNetwork",
    "root, where root is not due": r"privileged: true|runAsUser: 0\b|--allow-root",
    "a package index": r"index-url|extra-index|pypi|INDEX_URL",
    "a Ray without a token": r"RAY_AUTH_MODE=disabled|mode: disabled",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what):
    assert len(FILES) > 20
    found = [path for path in FILES if re.search(FORBIDDEN[what], path.read_text())]
    assert found == []


def test_the_page_names_every_folder_and_nothing_that_is_not_there():
    for path in DEPLOY.iterdir():
        assert path.name in PAGE or path.name in {"README.md", "requirements.lock"}, path
    for overlay in (DEPLOY / "kubernetes" / "overlays").iterdir():
        assert f"`{overlay.name}`" in PAGE
    for mentioned in re.findall(r"deploy/[\w./-]+", PAGE):
        assert (REPOSITORY / mentioned).exists(), mentioned
    for part in re.findall(r"`components/([\w-]+)`", PAGE):
        assert (DEPLOY / "kubernetes" / "components" / part).is_dir()


def test_every_way_to_ray_asks_for_its_token():
    for path in (DEPLOY / "aws/cluster.yaml", DEPLOY / "gcp/cluster.yaml", DEPLOY / "docker/Dockerfile"):
        assert "RAY_AUTH_MODE=token" in path.read_text()
    assert "export RAY_AUTH_MODE=token" in Path(DEPLOY / "slurm/shardlabel.sbatch").read_text()
    assert "mode: token" in (DEPLOY / "kubernetes/base/rayjob.yaml").read_text()
