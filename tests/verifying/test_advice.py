"""Whatever verify finds, doing what it says ends in an output that is right."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import jpeg, make_tar, sample_members
from small_jobs import options

from pipeline import label, relocate, verify
from pipeline.inputs.units import read_units
from pipeline.output.ledger import Ledger
from pipeline.storage import Storage


@pytest.fixture(scope="module")
def finished(tmp_path_factory, sample_data: Path) -> Path:
    """A folder with shards, loose images, and their output in small parts, probabilities included."""
    folder = tmp_path_factory.mktemp("advice")
    (folder / "photos").mkdir()
    make_tar(folder / "a.tar", [*sample_members(6), ("bad.jpg", b"no image"), ("empty.jpg", b"")])
    make_tar(folder / "b.tar", sample_members(3, start=10))
    for number in range(5):
        (folder / "photos" / f"{number}.jpg").write_bytes(jpeg(number))
    run(folder, sample_data)
    return folder


@pytest.fixture
def job(finished: Path, tmp_path: Path) -> Path:
    """A copy of all that, which says that it lies there."""
    copy = tmp_path / "job"
    shutil.copytree(finished, copy)
    relocate(copy / "out", finished, copy)
    assert verify(copy / "out", deep=True).discrepancies == ()
    return copy


def run(folder: Path, sample_data: Path, **more):
    inputs = [f"{folder}/{{a,b}}.tar", f"{folder}/photos"]
    return label(inputs, folder / "out", **options(sample_data, **{"rows_per_part": 4, "keep_probs": True} | more))


def key_list(job: Path) -> Path:
    """The key list of the folder of images; an older one may lie beside it."""
    storage = Storage()
    (path,) = (unit.keys_uri for unit in read_units(Ledger(str(job / "out"), storage), storage) if unit.keys_uri)
    return Path(path)


def part(job: Path, name: str, shard: str = "a.tar", folder: str = "predictions") -> Path:
    """A part of a shard by the end of its name."""
    for path in sorted((job / "out" / folder).glob(f"part-*{name}.parquet")):
        if pq.read_table(path, columns=["shard"])["shard"][0].as_py().endswith(shard):
            return path
    raise AssertionError(f"no such part: {name}")


def flip(path: Path) -> None:
    """Damage a Parquet file in the last byte of its data, which lie before the footer and its length."""
    data = bytearray(path.read_bytes())
    data[-9 - int.from_bytes(data[-8:-4], "little")] ^= 0xFF
    path.write_bytes(data)


def exchange(path: Path, older: bytes, newer: bytes) -> None:
    """Change bytes of a file behind the back of its size and time."""
    status = path.stat()
    path.write_bytes(path.read_bytes().replace(older, newer))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def edit_success(job: Path, change: Callable[[dict], object]) -> None:
    path = job / "out" / "_SUCCESS"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def probabilities(job: Path) -> list[Path]:
    return sorted((job / "out" / "probabilities").rglob("*.parquet"))


def orphan_quarantine(job: Path) -> None:
    (path,) = quarantine(job)
    shutil.copy(path, path.with_name(path.name.replace("-00001-last", "-00007")))


def quarantine(job: Path) -> list[Path]:
    return sorted((job / "out" / "quarantine").iterdir())


def cut_off(job: Path) -> None:
    """A shard that ends earlier than it did, under the same time and size."""
    data = (job / "b.tar").read_bytes()
    exchange(job / "b.tar", data, data[:1024] + bytes(len(data) - 1024))


def unreadable(job: Path) -> None:
    name = re.sub(r"-\d{5}(-last)?\.", "-unreadable.", quarantine(job)[0].name)
    shutil.copy(quarantine(job)[0], job / "out" / "quarantine" / name)


def rewrite_shard(path: Path, uri: str) -> None:
    table = pq.read_table(path)
    shards = [uri] * len(table)
    pq.write_table(table.set_column(0, "shard", [shards]), path)


def drop_row(path: Path) -> None:
    pq.write_table(pq.read_table(path).slice(1), path)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a part is deleted": lambda job: part(job, "00000").unlink(),
    "the last part is deleted": lambda job: part(job, "-last").unlink(),
    "all parts are deleted": lambda job: [path.unlink() for path in (job / "out" / "predictions").iterdir()],
    "a quarantine part is deleted": lambda job: quarantine(job)[0].unlink(),
    "a part is damaged": lambda job: flip(part(job, "00000")),
    "a quarantine part is damaged": lambda job: flip(quarantine(job)[0]),
    "probabilities are damaged": lambda job: flip(probabilities(job)[0]),
    "probabilities are deleted": lambda job: probabilities(job)[0].unlink(),
    "rows are missing": lambda job: drop_row(part(job, "00000")),
    "rows of quarantine are missing": lambda job: drop_row(quarantine(job)[0]),
    "a part stands for another": lambda job: shutil.copy(part(job, "00000"), part(job, "-last")),
    "a part is last and is not": lambda job: shutil.copy(
        part(job, "-last"), str(part(job, "-last")).replace("-last", "")
    ),
    "a foreign file": lambda job: (job / "out" / "predictions" / "other.parquet").write_bytes(b"PAR1"),
    "a foreign part": lambda job: shutil.copy(
        part(job, "00000"), job / "out" / "predictions" / "part-00000000-0000000000000000-00000.parquet"
    ),
    "quarantine without its part": orphan_quarantine,
    "probabilities without their part": lambda job: shutil.copy(
        probabilities(job)[0], str(probabilities(job)[0]).replace("-00000", "-00009")
    ),
    "foreign probabilities": lambda job: shutil.copytree(
        next((job / "out" / "probabilities").iterdir()), job / "out" / "probabilities" / "other"
    ),
    "a leftover of an unreadable shard": unreadable,
    "rows of another shard": lambda job: rewrite_shard(part(job, "00000"), "/elsewhere/a.tar"),
    "no _SUCCESS": lambda job: (job / "out" / "_SUCCESS").unlink(),
    "_SUCCESS lists less": lambda job: edit_success(job, lambda content: content["predictions"].popitem()),
    "_SUCCESS lists less quarantine": lambda job: edit_success(job, lambda content: content["quarantine"].popitem()),
    "_SUCCESS lists other rows": lambda job: edit_success(
        job, lambda content: content["predictions"].update(dict.fromkeys(content["predictions"], 1))
    ),
    "_SUCCESS lists what is not there": lambda job: edit_success(
        job, lambda content: content["predictions"].update({"part-nothing.parquet": 1})
    ),
    "a key list is damaged": lambda job: key_list(job).write_bytes(b"nothing"),
    "a key list is deleted": lambda job: key_list(job).unlink(),
    "a shard is touched": lambda job: os.utime(job / "a.tar", ns=(1, 1)),
    "a shard is another": lambda job: make_tar(job / "a.tar", sample_members(4, start=40)),
    "a shard is another behind its time": lambda job: exchange(job / "b.tar", b"00011.", b"00099."),
    "an image is another behind its time": lambda job: exchange(job / "a.tar", jpeg(3), jpeg(3)[:-1] + b"?"),
    "a shard is cut off": cut_off,
    "a shard is gone": lambda job: (job / "a.tar").unlink(),
    "a loose image is touched": lambda job: os.utime(job / "photos" / "1.jpg", ns=(1, 1)),
    "a loose image is another": lambda job: (job / "photos" / "1.jpg").write_bytes(jpeg(51)),
    "a loose image is another behind its time": lambda job: exchange(
        job / "photos" / "1.jpg", jpeg(1), jpeg(1)[:-1] + b"?"
    ),
    "a loose image is gone": lambda job: (job / "photos" / "1.jpg").unlink(),
}


def follow(line: str, out: Path) -> set[str]:
    """Do what a line says to do with files; the options that `label` is to be run with, or what else is to be run."""
    file, _, advice = line.partition("; ")
    named = re.match(r"((?:/\S*/out/)?((?:predictions|quarantine|probabilities)/\S+\.parquet))", file)
    path = out / named[2] if named else None
    if "shardlabel relocate " in advice:
        old, new = re.search(rf"run shardlabel relocate {out} (\S+) (\S+) again", advice).groups()
        if Path(new).exists() and not old.startswith("/elsewhere"):
            relocate(out, old, new)
            return {"label"}
    if "move it away" in advice:
        path.unlink()
        return set()
    if unit := re.search(r"delete what is called part-\*-(\w+)-\* in", advice):
        for found in [*out.rglob(f"part-*-{unit[1]}-*")]:
            found.unlink()
    if re.search(r"\bdelete (it|the file)\b", advice) and path is not None:
        path.unlink(missing_ok=True)
    for other in re.findall(r"((?:predictions|quarantine)/part-\S+?\.parquet)", advice):
        (out / other).unlink(missing_ok=True)
    if "delete them" in advice:
        for other in re.findall(r"(predictions/part-\S+?\.parquet)", line):
            (out / other).unlink(missing_ok=True)
    if "delete the part of this name in predictions" in advice:
        (out / "predictions" / path.name).unlink(missing_ok=True)
    assert "run the same label command" in advice, line
    return {"prune"} if "--prune" in advice else {"label"}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_what_verify_says_mends_it(job: Path, sample_data: Path, damage: Callable[[Path], object]):
    damage(job)
    out = job / "out"
    found = verify(out, deep=True).discrepancies
    assert found or not (out / "_SUCCESS").exists()
    todo = set().union(*(follow(line, out) for line in found))
    if todo:
        assert run(job, sample_data, prune="prune" in todo).exit_code == 0
    assert verify(out, deep=True).discrepancies == ()
