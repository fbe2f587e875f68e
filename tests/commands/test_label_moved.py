"""The data set was touched, uploaded again, thinned out: nothing is labelled twice, and what is gone can go."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import jpeg, make_tar, sample_members
from servers import S3Server
from small_jobs import options, predictions, rows

import pipeline
from pipeline import export, label, verify
from pipeline.errors import OutputError, RequestError
from pipeline.inputs.plan import Plan
from pipeline.job.comparing import EngineCompare
from pipeline.storage import Storage


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards, the second with images of every fate, in parts of four."""
    folder = tmp_path / "shards"
    folder.mkdir()
    make_tar(folder / "a.tar", sample_members(6))
    odd = [("00014.txt", b"text"), ("bad.jpg", b"no image"), ("empty.jpg", b""), ("none.json", b"{}")]
    make_tar(folder / "b.tar", [*sample_members(5, start=10), *odd])
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.jpg").write_bytes(jpeg(number))
    (folder / "bad.jpg").write_bytes(b"no image")
    (folder / "empty.jpg").touch()
    return folder


def run(inputs: Path | str | list[str], out: Path | str, sample_data: Path, **more):
    words = inputs if isinstance(inputs, list) else str(inputs)
    return label(words, out, **options(sample_data, **{"rows_per_part": 4, "keep": "txt", "keep_probs": True} | more))


def files(out: Path) -> dict[str, bytes]:
    """The published parts, with their bytes."""
    folders = ("predictions", "quarantine", "probabilities")
    return {str(path): path.read_bytes() for folder in folders for path in sorted((out / folder).rglob("*.parquet"))}


def touch(*paths: Path) -> None:
    for path in paths:
        os.utime(path, ns=(1, path.stat().st_mtime_ns + 1_000_000_000))


def assert_right(out: Path | str, **more) -> None:
    found = verify(out, deep=True, **more)
    assert found.discrepancies == ()


# -- another version ----------------------------------------------------------------------------------------


def test_shards_that_were_touched_keep_their_labels(shards, out, sample_data):
    run(shards, out, sample_data)
    before = files(out)
    touch(*shards.iterdir())
    assert verify(out).exit_code == 1
    summary = run(shards, out, sample_data)
    assert (summary.images, summary.exit_code) == (0, 0)
    assert summary.notes == ("of another version, but with the bytes that were labelled: 2 shards, not labelled again",)
    assert files(out) == before
    assert_right(out)
    assert run(shards, out, sample_data).notes == ()


@pytest.mark.parametrize("what", ["image", "truth", "kept field", "quarantined image"])
def test_a_shard_with_other_bytes_of_the_same_size_is_labelled_again(shards, out, sample_data, what):
    run(shards, out, sample_data)
    data = (shards / "b.tar").read_bytes()
    older, newer = {
        "image": (jpeg(12), jpeg(12)[:-1] + b"?"),
        "truth": (b"12" + bytes(510), b"13" + bytes(510)),
        "kept field": (b"text" + bytes(508), b"word" + bytes(508)),
        "quarantined image": (b"no image", b"not here"),
    }[what]
    changed = data.replace(older, newer)
    assert len(changed) == len(data)
    assert changed != data
    (shards / "b.tar").write_bytes(changed)
    summary = run(shards, out, sample_data)
    assert summary.images == 8
    assert summary.units_total == 2
    assert_right(out)


def test_what_is_not_labelled_yet_of_a_touched_shard_follows(shards, out, sample_data):
    whole = run(shards, out, sample_data)
    expected = rows(out)
    for path in (out / "predictions").glob("*-last.parquet"):
        path.unlink()
    touch(*shards.iterdir())
    summary = run(shards, out, sample_data)
    assert 0 < summary.images < whole.images
    assert rows(out).equals(expected)
    assert_right(out)


def test_a_version_that_comes_back_with_other_bytes_is_labelled_again(shards, out, sample_data):
    """The id of the unit is that of its first version: it must not be taken for what is there now."""
    shard = shards / "a.tar"
    first, data = shard.stat().st_mtime_ns, shard.read_bytes()
    run(shard, out, sample_data)
    touch(shard)
    assert run(shard, out, sample_data).images == 0
    shard.write_bytes(data.replace(jpeg(3), jpeg(3)[:-1] + b"?"))
    os.utime(shard, ns=(first, first))
    assert run(shard, out, sample_data).images == 6
    assert_right(out)
    shard.write_bytes(data)
    os.utime(shard, ns=(first + 1, first + 1))
    assert run(shard, out, sample_data).images == 6
    assert_right(out)


def test_a_damaged_part_proves_nothing(shards, out, sample_data):
    run(shards, out, sample_data)
    part = next(iter(sorted((out / "predictions").iterdir())))
    part.write_bytes(part.read_bytes()[:-8] + b"nonsense")
    touch(*shards.iterdir())
    assert run(shards, out, sample_data).images in {6, 8}
    assert_right(out)


def test_loose_images_that_were_touched_keep_their_labels(photos, out, sample_data):
    run(photos, out, sample_data)
    before = files(out)
    touch(*photos.iterdir())
    summary = run(photos, out, sample_data)
    assert (summary.images, files(out)) == (0, before)
    assert_right(out)


def test_of_loose_images_only_those_with_other_bytes_are_labelled_again(photos, out, sample_data):
    run(photos, out, sample_data)
    touch(*photos.iterdir())
    (photos / "2.jpg").write_bytes(jpeg(2).replace(jpeg(2)[-9:-5], b"abcd"))  # the same size
    (photos / "4.jpg").write_bytes(jpeg(44))  # another size
    (photos / "bad.jpg").write_bytes(jpeg(45))
    summary = run(photos, out, sample_data)
    assert (summary.images, summary.labelled) == (3, 3)
    assert_right(out)
    assert sorted(rows(out)["key"].to_pylist()) == [*(f"{n}.jpg" for n in range(6)), "bad.jpg"]
    # and once more, over slices with gaps
    touch(*photos.iterdir())
    (photos / "5.jpg").write_bytes(jpeg(55))
    assert run(photos, out, sample_data).images == 1
    assert_right(out)


@pytest.mark.parametrize("kind", ["shards", "photos"])
def test_a_new_upload_in_other_pieces_is_not_labelled_again(s3: S3Server, request, sample_data, kind):
    bucket = s3.bucket()
    folder = request.getfixturevalue(kind)
    for path in folder.iterdir():
        s3.put(bucket, f"in/{path.name}", path.read_bytes())
    inputs, out = f"s3://{bucket}/in/", f"s3://{bucket}/out"
    run(inputs, out, sample_data, s3_endpoint=s3.endpoint)
    before = predictions(s3, bucket, "out")
    for path in folder.iterdir():
        upload = s3.client.create_multipart_upload(Bucket=bucket, Key=f"in/{path.name}")
        names = {"Bucket": bucket, "Key": f"in/{path.name}", "UploadId": upload["UploadId"]}
        tag = s3.client.upload_part(PartNumber=1, Body=path.read_bytes(), **names)["ETag"]
        s3.client.complete_multipart_upload(MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": tag}]}, **names)
    assert verify(out, s3_endpoint=s3.endpoint).exit_code == 1
    summary = run(inputs, out, sample_data, s3_endpoint=s3.endpoint)
    assert (summary.images, summary.exit_code) == (0, 0)
    assert predictions(s3, bucket, "out") == before
    assert_right(out, s3_endpoint=s3.endpoint)


def test_an_input_that_cannot_be_read_now_is_not_given_up(shards, out, sample_data, monkeypatch):
    from pipeline.errors import StoreUnavailable
    from pipeline.inputs import same_content

    run(shards, out, sample_data)
    before = files(out)
    touch(shards / "a.tar")

    def fails(*_, **__):
        raise StoreUnavailable("the store is down")

    with monkeypatch.context() as patch:
        patch.setattr(same_content, "UnitReader", fails)
        summary = run(shards, out, sample_data)
    assert (summary.exit_code, summary.images, summary.failed_units) == (4, 0, 1)
    assert "the store is down" in summary.failures[0].message
    assert files(out) == before
    assert run(shards, out, sample_data).exit_code == 0
    assert_right(out)


# -- gone ---------------------------------------------------------------------------------------------------


def test_what_is_gone_stays_until_it_is_pruned(shards, out, sample_data):
    run(shards, out, sample_data)
    (shards / "b.tar").unlink()
    summary = run(shards, out, sample_data)
    assert (summary.images, summary.gone, summary.pruned, summary.exit_code) == (0, 1, 0, 0)
    (note,) = summary.notes
    assert f"gone: 1 shard ({shards}/b.tar)" in note
    assert "--prune" in note
    assert len(rows(out)) == 11
    (line,) = verify(out).discrepancies
    assert "--prune" in line
    summary = run(shards, out, sample_data, prune=True)
    assert (summary.images, summary.gone, summary.pruned, summary.units_total) == (0, 1, 1, 1)
    assert set(rows(out)["shard"].to_pylist()) == {f"{shards}/a.tar"}
    assert len(list((out / "quarantine").iterdir())) == 0
    assert_right(out)
    assert json.loads((out / "_SUCCESS").read_text())["units"] == 1
    assert run(shards, out, sample_data).notes == ()


@pytest.mark.parametrize("words", ["{folder}/{{a,b}}.tar", "@{folder}/list", ["{folder}/a.tar", "{folder}/b.tar"]])
def test_a_shard_that_is_named_and_gone_is_pruned_by_the_same_command(shards, out, sample_data, words):
    (shards / "list").write_text(f"{shards}/a.tar\n{shards}/b.tar\n")
    inputs = [word.format(folder=shards) for word in ([words] if isinstance(words, str) else words)]
    run(inputs, out, sample_data)
    (shards / "b.tar").unlink()
    summary = run(inputs, out, sample_data, prune=True)
    assert (summary.exit_code, summary.pruned, summary.units_total) == (0, 1, 1)
    assert_right(out)


def test_loose_images_that_are_gone_lose_their_rows_alone(photos, out, sample_data, tmp_path):
    run(photos, out, sample_data)
    to = {"to": tmp_path / "to", "format": "imagefolder", "engine": "inline"}
    export(out, **to)
    expected = rows(out).filter([key not in {"1.jpg", "4.jpg"} for key in rows(out)["key"].to_pylist()])
    for name in ("1.jpg", "4.jpg", "bad.jpg"):
        (photos / name).unlink()
    summary = run(photos, out, sample_data)
    assert (summary.images, summary.gone) == (0, 3)
    assert "--prune" in "".join(verify(out).discrepancies)
    summary = run(photos, out, sample_data, prune=True)
    assert (summary.images, summary.pruned) == (0, 3)
    assert rows(out).equals(expected)
    assert_right(out)
    with pytest.raises(OutputError, match="it differs in the output that it is made of"):
        export(out, **to)
    assert export(out, **to, overwrite=True).images == len(expected)
    assert sum(1 for path in (tmp_path / "to" / "data").rglob("*.jpg")) == len(expected)
    (photos / "1.jpg").write_bytes(jpeg(1))  # what comes back is new
    assert run(photos, out, sample_data).images == 1
    assert_right(out)


def test_inputs_of_other_runs_are_not_pruned(shards, photos, out, sample_data):
    run(shards, out, sample_data)
    run(photos, out, sample_data)
    assert run(photos, out, sample_data, prune=True).pruned == 0
    (shards / "a.tar").unlink()
    (photos / "3.jpg").unlink()
    assert run(photos, out, sample_data).gone == 2
    assert run(photos, out, sample_data, prune=True, limit=2).pruned == 2
    assert_right(out)


def test_an_output_is_never_emptied(shards, out, sample_data, tmp_path):
    run(shards, out, sample_data)
    shutil.move(shards, tmp_path / "elsewhere")
    with pytest.raises(RequestError, match="no INPUT is left"):
        run(shards, out, sample_data, prune=True)
    assert len(rows(out)) == 11


# -- kills, and two at once ---------------------------------------------------------------------------------


def shuffle(shards: Path, photos: Path) -> None:
    """Everything is touched, some of it is another one, and some is gone."""
    touch(*shards.iterdir(), *photos.iterdir())
    make_tar(shards / "b.tar", sample_members(3, start=30))
    (photos / "2.jpg").write_bytes(jpeg(42))
    (photos / "4.jpg").write_bytes(jpeg(44))
    (photos / "5.jpg").unlink()


class Killed(BaseException):
    """Instead of a write."""


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_write_the_next_run_finishes(shards, photos, out, sample_data, tmp_path, monkeypatch, step):
    inputs = [str(shards), str(photos)]
    run(inputs, out, sample_data, rows_per_part=100)
    shutil.copytree(out, tmp_path / "whole")
    shuffle(shards, photos)
    run(inputs, tmp_path / "fresh", sample_data, rows_per_part=100)
    expected = {(row["shard"], row["key"], row["sha256"]) for row in rows(tmp_path / "fresh").to_pylist()}
    for number in range(0, 100, step):
        shutil.rmtree(out)
        shutil.copytree(tmp_path / "whole", out)
        left = number

        def dying(name):
            call = getattr(Storage, name)

            def method(self, *words):
                nonlocal left
                left -= 1
                if left < 0:
                    raise Killed
                return call(self, *words)

            return method

        finished = False
        with monkeypatch.context() as patch:
            for name in ("replace", "replace_if_unchanged", "publish", "delete"):
                patch.setattr(Storage, name, dying(name))
            with contextlib.suppress(Killed):
                run(inputs, out, sample_data, rows_per_part=100, prune=True)
                finished = True
        run(inputs, out, sample_data, rows_per_part=100, prune=True)
        assert verify(out, deep=True).discrepancies == (), number
        table = rows(out).to_pylist()
        assert {(row["shard"], row["key"], row["sha256"]) for row in table} == expected
        assert len(table) == len(expected)
        if finished:
            break
    assert 10 < number < 99


def test_two_runs_that_settle_the_same_changes_agree(shards, photos, out, sample_data, monkeypatch):
    inputs = [str(shards), str(photos)]
    run(inputs, out, sample_data)
    shuffle(shards, photos)
    other = []
    write = Plan.write

    def slow(self):
        if not other:  # the other run has done everything before this one writes its plan
            other.append(None)
            other[0] = run(inputs, out, sample_data, prune=True)
        return write(self)

    monkeypatch.setattr(Plan, "write", slow)
    assert run(inputs, out, sample_data, prune=True).images == 0
    assert other[0].images == 5
    assert_right(out)


@pytest.mark.parametrize("engine", ["inline", pytest.param("ray", marks=pytest.mark.slow)])
def test_workers_compare_where_it_is_much(shards, photos, out, sample_data, monkeypatch, engine):
    inputs = [str(shards), str(photos)]
    run(inputs, out, sample_data, engine=engine)
    shuffle(shards, photos)
    monkeypatch.setattr("pipeline.commands.label.EngineCompare", functools.partial(EngineCompare, least_bytes=0))
    (out / "_SUCCESS").unlink()  # planning goes on in a thread then, beside the engine's start
    summary = run(inputs, out, sample_data, engine=engine, prune=True)
    assert (summary.images, summary.pruned) == (5, 1)
    assert_right(out)
    touch(*shards.iterdir(), *photos.iterdir())
    assert run(inputs, out, sample_data, engine=engine).images == 0
    assert_right(out)


def test_a_damaged_shard_that_was_touched_is_not_labelled_again(tmp_path: Path, out: Path, sample_data: Path):
    """Damage to a shard is a row without an index."""
    tar = make_tar(tmp_path / "a.tar", sample_members(5))
    tar.write_bytes(tar.read_bytes()[: 10 * 1024])  # without its end
    first = run(tar, out, sample_data)
    assert first.events
    pipeline.report(out)
    before = files(out)
    os.utime(tar, (1, 1))
    assert run(tar, out, sample_data).labelled == 0
    assert files(out) == before
    assert verify(out).discrepancies == ()
