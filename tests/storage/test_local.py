"""Files: what is listed and in which order, what is published and how, and what each failure becomes."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from modes import modes_count

from pipeline.errors import ObjectChanged, ObjectForbidden, ObjectMissing, StorageError
from pipeline.storage import Storage, absolute_uri, join

STORAGE = Storage()


@pytest.fixture
def closed_directory(tmp_path: Path) -> Iterator[Path]:
    """A directory that this process may not look into; root steps down for the test."""
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"a")
    folder.chmod(0)
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    yield folder
    if was_root:
        os.seteuid(0)
    folder.chmod(0o755)


def names_below(folder: Path) -> list[str]:
    return [entry.uri.removeprefix(f"{folder}/") for entry in STORAGE.list(f"{folder}/")]


# -- names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("/data/x.tar", "/data/x.tar"),
        ("/data//a/../x/", "/data/x/"),
        ("file:///data/a%20b%7B1%7D.tar", "/data/a b{1}.tar"),
        ("file:///data/a?#b.tar", "/data/a?#b.tar"),
        ("file://localhost/data/x.tar", "/data/x.tar"),
        ("file:///data/%FF.jpg", "/data/\udcff.jpg"),
        ("s3://bucket/a b/../c", "s3://bucket/a b/../c"),
        ("//data/x.tar", "/data/x.tar"),
        ("/", "/"),
    ],
)
def test_each_place_has_one_spelling(given: str, meant: str):
    assert absolute_uri(given) == meant


def test_relative_names_are_below_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert absolute_uri("a/b") == f"{tmp_path}/a/b"
    assert absolute_uri("~/b") == "/home/someone/b"


@pytest.mark.parametrize("name", ["gs://bucket/x", "https://host/x.tar", "file://host/x.tar", "file://x.tar", ""])
def test_places_out_of_reach_are_refused(name: str):
    with pytest.raises(StorageError, match="^" + (name or "''")):
        absolute_uri(name)


@pytest.mark.parametrize("name", ["a\0b", "/data/\ud800.jpg", "file:///data/%00"])
def test_what_no_path_can_hold_is_refused(name: str):
    with pytest.raises(StorageError, match="a character that no path can"):
        absolute_uri(name)


def test_join_puts_one_slash_between_names():
    assert join("s3://bucket/out/", "a", "b") == join("s3://bucket/out", "a", "b") == "s3://bucket/out/a/b"
    assert join("/", "a") == "/a"


# -- listing ----------------------------------------------------------------------------------------------


def test_the_order_is_that_of_whole_paths(tmp_path: Path):
    names = ["a", "a-b", "a.b", "ab", "B", "é", "z\U0001f600", "z\uffee", "d/a", "d-", "d.x/y", "d0", "d/b/c", "d/b-"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert names_below(tmp_path) == sorted(names)


def test_names_that_are_not_utf8_are_listed_and_read(tmp_path: Path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    with open(path, "wb") as file:
        file.write(b"coffee")
    (entry,) = STORAGE.list(f"{tmp_path}/")
    assert os.fsencode(entry.uri) == path
    assert STORAGE.fetch(entry) == b"coffee"


def test_hidden_files_pipes_and_dangling_links_are_left_out(tmp_path: Path):
    (tmp_path / ".tmp-1").write_bytes(b"")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.jpg").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "nowhere.jpg").symlink_to("missing")
    (tmp_path / "itself").symlink_to("itself")
    (tmp_path / "seen.jpg").write_bytes(b"")
    assert names_below(tmp_path) == ["seen.jpg"]


def test_what_cannot_be_read_is_listed_where_that_is_asked_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "nowhere.jpg").symlink_to("missing")
    (tmp_path / "itself").symlink_to("itself")
    (tmp_path / "below").symlink_to("itself/more")
    (tmp_path / ".hidden").symlink_to("missing")
    (tmp_path / "seen.jpg").write_bytes(b"")
    sizes = {entry.uri.rpartition("/")[2]: entry.size_bytes for entry in STORAGE.list(f"{tmp_path}/", unreadable=True)}
    assert sizes == {"pipe.jpg": -1, "nowhere.jpg": -1, "itself": -1, "below": -1, "seen.jpg": 0}
    for name in ("pipe.jpg", "nowhere.jpg", "itself", "below"):
        with pytest.raises(ObjectMissing):
            STORAGE.check_readable(f"{tmp_path}/{name}")
    STORAGE.check_readable(f"{tmp_path}/seen.jpg")


def test_a_closed_folder_or_file_is_listed_where_that_is_asked_for(tmp_path: Path):
    closed, image = tmp_path / "closed", tmp_path / "image.jpg"
    closed.mkdir()
    image.write_bytes(b"x")
    closed.chmod(0)
    image.chmod(0)
    with modes_count():
        listed = list(STORAGE.list(f"{tmp_path}/", unreadable=True))
        assert [(entry.uri, entry.size_bytes) for entry in listed] == [(f"{closed}/", -1), (str(image), -1)]
        for call in (
            lambda: list(STORAGE.list(f"{tmp_path}/")),
            lambda: list(STORAGE.list(f"{closed}/", unreadable=True)),
            lambda: STORAGE.check_readable(f"{closed}/"),
            lambda: STORAGE.check_readable(str(image)),
        ):
            with pytest.raises(ObjectForbidden, match="Permission denied"):
                call()


def test_links_are_followed_but_not_in_circles(tmp_path: Path):
    data, other = tmp_path / "data", tmp_path / "other"
    (data / "sub").mkdir(parents=True)
    other.mkdir()
    (data / "sub" / "a.jpg").write_bytes(b"")
    (other / "b.jpg").write_bytes(b"")
    (data / "sub" / "up").symlink_to(data)
    (data / "linked").symlink_to(other)
    (other / "back").symlink_to(data)  # data/linked/back is data again
    assert names_below(data) == ["linked/b.jpg", "sub/a.jpg"]


def test_a_missing_directory_is_missing(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    for name in ("no", "file"):
        with pytest.raises(ObjectMissing, match=f"^{tmp_path}/{name}/: no such file"):
            list(STORAGE.list(f"{tmp_path}/{name}/"))


def test_a_closed_directory_is_forbidden(closed_directory: Path):
    with pytest.raises(ObjectForbidden, match=str(closed_directory)):
        list(STORAGE.list(f"{closed_directory}/"))


# -- reading ----------------------------------------------------------------------------------------------


def test_a_stream_reads_skips_and_starts_anywhere(tmp_path: Path):
    path = tmp_path / "x"
    path.write_bytes(bytes(range(100)))
    entry = STORAGE.stat(str(path))
    stream = STORAGE.open(entry, 10)
    assert (stream.read(5), stream.position) == (bytes(range(10, 15)), 15)
    assert (stream.skip(70), stream.position) == (70, 85)
    assert (stream.read(100), stream.position) == (bytes(range(85, 100)), 100)
    assert (stream.skip(1), stream.read(1)) == (0, b"")
    stream.close()


def test_a_file_that_changed_is_noticed_by_time_or_size(tmp_path: Path):
    path = tmp_path / "x"
    path.write_bytes(b"before")
    entry = STORAGE.stat(str(path))
    assert STORAGE.fetch(entry) == b"before"
    os.utime(path, ns=(1, 1))
    with pytest.raises(ObjectChanged):
        STORAGE.fetch(entry)
    with pytest.raises(ObjectChanged):
        STORAGE.open(entry)


def test_what_is_not_a_file_is_missing(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    for uri in (str(tmp_path), f"{tmp_path}/no", f"{tmp_path}/file/below"):
        assert not STORAGE.exists(uri)
        with pytest.raises(ObjectMissing):
            STORAGE.stat(uri)
    assert STORAGE.exists(f"{tmp_path}/file")
    with pytest.raises(ObjectMissing):
        STORAGE.read(f"{tmp_path}/no")
    with pytest.raises(StorageError, match="irectory"):
        STORAGE.read(str(tmp_path))


def test_a_closed_file_is_forbidden(closed_directory: Path):
    with pytest.raises(ObjectForbidden):
        STORAGE.read(f"{closed_directory}/a.jpg")


# -- writing ----------------------------------------------------------------------------------------------


def test_publish_creates_once_and_replace_overwrites(tmp_path: Path):
    uri = f"{tmp_path}/new/dir/part"
    assert STORAGE.publish(uri, b"first") is True
    assert STORAGE.publish(uri, b"second") is False
    assert STORAGE.read(uri) == b"first"
    STORAGE.replace(uri, b"third")
    assert STORAGE.read(uri) == b"third"
    assert os.listdir(tmp_path / "new" / "dir") == ["part"]
    STORAGE.delete(uri)
    STORAGE.delete(uri)
    assert not STORAGE.exists(uri)


def test_of_racing_publishers_one_wins(tmp_path: Path):
    won: list[bytes] = []
    start = threading.Barrier(16)

    def publish(data: bytes) -> None:
        start.wait()
        if STORAGE.publish(f"{tmp_path}/part", data):
            won.append(data)

    threads = [threading.Thread(target=publish, args=(bytes([n]) * 1000,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [STORAGE.read(f"{tmp_path}/part")] == won


LACKING = [errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS]  # as FAT, SMB, NFS and FUSE answer


@pytest.mark.parametrize("code", [*LACKING, errno.EXDEV])
def test_a_file_system_without_hard_links_is_written_by_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
):
    def no_links(source: str, target: str) -> None:
        raise OSError(code, os.strerror(code), source)

    monkeypatch.setattr(os, "link", no_links)
    assert STORAGE.publish(f"{tmp_path}/part", b"first") is True
    assert STORAGE.publish(f"{tmp_path}/part", b"second") is False
    assert STORAGE.read(f"{tmp_path}/part") == b"first"
    assert os.listdir(tmp_path) == ["part"]


@pytest.mark.parametrize("code", [*LACKING, errno.EACCES])
@pytest.mark.parametrize("missing", ["chmod", "fsync", "open"])
def test_a_file_system_without_modes_or_sync_of_folders_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, missing: str
):
    real = getattr(os, missing)

    def lacking(target: object, *words: object, **more: object) -> object:
        is_folder = os.path.isdir(target if missing != "fsync" else f"/proc/self/fd/{target}")  # type: ignore[arg-type]
        if missing == "chmod" or is_folder:
            raise OSError(code, os.strerror(code))
        return real(target, *words, **more)

    monkeypatch.setattr(os, missing, lacking)
    uri = f"{tmp_path}/new/part"
    assert STORAGE.publish(uri, b"first") is True
    assert STORAGE.publish(uri, b"second") is False
    STORAGE.replace(uri, b"third")
    assert (STORAGE.read(uri), os.listdir(tmp_path / "new")) == (b"third", ["part"])


@pytest.mark.parametrize("fails", ["chmod", "fsync", "link", "replace"])
def test_a_first_write_that_fails_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str):
    def broken(*words: object, **more: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (tmp_path / "there").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, fails, broken)
        write = STORAGE.replace if fails == "replace" else STORAGE.publish
        for name in ("a/b/part", "there/c/part", "there/part"):
            with pytest.raises(StorageError, match="Input/output error"):
                write(f"{tmp_path}/{name}", b"x")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["there"]


def test_a_kill_in_mid_write_leaves_nothing_to_see(tmp_path: Path):
    script = (
        "import os, signal, sys\n"
        "from pipeline.storage import Storage\n"
        "os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Storage().publish(sys.argv[1], b'x' * 100_000)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, f"{tmp_path}/part"], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 1  # the temporary file is there ...
    assert names_below(tmp_path) == []  # ... but nobody takes it for a part
    assert STORAGE.publish(f"{tmp_path}/part", b"again") is True


def test_a_failed_write_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=f"^{tmp_path}/part: No space left"):
        STORAGE.publish(f"{tmp_path}/part", b"x")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["file/part", "file/sub/part"])
def test_below_a_file_nothing_can_be_created(tmp_path: Path, name: str):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ObjectForbidden, match=f"^{tmp_path}/{name}: cannot be created there"):
        STORAGE.publish(f"{tmp_path}/{name}", b"x")
    with pytest.raises(ObjectForbidden, match="cannot be created there"):
        STORAGE.replace(f"{tmp_path}/{name}", b"x")


def test_in_a_closed_directory_nothing_can_be_created(closed_directory: Path):
    with pytest.raises(ObjectForbidden, match="Permission denied"):
        STORAGE.publish(f"{closed_directory}/part", b"x")


def test_a_read_only_file_system_is_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def read_only(path: str, exist_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    monkeypatch.setattr(os, "makedirs", read_only)
    with pytest.raises(ObjectForbidden, match="Read-only file system"):
        STORAGE.publish(f"{tmp_path}/part", b"x")


def test_a_pipe_or_a_device_is_never_replaced(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError, match=r"pipe: neither a file nor a folder"):
        STORAGE.replace(str(tmp_path / "pipe"), b"a")
    assert os.listdir(tmp_path) == ["pipe"]
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "link").symlink_to("nowhere")
    STORAGE.replace(str(tmp_path / "link"), b"a")
    assert (tmp_path / "link").read_bytes() == b"a"


def test_published_files_can_be_read_by_others(tmp_path: Path):
    STORAGE.publish(f"{tmp_path}/part", b"x")
    assert (tmp_path / "part").stat().st_mode & 0o777 == 0o644


def test_storage_survives_pickling(tmp_path: Path):
    (tmp_path / "x").write_bytes(b"x")
    assert pickle.loads(pickle.dumps(STORAGE)).read(f"{tmp_path}/x") == b"x"
