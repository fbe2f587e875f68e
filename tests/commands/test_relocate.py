"""The data set was moved: the output follows it, and nothing is labelled again."""

from __future__ import annotations

import functools
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import jpeg, make_tar, sample_members
from servers import S3Server
from small_jobs import options, predictions, rows

from pipeline import export, label, relocate, review, verify
from pipeline.engines.inline import InlineEngine
from pipeline.errors import RequestError
from pipeline.job.comparing import EngineCompare
from pipeline.storage import Storage


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Shards and loose images, some of which cannot be labelled."""
    folder = tmp_path / "data"
    (folder / "photos" / "deep").mkdir(parents=True)
    make_tar(folder / "a.tar", [*sample_members(6), ("bad.jpg", b"no image"), ("empty.jpg", b"")])
    make_tar(folder / "b.tar", sample_members(3, start=10))
    for number in range(5):
        (folder / "photos" / f"{number}.jpg").write_bytes(jpeg(number))
    (folder / "photos" / "deep" / "bad.jpg").write_bytes(b"no image")
    (folder / "photos" / "deep" / "good.jpg").write_bytes(jpeg(7))
    return folder


def places(folder: Path | str) -> list[str]:
    return [f"{folder}/a.tar", f"{folder}/b.tar", f"{folder}/photos"]


def run(folder: Path | str, out: Path | str, sample_data: Path, **more):
    return label(places(folder), out, **options(sample_data, **{"rows_per_part": 4, "keep_probs": True} | more))


def assert_right(out: Path | str, **more) -> None:
    assert verify(out, deep=True, **more).discrepancies == ()


def upload(s3: S3Server, folder: Path, bucket: str) -> str:
    for path in folder.rglob("*.*"):
        s3.put(bucket, f"set/{path.relative_to(folder)}", path.read_bytes())
    return f"s3://{bucket}/set"


def renamed(table, old: Path, new: Path):
    shards = [shard.replace(str(old), str(new)) for shard in table["shard"].to_pylist()]
    return table.set_column(0, "shard", [shards])


def test_a_folder_that_was_moved(data, out, sample_data, tmp_path):
    run(data, out, sample_data)
    expected = [renamed(rows(out, folder), data, tmp_path / "new") for folder in ("predictions", "quarantine")]
    names = sorted(path.relative_to(out) for path in out.rglob("part-*"))
    shutil.move(data, tmp_path / "new")
    found = relocate(out, data, tmp_path / "new")
    assert (found.moved, found.changed, found.missing, found.exit_code) == (9, 0, 0, 0)
    assert_right(out)
    assert [rows(out, folder) for folder in ("predictions", "quarantine")] == expected
    assert sorted(path.relative_to(out) for path in out.rglob("part-*")) == names
    assert json.loads((out / "job.json").read_text())["inputs"] == places(tmp_path / "new")
    summary = run(tmp_path / "new", out, sample_data)
    assert (summary.images, summary.notes) == (0, ())
    assert export(out, to=tmp_path / "set", format="imagefolder", engine="inline").images == 10  # each image once
    assert review(out, save=tmp_path / "look.csv", num=3).images == 3
    assert relocate(out, data, tmp_path / "new").moved == 0  # again: nothing is left to do


def test_from_a_disk_to_s3_and_back(s3: S3Server, data, out, sample_data, tmp_path):
    run(data, out, sample_data)
    before = rows(out)
    bucket = s3.bucket()
    place = upload(s3, data, bucket)
    assert relocate(out, data, place, s3_endpoint=s3.endpoint).moved == 9
    assert_right(out, s3_endpoint=s3.endpoint)
    assert run(place, out, sample_data, s3_endpoint=s3.endpoint).images == 0
    assert relocate(out, place, data, s3_endpoint=s3.endpoint).moved == 9
    assert rows(out).equals(before)
    assert_right(out)


def test_an_output_on_s3(s3: S3Server, data, sample_data):
    bucket, elsewhere = s3.bucket(), s3.bucket()
    out, place = f"s3://{bucket}/out", upload(s3, data, bucket)
    run(place, out, sample_data, s3_endpoint=s3.endpoint)
    before = predictions(s3, bucket, "out")
    new = upload(s3, data, elsewhere)
    assert relocate(out, place, new + "/", s3_endpoint=s3.endpoint).moved == 9
    assert_right(out, s3_endpoint=s3.endpoint)
    assert run(new, out, sample_data, s3_endpoint=s3.endpoint).images == 0
    after = predictions(s3, bucket, "out")
    assert [row | {"shard": row["shard"].replace(elsewhere, bucket)} for row in after] == before


def test_one_shard_that_was_renamed(data, out, sample_data):
    run(data, out, sample_data)
    (data / "a.tar").rename(data / "c.tar")
    assert relocate(out, data / "a.tar", data / "c.tar").moved == 1
    assert_right(out)


def test_what_is_not_there_as_it_was_stays_where_it_was(data, out, sample_data, tmp_path):
    run(data, out, sample_data)
    count = len(rows(out))
    new = tmp_path / "new"
    shutil.copytree(data, new)
    make_tar(new / "b.tar", sample_members(3, start=20))
    (new / "photos" / "1.jpg").write_bytes(jpeg(41))
    (new / "photos" / "2.jpg").unlink()
    found = relocate(out, data, new)
    assert (found.moved, found.changed, found.missing) == (6, 2, 1)
    assert_right(out)  # both places are there
    assert len(rows(out)) == count
    assert len({(row["shard"], row["key"]) for row in rows(out).to_pylist()}) == count
    shutil.rmtree(data)
    summary = run(new, out, sample_data)
    assert (summary.images, summary.gone) == (4, 3)
    summary = run(new, out, sample_data, prune=True)
    assert (summary.images, summary.pruned) == (0, 3)
    assert_right(out)
    assert all(row["shard"].startswith(str(new)) for row in rows(out).to_pylist())


def test_what_was_labelled_at_both_places_is_there_once_afterwards(data, out, sample_data, tmp_path):
    run(data, out, sample_data)
    new = tmp_path / "new"
    shutil.move(data, new)
    (new / "photos" / "9.jpg").write_bytes(jpeg(9))
    summary = run(new, out, sample_data)
    assert summary.gone == 9
    assert any("relocate" in note for note in summary.notes)
    found = relocate(out, data, new)
    assert (found.moved, found.labelled_twice) == (0, 9)
    assert_right(out)
    table = rows(out).to_pylist()
    assert len({(row["shard"], row["key"]) for row in table}) == len(table) == 16


def photos(folder: Path, *seeds: int) -> Path:
    """A folder of loose images, named by their place in the list, of these seeds."""
    folder.mkdir()
    for number, seed in enumerate(seeds):
        (folder / f"{number}.jpg").write_bytes(jpeg(seed))
    return folder


def found_at(out: Path) -> list[str]:
    """Where the images are that have rows: the folder and the name of each."""
    return sorted(f"{Path(row['shard']).name}/{row['key']}" for row in rows(out).to_pylist())


def test_some_images_of_a_folder_were_labelled_at_both_places(out, sample_data, tmp_path):
    a, b = photos(tmp_path / "a", 0, 1, 2, 3), photos(tmp_path / "b", 0, 1, 9)
    for folder in (a, b):
        label(folder, out, **options(sample_data))
    (b / "4.jpg").write_bytes(jpeg(4))
    found = relocate(out, a, b)
    assert (found.moved, found.changed, found.missing, found.labelled_twice) == (0, 1, 1, 2)
    assert found_at(out) == ["a/2.jpg", "a/3.jpg", "b/0.jpg", "b/1.jpg", "b/2.jpg"]
    assert_right(out)
    found = relocate(out, a, b)
    assert (found.moved, found.changed, found.missing, found.labelled_twice) == (0, 1, 1, 0)
    assert label(b, out, **options(sample_data)).images == 1  # b/4.jpg


def test_a_shard_with_other_bytes_was_not_labelled_twice(out, sample_data, tmp_path):
    for folder, start in (("a", 0), ("b", 5)):
        (tmp_path / folder).mkdir()
        make_tar(tmp_path / folder / "0.tar", sample_members(2))
        make_tar(tmp_path / folder / "1.tar", sample_members(2, start=start))
        label(tmp_path / folder, out, **options(sample_data))
    found = relocate(out, tmp_path / "a", tmp_path / "b")
    assert (found.moved, found.changed, found.labelled_twice) == (0, 1, 1)
    shards = {row["shard"].removeprefix(f"{tmp_path}/") for row in rows(out).to_pylist()}
    assert shards == {"a/1.tar", "b/0.tar", "b/1.tar"}
    assert_right(out)


def test_a_cluster_compares_where_it_is_much(data, out, sample_data, tmp_path, monkeypatch):
    run(data, out, sample_data)
    shutil.move(data, tmp_path / "new")
    engines = []
    monkeypatch.setattr("pipeline.commands.relocate.EngineCompare", functools.partial(EngineCompare, least_bytes=0))
    monkeypatch.setattr(
        "pipeline.commands.relocate.make_engine", lambda config: engines.append(config) or InlineEngine()
    )
    assert relocate(out, data, tmp_path / "new", ray_address="a cluster").moved == 9
    assert (engines[0].engine, engines[0].ray_address) == ("ray", "a cluster")
    assert_right(out)


def test_a_place_that_holds_something_else_changes_nothing(data, out, sample_data, tmp_path):
    run(data, out, sample_data)
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    (tmp_path / "new").mkdir()
    make_tar(tmp_path / "new" / "a.tar", sample_members(6, start=30))
    with pytest.raises(RequestError, match=r"none of the 9 inputs .* \(1 differ, 8 are missing, .*nothing was changed"):
        relocate(out, data, tmp_path / "new")
    with pytest.raises(RequestError, match="none of its inputs is below"):
        relocate(out, tmp_path / "never", tmp_path / "new")
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before


def test_a_job_that_is_not_finished_goes_on_at_the_new_place(data, out, sample_data, tmp_path):
    run(data, out, sample_data)
    expected = renamed(rows(out), data, tmp_path / "new")
    for path in (out / "predictions").glob("*-last.parquet"):
        path.unlink()
    shutil.move(data, tmp_path / "new")
    relocate(out, data, tmp_path / "new")
    assert 0 < run(tmp_path / "new", out, sample_data).images < 17
    assert rows(out).equals(expected)
    assert_right(out)


def key_lists(out: Path) -> set[str]:
    """Names of the key lists in the plan, all of which units name."""
    names = {path.name for path in (out / "plan").glob("keys-*")}
    planned = pq.read_table(out / "plan" / "units.parquet")["keys_uri"].to_pylist()
    assert names == {uri.rpartition("/")[2] for uri in planned if uri is not None}
    return names


def test_key_lists_that_no_unit_names_are_removed(out, sample_data, tmp_path):
    places = [tmp_path / name for name in "abc"]
    photos(places[0], 0, 1, 2)
    label(places[0], out, **options(sample_data))
    for old, new in itertools.pairwise(places):
        shutil.move(old, new)
        before = key_lists(out)
        assert relocate(out, old, new).moved == 3
        assert len(key_lists(out)) == 1
        assert key_lists(out) != before
    assert_right(out)


@pytest.fixture
def animals(tmp_path, out, sample_data) -> Path:
    """A folder of two folders, labelled as one."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number, name in enumerate(("cats", "dogs")):
        photos(folder / name, number, number + 5)
    label(folder, out, **options(sample_data))
    return folder


def test_a_part_of_a_folder_that_was_moved(animals, out, sample_data, tmp_path):
    (tmp_path / "new").mkdir()
    shutil.move(animals / "cats", tmp_path / "new" / "cats")
    found = relocate(out, animals / "cats", tmp_path / "new" / "cats")
    assert (found.moved, found.changed, found.missing) == (2, 0, 0)
    assert found_at(out) == ["data/dogs/0.jpg", "data/dogs/1.jpg", "new/cats/0.jpg", "new/cats/1.jpg"]
    assert_right(out)
    assert len(key_lists(out)) == 2
    assert relocate(out, animals / "cats", tmp_path / "new" / "cats").moved == 0  # again
    for folder in (animals, tmp_path / "new", tmp_path / "new" / "cats"):
        assert label(folder, out, **options(sample_data)).images == 0
    assert_right(out)
    assert relocate(out, tmp_path / "new", animals, note=print).missing == 2
    shutil.move(tmp_path / "new" / "cats", animals / "cats")
    assert relocate(out, tmp_path / "new" / "cats", animals / "cats").moved == 2
    assert {name.partition("/")[0] for name in found_at(out)} == {"data"}
    assert_right(out)


def test_a_part_of_a_folder_that_was_labelled_at_both_places(animals, out, sample_data, tmp_path):
    shutil.copytree(animals / "cats", tmp_path / "new" / "cats")
    (tmp_path / "new" / "cats" / "1.jpg").unlink()
    label(tmp_path / "new", out, **options(sample_data))
    found = relocate(out, animals / "cats", tmp_path / "new" / "cats")
    assert (found.moved, found.missing, found.labelled_twice) == (0, 1, 1)
    assert found_at(out) == ["data/cats/1.jpg", "data/dogs/0.jpg", "data/dogs/1.jpg", "new/cats/0.jpg"]
    assert_right(out)


def test_keys_do_not_change_when_a_part_of_a_folder_is_moved(animals, out, tmp_path):
    shutil.move(animals / "cats", tmp_path / "felines")
    before = rows(out)
    with pytest.raises(RequestError, match=r"keys that begin with cats/, and keep their keys only .* ends in /cats"):
        relocate(out, animals / "cats", tmp_path / "felines")
    with pytest.raises(RequestError, match="none of its inputs is below"):
        relocate(out, animals / "cows", tmp_path / "felines")
    assert rows(out).equals(before)


class Killed(BaseException):
    """Instead of a write."""


def killed_at(number: int, out: Path, whole: Path, call: Callable[[], object], monkeypatch) -> bool:
    """Restore an output, and kill a call at its write of this number; whether it finished before."""
    shutil.rmtree(out)
    shutil.copytree(whole, out)
    left = number

    def dying(name):
        write = getattr(Storage, name)

        def method(self, *words):
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return write(self, *words)

        return method

    with monkeypatch.context() as patch:
        for name in ("replace", "replace_if_unchanged", "publish", "delete"):
            patch.setattr(Storage, name, dying(name))
        try:
            call()
        except Killed:
            return False
    return True


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_write_the_same_command_finishes(data, out, sample_data, tmp_path, monkeypatch, step):
    run(data, out, sample_data)
    expected = renamed(rows(out), data, tmp_path / "new")
    new = tmp_path / "new"
    shutil.move(data, new)
    (new / "photos" / "2.jpg").unlink()
    shutil.copytree(out, tmp_path / "whole")
    expected = expected.filter([key != "2.jpg" for key in expected["key"].to_pylist()])
    for number in range(0, 100, step):
        finished = killed_at(number, out, tmp_path / "whole", lambda: relocate(out, data, new), monkeypatch)
        relocate(out, data, new)
        run(new, out, sample_data, prune=True)
        found = verify(out, deep=True)
        assert found.discrepancies == (), number
        assert rows(out).equals(expected), number
        if finished:
            break
    assert 10 < number < 99


@pytest.mark.parametrize("labelled", ["a", "a and b"])
def test_killed_at_any_write_what_is_not_moved_keeps_its_rows(out, sample_data, tmp_path, monkeypatch, labelled):
    a, b = photos(tmp_path / "a", 0, 1, 2, 3), photos(tmp_path / "b", 0, 8, 2)
    for name in labelled.split(" and "):
        label(tmp_path / name, out, **options(sample_data))
    shutil.copytree(out, tmp_path / "whole")
    expected = ["a/1.jpg", "a/3.jpg", "b/0.jpg", "b/2.jpg"] + ["b/1.jpg"] * (labelled != "a")
    for number in range(100):
        finished = killed_at(number, out, tmp_path / "whole", lambda: relocate(out, a, b), monkeypatch)
        found = relocate(out, a, b)
        assert finished or found.labelled_twice in (0, 2 * (labelled != "a")), number
        assert found_at(out) == sorted(expected), number
        assert_right(out)
        if finished:
            break
    assert 3 < number < 99


def test_the_command_line(shardlabel, data, out, sample_data, tmp_path):
    run(data, out, sample_data)
    shutil.move(data, tmp_path / "new")
    done = shardlabel("relocate", out, data, tmp_path / "new")
    assert (done.returncode, done.stdout) == (
        0,
        f"{out}: 9 inputs are below {tmp_path}/new now, with their labels\n",
    )
    assert done.stderr == "reading 60.7 kB of inputs, to compare them with what was labelled\n"
    done = shardlabel("relocate", out, tmp_path / "new", data, "--json")
    assert done.returncode == 2
    shutil.move(tmp_path / "new", data)
    done = shardlabel("relocate", out, tmp_path / "new", data, "--json")
    assert json.loads(done.stdout)["moved"] == 9
    assert pq.read_table(next((out / "predictions").iterdir()))["shard"][0].as_py().startswith(str(data))
