"""Shards as real writers leave them: GNU tar in its formats, bsdtar, BusyBox, Python, webdataset."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import webdataset
from conftest import jpeg, truth_of
from fuzz.properties import read_shard, shard_is_accounted_for

from pipeline.records import Sample, ShardEvent

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COUNT = 4
GNU_FORMATS = ("v7", "oldgnu", "gnu", "ustar", "posix")
SPARSE = (
    "--format=oldgnu",
    "--format=gnu",
    *(f"--format=posix --sparse-version={number}" for number in (0.0, 0.1, 1.0)),
)
HOLE_BYTES = 1 << 16


def needs(tool: str):
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")


def run(*command: object, folder: Path) -> None:
    subprocess.run([str(word) for word in command], cwd=folder, check=True, capture_output=True, timeout=60)


def is_gnu_tar() -> bool:
    tool = shutil.which("tar")
    return (
        tool is not None and b"GNU tar" in subprocess.run([tool, "--version"], capture_output=True, check=True).stdout
    )


gnu_tar = pytest.mark.skipif(not is_gnu_tar(), reason="tar is not GNU tar")


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder of photographs and their classes."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(COUNT):
        (folder / f"{number:04d}.jpg").write_bytes(jpeg(number))
        (folder / f"{number:04d}.cls").write_text(f"{number}\n")
    return folder


@pytest.fixture
def holes(tmp_path) -> Path:
    """A folder of photographs with holes in them, as the file system sees it: before, in, and after the data."""
    folder = tmp_path / "holes"
    folder.mkdir()
    for name, (before, after) in {"mid": (0, 0), "end": (0, HOLE_BYTES), "start": (HOLE_BYTES, 0)}.items():
        with open(folder / f"{name}.jpg", "wb") as file:
            file.seek(before)
            file.write(jpeg(1))
            if name == "mid":
                file.seek(HOLE_BYTES, os.SEEK_CUR)
                file.write(jpeg(2))
            file.truncate(file.tell() + after)
    (folder / "hole.jpg").write_bytes(b"")
    os.truncate(folder / "hole.jpg", HOLE_BYTES)
    with open(folder / "many.jpg", "wb") as file:
        for number in range(40):  # more than fit into a header, and into one block behind it
            file.seek(number * HOLE_BYTES)
            file.write(bytes([number + 1]) * 4096)
    return folder


def check_images(path: Path, prefix: str = "") -> None:
    data = path.read_bytes()
    items = shard_is_accounted_for(data)
    assert [item for item in items if isinstance(item, ShardEvent)] == []
    found = {item.key: (item.image, truth_of(item)) for item in items}
    assert found == {f"{prefix}{number:04d}": (jpeg(number), number) for number in range(COUNT)}
    assert len(items) == COUNT


def check_holes(path: Path, holes: Path) -> None:
    items = shard_is_accounted_for(path.read_bytes())
    wanted = {entry.stem: entry.read_bytes() for entry in holes.iterdir()}
    assert {item.key.removeprefix("./"): item.image for item in items} == wanted


@gnu_tar
@pytest.mark.parametrize("fmt", GNU_FORMATS)
def test_gnu_tar(images, tmp_path, fmt):
    run("tar", f"--format={fmt}", "--sort=name", "-cf", tmp_path / "a.tar", "-C", images, ".", folder=tmp_path)
    check_images(tmp_path / "a.tar", "./")


@gnu_tar
@pytest.mark.parametrize("options", ["-g snap", "-G", "-g snap --format=oldgnu"])
def test_an_incremental_backup_keeps_its_names(images, tmp_path, options):
    """The old GNU header has the times of access and change where ustar has the prefix of the name."""
    run("tar", *options.split(), "--sort=name", "-cf", tmp_path / "a.tar", "-C", images, ".", folder=tmp_path)
    check_images(tmp_path / "a.tar", "./")


@gnu_tar
def test_a_long_path_in_ustar_still_has_its_prefix(images, tmp_path):
    deep = "d" * 90 + "/" + "e" * 20
    shutil.copytree(images, tmp_path / "top" / deep)
    run(
        "tar", "--format=ustar", "--sort=name", "-cf", tmp_path / "a.tar", "-C", tmp_path / "top", deep, folder=tmp_path
    )
    check_images(tmp_path / "a.tar", deep + "/")


@gnu_tar
@pytest.mark.parametrize("options", SPARSE)
def test_sparse_files_of_gnu_tar(holes, tmp_path, options):
    run("tar", "--sparse", *options.split(), "-cf", tmp_path / "a.tar", "-C", holes, ".", folder=tmp_path)
    assert (tmp_path / "a.tar").stat().st_size < 10 * HOLE_BYTES, "nothing is sparse"
    check_holes(tmp_path / "a.tar", holes)


@needs("bsdtar")
@pytest.mark.parametrize("fmt", ["pax", "gnutar", "ustar", "v7"])
def test_sparse_files_of_bsdtar_which_writes_them_unasked(holes, tmp_path, fmt):
    run("bsdtar", f"--format={fmt}", "-cf", tmp_path / "a.tar", "-C", holes, ".", folder=tmp_path)
    check_holes(tmp_path / "a.tar", holes)


@needs("bsdtar")
@pytest.mark.parametrize("fmt", ["v7", "ustar", "pax", "gnutar"])
def test_bsdtar(images, tmp_path, fmt):
    names = sorted(path.name for path in images.iterdir())
    run("bsdtar", f"--format={fmt}", "-cf", tmp_path / "a.tar", "-C", images, *names, folder=tmp_path)
    check_images(tmp_path / "a.tar")


@needs("busybox")
def test_busybox(images, tmp_path):
    names = sorted(path.name for path in images.iterdir())
    run("busybox", "tar", "-cf", tmp_path / "a.tar", "-C", images, *names, folder=tmp_path)
    check_images(tmp_path / "a.tar")


@pytest.mark.parametrize("fmt", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_python(images, tmp_path, fmt):
    with tarfile.open(tmp_path / "a.tar", "w", format=fmt) as tar:
        tar.add(images, "images")
    check_images(tmp_path / "a.tar", "images/")


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_webdataset(tmp_path, name):
    with webdataset.TarWriter(str(tmp_path / name)) as sink:
        for number in range(COUNT):
            sink.write({"__key__": f"{number:04d}", "jpg": jpeg(number), "cls": number})
    check_images(tmp_path / name)


def test_img2dataset(tmp_path):
    """As of its version 1.47.0: what could not be downloaded has no member, and its number is not used again."""
    numbers = [0, 1, 3, 4]
    with webdataset.TarWriter(str(tmp_path / "00000.tar")) as sink:
        for number in numbers:
            key, about = f"{number:06d}", {"caption": "a photo", "status": "success", "error_message": None}
            sink.write({"__key__": key, "jpg": jpeg(number), "txt": "a photo", "json": {**about, "key": key}})
    items = shard_is_accounted_for((tmp_path / "00000.tar").read_bytes())
    assert [(item.key, item.image, item.image_field) for item in items] == [
        (f"{n:06d}", jpeg(n), "jpg") for n in numbers
    ]
    assert [sorted(item.kept) for item in items] == [["json", "txt"]] * len(numbers)
    assert json.loads(items[2].kept["json"])["status"] == "success"


# -- hard links ----------------------------------------------------------------------------------------


WRITERS = {
    **{f"gnu {fmt}": f"tar --format={fmt} --sort=name -cf" for fmt in GNU_FORMATS},
    **{f"bsdtar {fmt}": f"bsdtar --format={fmt} -cf" for fmt in ("v7", "ustar", "pax", "gnutar")},
    "busybox": "busybox tar -cf",
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress, zstd.compress])
def test_hard_links_are_read_as_what_they_name(images, tmp_path, writer, pack):
    command = WRITERS[writer].split()
    if shutil.which(command[0]) is None or (command[0] == "tar" and not is_gnu_tar()):
        pytest.skip(f"{command[0]} is not installed")
    for number in range(COUNT):
        os.link(images / f"{number:04d}.jpg", images / f"1{number:03d}.jpg")
    os.link(images / "0001.cls", images / "1001.cls")
    os.symlink("0001.jpg", images / "2000.jpg")
    run(*command, tmp_path / "a.tar", "-C", images, *sorted(os.listdir(images)), folder=tmp_path)
    items = shard_is_accounted_for(pack((tmp_path / "a.tar").read_bytes()))
    linked = {f"1{number:03d}": (jpeg(number), 1 if number == 1 else None) for number in range(COUNT)}
    whole = {f"{number:04d}": (jpeg(number), number) for number in range(COUNT)}
    assert {item.key: (item.image, truth_of(item)) for item in items} == {**whole, **linked, "2000": (None, None)}
    assert items[-1].message == "2000.jpg is a symbolic link to 0001.jpg, which is not followed"


@gnu_tar
def test_a_hard_link_to_a_sparse_file_has_its_content(holes, tmp_path):
    os.link(holes / "mid.jpg", holes / "other.jpg")
    run("tar", "--sparse", "--sort=name", "-cf", tmp_path / "a.tar", "-C", holes, ".", folder=tmp_path)
    check_holes(tmp_path / "a.tar", holes)


# -- what the tools compress ---------------------------------------------------------------------------


@gnu_tar
@pytest.mark.parametrize("tool", ["gzip", "bzip2", "xz", "zstd", "zstd --ultra -22", "xz -9e", "pigz"])
def test_what_tools_compress_is_told_by_its_content(images, tmp_path, tool):
    if shutil.which(tool.split()[0]) is None:
        pytest.skip(f"{tool} is not installed")
    run("tar", "--sort=name", "-I", tool, "-cf", tmp_path / "a.tar", "-C", images, ".", folder=tmp_path)
    assert read_shard((tmp_path / "a.tar").read_bytes())[1], "nothing is compressed"
    check_images(tmp_path / "a.tar", "./")


@needs("zstd")
def test_a_window_larger_than_the_limit_is_a_reason(images, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(images, "images")
    packed = subprocess.run(
        ["zstd", "--long=31"], input=(tmp_path / "a.tar").read_bytes(), capture_output=True, check=True
    )
    items, _ = read_shard(packed.stdout)
    assert [item.message for item in items] == [
        "the zstd stream needs more than 256 MiB of memory to be inflated, which is the limit"
    ]


@needs("zstd")
def test_a_dictionary_is_a_reason(images, tmp_path):
    names = sorted(path.name for path in images.iterdir())
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in names:
            tar.add(images / name, name)
    (tmp_path / "dictionary").write_bytes((tmp_path / "a.tar").read_bytes()[:4096])
    run("zstd", "-q", "-D", "dictionary", "a.tar", folder=tmp_path)
    items, _ = read_shard((tmp_path / "a.tar.zst").read_bytes())
    assert not [item for item in items if isinstance(item, Sample)]
    assert "dictionary" in items[0].message or "damaged" in items[0].message
