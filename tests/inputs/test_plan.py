"""From INPUT arguments to units: what is found, how it is cut, and what a second plan changes."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from conftest import jpeg, make_tar, sample_members
from servers import S3Server

from pipeline.errors import InputError, OutputError
from pipeline.inputs import plan as planning
from pipeline.inputs.find import Inputs, find_inputs
from pipeline.inputs.plan import Plan
from pipeline.inputs.units import count_samples
from pipeline.output.ledger import Ledger
from pipeline.records import Sample, Unit, UnitKind
from pipeline.stages.read import UnitReader, slice_entries
from pipeline.storage import Storage

STORAGE = Storage()


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory that is also the current one."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def find(*words: str, storage: Storage = STORAGE) -> Inputs:
    return find_inputs(words, storage)


def tars(inputs: Inputs, base: Path | str) -> list[str]:
    return [uri.removeprefix(f"{base}/") for uri in inputs.tars]


def loose(inputs: Inputs, base: Path | str) -> list[tuple[str, list[str]]]:
    return [
        (prefix.removeprefix(f"{base}/"), [entry.uri.removeprefix(f"{base}/") for entry in listing])
        for prefix, listing in inputs.loose
    ]


# -- INPUT words, local -----------------------------------------------------------------------------------


def test_single_files(data: Path):
    touch(data, "a.tar", "b.TGZ", "c.tar.gz", "sub/x.jpg")
    inputs = find("a.tar", str(data / "b.TGZ"), f"file://{data}/c.tar.gz", "sub/x.jpg", "a.tar")
    assert tars(inputs, data) == ["a.tar", "b.TGZ", "c.tar.gz"]
    assert loose(inputs, data) == [("sub/", ["sub/x.jpg"])]
    assert inputs.tars[f"{data}/a.tar"].size_bytes == 5


def test_a_directory_of_tars_nested_too(data: Path):
    touch(data, "b.tar", "sub/a.tar", "notes.txt")
    assert tars(find("."), data) == ["b.tar", "sub/a.tar"]


def test_a_directory_of_loose_images_nested_too(data: Path):
    touch(data, "in/b.jpg", "in/sub/a.PNG", "in/notes.txt", "in/.hidden.jpg")
    for word in ("in", "in/", str(data / "in"), f"file://{data}/in"):
        assert loose(find(word), data) == [("in/", ["in/b.jpg", "in/sub/a.PNG"])]


def test_a_folder_of_tars_and_loose_images_is_both_and_says_so(data: Path):
    touch(data, "a.tar", "x.jpg", "sub/y.jpg", "notes.txt")
    inputs = find(str(data))
    assert (tars(inputs, data), loose(inputs, data)) == (["a.tar"], [("", ["sub/y.jpg", "x.jpg"])])
    assert inputs.notes == [f"{data}/ holds 1 tar and 2 loose images: both are labelled"]
    assert inputs.left_out == {".txt": 1}


def test_outputs_further_down_are_left_out_and_said(data: Path):
    touch(data, "in/truth-images/x.jpg", "in/other-images/y.jpg")
    (data / "in/truth-classes.json").write_text(json.dumps({"drawn_from": "o", "order": "random", "class_names": []}))
    touch(data, "in/a.jpg", "in/labels/truth-images/a.jpg", "in/labels/b.tar", "in/dataset/c.jpg", "in/other/d.jpg")
    ours = json.dumps({"shardlabel": "0.1.0", "fingerprint": "ab"})
    for name, content in (("labels/job.json", ours), ("dataset/export.json", ours), ("other/job.json", '{"a": 1}')):
        (data / "in" / name).write_text(content)
    inputs = find("in")
    images = ["in/a.jpg", "in/other-images/y.jpg", "in/other/d.jpg"]
    assert (tars(inputs, data), loose(inputs, data)) == ([], [("in/", images)])
    ours = ("dataset", "labels", "truth-images")
    assert inputs.notes == [f"left out: {data}/in/{name} was written by shardlabel" for name in ours]
    assert inputs.left_out == {".json": 2}
    by_glob = [name for _, names in loose(find("in/[dlo]*"), data) for name in names]
    assert sorted(by_glob) == ["in/other-images/y.jpg", "in/other/d.jpg"]
    # one that is asked for by its own name is an input
    assert loose(find("in/dataset"), data) == [("in/dataset/", ["in/dataset/c.jpg"])]


@pytest.mark.parametrize("words", ["in", "in/", "*n", "in/*", "in/o*", "link"])
@pytest.mark.parametrize("is_there", [False, True])
def test_an_out_inside_the_input_is_left_out_and_said_from_the_first_run_on(data: Path, words: str, is_there: bool):
    touch(data, "in/a.jpg", "in/other/b.jpg", *(["in/out/labels/c.jpg"] if is_there else []))
    (data / "link").symlink_to("in")
    inputs = find_inputs([words], STORAGE, out=f"{data}/in/out")
    assert inputs.notes == [f"left out: {data}/in/out is where this job writes"]
    names = {name for _, names in loose(inputs, data) for name in names}
    assert {name.rpartition("/")[2] for name in names} <= {"a.jpg", "b.jpg"}


def test_an_out_elsewhere_is_not_spoken_of(data: Path):
    touch(data, "in/a.jpg", "out/b.jpg")
    for words in ("in", "in/*", "in/a*"):
        assert find_inputs([words], STORAGE, out=f"{data}/out").notes == []
        assert find_inputs([words], STORAGE, out=f"{data}/in-out").notes == []


def test_images_without_an_extension_are_taken_at_their_word(data: Path):
    touch(data, "0a1b", "blobs/ff00", "blobs/x.bin", "y.jpg")
    for name, content in (("one", jpeg()), ("two", b"no image at all")):
        (data / name).write_bytes(content)
    (data / "list.txt").write_text("0a1b\nblobs/ff00\nblobs/x.bin\ny.jpg\ngone\nmore\n")
    touch(data, "more/z.jpg")
    inputs = find("@list.txt")
    assert loose(inputs, data) == [
        ("more/", ["more/z.jpg"]),
        ("", ["0a1b", "blobs/ff00", "blobs/x.bin", "gone", "y.jpg"]),
    ]
    assert loose(find("one"), data) == [("", ["one"])]
    with pytest.raises(InputError, match="two: neither a tar nor an image by its name; a list of URIs is given as @"):
        find("two")


# as written by img2dataset 1.47.0; DALI 2.4's wds2idx; megatron-energon 7.4.1; NeMo Curator 0.25
BESIDE_SHARDS = [
    "00000.tar 00000.parquet 00000_stats.json 00001.tar 00001.parquet 00001_stats.json",
    "data-0000.tar data-0000.idx sub/data-0001.tgz sub/data-0001.idx a.b.tar a.idx",
    "data-0000.tar data-0000.tar.idx b.tar.gz b.tar.gz.idx .nv-meta/index.sqlite .nv-meta/dataset.yaml",
    "00000.tar 00000.parquet 00000.idx",
]
ALONE = {
    "a.tar b.idx": {".idx": 1},
    "a.tar sub/a.idx": {".idx": 1},
    "a.tar a.parquet.1 a.tar.part a.json a_stats.txt": {".1": 1, ".tar.part": 1, ".json": 1, ".txt": 1},
    "a.tar ab.parquet a.b.parquet": {".parquet": 2},
    "a.jpg a.parquet a.idx a_stats.json": {".parquet": 1, ".idx": 1, ".json": 1},
}


@pytest.mark.parametrize("names", BESIDE_SHARDS)
@pytest.mark.parametrize("word", [".", "**", "{.,**}"])
def test_what_tools_put_beside_their_shards_is_not_missed(data: Path, names: str, word: str):
    touch(data, *names.split())
    inputs = find(word)
    assert tars(inputs, data) == sorted(name for name in names.split() if name.endswith((".tar", ".tgz", ".gz")))
    assert (inputs.left_out, inputs.notes) == ({}, [])


@pytest.mark.parametrize("names", ALONE)
def test_the_same_names_without_their_shard_are_counted(data: Path, names: str):
    touch(data, *names.split())
    assert find(".").left_out == ALONE[names]


def test_globs(data: Path):
    touch(data, "a/1.tar", "a/2.tar", "a/3.txt", "b/4.tar", "c/d/5.jpg", "c/d/6.jpg", "c/7.jpg")
    assert tars(find("a/*.tar"), data) == ["a/1.tar", "a/2.tar"]
    assert tars(find("**/[14].tar"), data) == ["a/1.tar", "b/4.tar"]
    assert loose(find("c/**/*.jpg"), data) == [("c/", ["c/7.jpg", "c/d/5.jpg", "c/d/6.jpg"])]
    assert loose(find("c/d/?.jpg"), data) == [("c/d/", ["c/d/5.jpg", "c/d/6.jpg"])]


def test_a_glob_that_matches_directories_takes_each_place_once(data: Path):
    touch(data, "a/1.jpg", "a/sub/2.jpg", "a-b/3.jpg", "4.jpg")
    assert loose(find("**"), data.parent) == [
        ("data/", ["data/4.jpg", "data/a-b/3.jpg", "data/a/1.jpg", "data/a/sub/2.jpg"])
    ]
    assert sorted(loose(find("a*"), data)) == [("a-b/", ["a-b/3.jpg"]), ("a/", ["a/1.jpg", "a/sub/2.jpg"])]


def test_brace_ranges(data: Path):
    touch(data, *(f"s-{n:03d}.tar" for n in range(4)), "train/a.tar", "val/b.tar")
    assert tars(find("s-{000..003}.tar"), data) == [f"s-{n:03d}.tar" for n in range(4)]
    assert tars(find("{val,train}"), data) == ["val/b.tar", "train/a.tar"]
    assert tars(find("{train,val}/*.tar"), data) == ["train/a.tar", "val/b.tar"]


def test_of_a_range_what_is_missing_becomes_a_unit_of_unknown_size(data: Path):
    touch(data, "s-0.tar", "s-2.tar")
    sizes = [entry.size_bytes for entry in find("s-{0..3}.tar").tars.values()]
    assert sizes == [7, -1, 7, -1]
    with pytest.raises(
        InputError,
        match=r"none of the inputs can be read: .*/t-0.tar, .*/t-2.tar and 1 more \(.*t-0.tar: no such file\)",
    ):
        find("t-{0..3}.tar")


def test_names_that_look_like_patterns_are_names_where_they_exist(data: Path):
    names = ["a{1}.tar", "b{1..2}.tar", "c[1].tar", "d e.tar", "é*.tar", "f{.tar"]
    touch(data, *names)
    assert tars(find(*names), data) == names
    (data / "list").write_text("\n".join(names))
    assert tars(find("@list"), data) == names


def test_a_list(data: Path):
    touch(data, "a.tar", "s-0.tar", "s-1.tar", "d/x.jpg", "d/y/b.jpg", "d/y/a.jpg", "t/u.tar", "li st.txt")
    text = f"\ufeff# comment\r\n\n  a.tar  \r\ns-{{0..1}}.tar\nd/y/b.jpg\n{data}/d/y/a.jpg\nfile://{data}/d/x.jpg\nt\nd/x.jpg"
    (data / "lists").mkdir()
    (data / "lists" / "li st.txt").write_bytes(text.encode())
    inputs = find("@lists/li st.txt")
    assert tars(inputs, data) == ["a.tar", "s-0.tar", "s-1.tar", "t/u.tar"]  # relative to the current directory
    assert loose(inputs, data) == [("d/", ["d/x.jpg", "d/y/a.jpg", "d/y/b.jpg"])]


def test_missing_images_of_a_list_have_a_size_that_is_unknown(data: Path):
    touch(data, "a.jpg")
    (data / "list").write_text("a.jpg\n" + "\n".join(f"no{n}.jpg" for n in range(9)))
    ((_, listing),) = find("@list").loose
    assert [entry.size_bytes for entry in listing] == [5, *[-1] * 9]


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("no.tar", r"INPUT .*/data/no\.tar: no such file"),
        ("no/", r"INPUT .*/data/no/: no such file"),
        ("no*.tar", r"INPUT no\*\.tar: no images found; .*/no\*\.tar: nothing matches"),
        ("empty", r"INPUT empty: no images found; .*/empty/ holds neither"),
        ("notes.txt", r"INPUT .*/notes\.txt: neither a tar nor an image .* given as @"),
        ("gs://bucket/x.tar", r"INPUT gs://bucket/x\.tar: unknown scheme"),
        ("gs://bucket/{0..3}.tar", r"INPUT gs://bucket/.*: unknown scheme"),
        ("s-{0..99999999999999999999}.tar", r"INPUT s-.*: a brace range of more than 10,000,000 names"),
        ("s-{0..3.tar", r"INPUT s-\{0\.\.3\.tar: malformed brace range"),
        ("@no.txt", r"INPUT @no\.txt: .*/no\.txt: no such file"),
        ("@blank", r"INPUT @blank: the list is empty"),
        ("@latin1", r"INPUT @latin1: not UTF-8"),
        ("@gone", r"INPUT @gone: no images found; missing or forbidden: .*/gone\.jpg"),
        ("", r"INPUT '': the path is empty"),
        ("s3://buck*/x.tar", r"INPUT s3://buck\*/x\.tar: the name of a bucket holds no wildcards"),
    ],
)
def test_each_wrong_input_is_named_even_beside_a_right_one(data: Path, word: str, line: str):
    touch(data, "good.tar", "notes.txt")
    (data / "empty").mkdir()
    (data / "blank").write_text("# nothing\n\n")
    (data / "latin1").write_bytes(b"caf\xe9.tar\n")
    (data / "gone").write_text("gone.jpg\n")
    with pytest.raises(InputError, match=f"^{line}") as caught:
        find("good.tar", word)
    assert "\n" not in str(caught.value)


def test_shards_whose_path_is_not_utf8_are_refused_and_loose_images_are_not(data: Path):
    (data / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    assert len(loose(find("."), data)[0][1]) == 1
    (data / os.fsdecode(b"caf\xe9.tar")).write_bytes(b"x")
    with pytest.raises(InputError, match=r"caf\\xe9\.tar: the path is not UTF-8") as caught:
        find(".")
    str(caught.value).encode()


# -- INPUT words, S3 ----------------------------------------------------------------------------------------


@pytest.fixture
def bucket(s3: S3Server) -> str:
    name = s3.bucket()
    for key in ["t/a-0.tar", "t/a-1.tar", "t/sub/ü b.tar", "t/x.jpg", "i/1.jpg", "i/sub/2.png", "i-j/3.jpg", "n/n.txt"]:
        s3.put(name, key, key.encode())
    return name


def test_s3_keys_and_prefixes(s3: S3Server, bucket: str):
    base, storage = f"s3://{bucket}", s3.storage()
    assert tars(find(f"{base}/t/a-0.tar", storage=storage), base) == ["t/a-0.tar"]
    assert loose(find(f"{base}/i/1.jpg", storage=storage), base) == [("i/", ["i/1.jpg"])]
    for word in (f"{base}/t", f"{base}/t/"):
        inputs = find(word, storage=storage)
        assert tars(inputs, base) == ["t/a-0.tar", "t/a-1.tar", "t/sub/ü b.tar"]
        assert inputs.notes == [f"{base}/t/ holds 3 tars and 1 loose image: both are labelled"]
    for word in (f"{base}/i", f"{base}/i/"):  # i-j is another prefix
        assert loose(find(word, storage=storage), base) == [("i/", ["i/1.jpg", "i/sub/2.png"])]
    for word in (base, f"{base}/"):
        assert len(find(word, storage=storage).tars) == 3


def test_s3_ranges_wildcards_and_lists(s3: S3Server, bucket: str, data: Path):
    base, storage = f"s3://{bucket}", s3.storage()
    ranged = find(f"{base}/t/a-{{0..2}}.tar", storage=storage)
    assert [entry.size_bytes for entry in ranged.tars.values()] == [9, 9, -1]
    assert tars(find(f"{base}/t/a-?.tar", storage=storage), base) == ["t/a-0.tar", "t/a-1.tar"]
    assert loose(find(f"{base}/i*/*.jpg", storage=storage), base) == [("", ["i-j/3.jpg", "i/1.jpg"])]
    for words in ("i", "i/*"):
        inputs = find_inputs([f"{base}/{words}"], storage, out=f"{base}/i/sub")
        assert (loose(inputs, base), len(inputs.notes)) == ([("i/", ["i/1.jpg"])], 1)
    s3.put(bucket, "lists/all.txt", f"{base}/t/a-1.tar\n{base}/i/1.jpg\n{base}/t/sub/*.tar\n".encode())
    listed = find(f"@{base}/lists/all.txt", storage=storage)
    assert tars(listed, base) == ["t/a-1.tar", "t/sub/ü b.tar"]
    assert loose(listed, base) == [("i/", ["i/1.jpg"])]


def test_hidden_objects_on_s3_are_passed_over_like_hidden_files(s3: S3Server, data: Path):
    keys = [
        "p/a.jpg",
        "p/.b.jpg",
        "p/._a.jpg",
        "p/.DS_Store",
        "p/.git/c.jpg",
        "p/__MACOSX/d.jpg",
        "p/s/._e.jpg",
        "p/s/f.jpg",
    ]
    bucket, storage = s3.bucket(), s3.storage()
    for key in [*keys, ".q/g.jpg", "p/../h.jpg"]:  # the last is no path, and not hidden
        s3.put(bucket, key, b"x")
    touch(data, *keys)
    base = f"s3://{bucket}"
    seen = ["p/../h.jpg", "p/a.jpg", "p/s/f.jpg"]
    for word in ("p/", "p", "", "p/*", "p/**"):
        ((_, found),) = loose(find(f"{base}/{word}", storage=storage), base)
        assert found == seen
    ((_, found),) = loose(find("p"), data)
    assert found == seen[1:]
    assert loose(find(f"{base}/.q/", storage=storage), base) == [(".q/", [".q/g.jpg"])]  # what was asked for
    assert loose(find(f"{base}/p/.b*", storage=storage), base) == [("p/", ["p/.b.jpg"])]
    assert loose(find(f"{base}/p/*/._*", storage=storage), base)[0][1] == ["p/s/._e.jpg"]
    assert loose(find(f"{base}/p/a*.jpg", storage=storage), base) == [("p/", ["p/a.jpg"])]
    assert find(f"{base}/p/", storage=storage).left_out == {}


@pytest.mark.parametrize("fold", ["/", "a//", "a/b//c/", "a///"])
def test_keys_with_empty_steps_are_the_keys_that_were_asked_for(s3: S3Server, data: Path, fold: str):
    bucket, storage = s3.bucket(), s3.storage()
    base, plain = f"s3://{bucket}", fold.replace("///", "/").replace("//", "/").removeprefix("/")
    for key in (f"{fold}1.jpg", f"{fold}2.jpg", f"{fold}s-1.tar", f"{fold}s-2.tar", f"{plain}1.jpg", f"{plain}s-1.tar"):
        s3.put(bucket, key, key.encode())
    images, shards = [f"{fold}1.jpg", f"{fold}2.jpg"], [f"{fold}s-1.tar", f"{fold}s-2.tar"]
    assert loose(find(f"{base}/{fold}1.jpg", storage=storage), base) == [(fold, images[:1])]
    assert loose(find(f"{base}/{fold}{{1..2}}.jpg", storage=storage), base) == [(fold, images)]
    assert loose(find(f"{base}/{fold}?.jpg", storage=storage), base) == [(fold, images)]
    (data / "list").write_text("".join(f"{base}/{key}\n" for key in [*images, *shards]))
    found = find("@list", storage=storage)
    assert (loose(found, base), tars(found, base)) == ([(fold, images)], shards)
    assert tars(find(f"{base}/{fold}", storage=storage), base) == shards
    assert tars(find(f"{base}/{fold}s-*.tar", storage=storage), base) == shards
    plan = Plan(Ledger(str(data / "out"), STORAGE), storage)
    plan.add(find(f"{base}/{fold}?.jpg", storage=storage))
    (unit,) = plan.units
    assert [sample.image for sample in UnitReader(unit, storage)] == [key.encode() for key in images]


def test_what_is_missing_on_s3_is_named(s3: S3Server, bucket: str):
    storage = s3.storage()
    for word in (
        f"s3://{bucket}/no.tar",
        f"s3://{bucket}/no",
        f"s3://{bucket}/no/",
        f"s3://{bucket}/n/",
        "s3://no-such/t/",
    ):
        with pytest.raises(InputError, match=f"^INPUT {word}"):
            find(word, storage=storage)


# -- units ----------------------------------------------------------------------------------------------------


@pytest.fixture
def out(tmp_path: Path) -> Ledger:
    return Ledger(str(tmp_path / "out"), STORAGE)


@pytest.fixture
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "SLICE_KEYS", 10)


def planned(out: Ledger, *words: str, limit: int | None = None) -> Plan:
    """One run's planning."""
    plan = Plan(out, STORAGE)
    plan.add(find(*words), limit)
    plan.write()
    assert Plan(out, STORAGE).units == plan.units
    return plan


def uris(units: list[Unit]) -> list[str]:
    found = []
    for unit in units:
        assert unit.keys_uri is not None
        entries = [entry for _, entry in slice_entries(unit, STORAGE.read(unit.keys_uri))]
        assert len(entries) == unit.num_samples
        assert [entry.uri for entry in entries] == sorted(entry.uri for entry in entries)
        found += [entry.uri for entry in entries]
    return found


def num_samples(units: list[Unit]) -> int:
    return sum(isinstance(item, Sample) for unit in units for item in UnitReader(unit, STORAGE))


def test_a_listing_is_cut_into_slices_of_2048_keys(data: Path, out: Ledger):
    for n in range(2049):
        (data / f"{n:04d}.jpg").touch()
    units = planned(out, ".").units
    assert [unit.num_samples for unit in units] == [2048, 1]
    assert uris(units) == [f"{data}/{n:04d}.jpg" for n in range(2049)]
    assert {(unit.kind, unit.uri) for unit in units} == {(UnitKind.SLICE, f"{data}/")}


@pytest.mark.usefixtures("_small_slices")
def test_ids_are_a_pure_function_of_what_is_there(data: Path, out: Ledger, tmp_path: Path):
    touch(data, "t/a.tar", "t/b.tar", *(f"i/{n}.jpg" for n in range(25)))
    first = planned(out, "t", "i").units
    assert planned(out, "t", "i").units == first
    assert planned(out, "i", "t").units == first
    elsewhere = planned(Ledger(str(tmp_path / "elsewhere"), STORAGE), "t", "i").units
    assert [unit.id for unit in elsewhere] == [unit.id for unit in first]
    assert len({unit.id for unit in first}) == 5


@pytest.mark.usefixtures("_small_slices")
def test_keys_added_later_get_slices_of_their_own(data: Path, out: Ledger):
    touch(data, *(f"{n:03d}.jpg" for n in range(0, 50, 2)))
    first = planned(out, ".")
    touch(data, *(f"{n:03d}.jpg" for n in range(1, 50, 2)), "000a.jpg", "a.jpg")
    second = planned(out, ".")
    assert second.units[:3] == first.units
    assert second.replaced == set()
    assert Counter(uris(second.units)) == Counter(f"{data}/{path.name}" for path in data.iterdir())
    assert planned(out, ".").units == second.units


@pytest.mark.usefixtures("_small_slices")
def test_a_changed_key_replaces_its_slice_and_nothing_else(data: Path, out: Ledger):
    touch(data, *(f"{n:02d}.jpg" for n in range(30)))
    first = planned(out, ".")
    touch(data, *(f"new-{n}.jpg" for n in range(4)))
    (data / "13.jpg").write_bytes(b"something longer")
    (data / "17.jpg").unlink()
    second = planned(out, ".")
    assert second.replaced == {first.units[1].id}
    assert [unit for unit in first.units if unit in second.units] == [first.units[0], first.units[2]]
    assert Counter(uris(second.units)) == Counter(f"{data}/{path.name}" for path in data.iterdir())
    third = planned(out, ".")  # all slices are in order again: nothing is seen as new
    assert (third.units, third.replaced) == (second.units, set())


@pytest.mark.usefixtures("_small_slices")
def test_a_replaced_slice_keeps_the_keys_that_this_run_does_not_name(data: Path, out: Ledger):
    touch(data, *(f"{n}.jpg" for n in range(10)))
    planned(out, ".")
    (data / "3.jpg").write_bytes(b"something longer")
    (data / "list").write_text("3.jpg\n")
    assert uris(planned(out, "@list").units) == [f"{data}/{n}.jpg" for n in range(10)]


@pytest.mark.usefixtures("_small_slices")
@pytest.mark.parametrize(
    "words", [[("sub",), (".",)], [(".",), ("sub",)], [(".", "sub")], [("sub", ".")], [("@list",), (".",)]]
)
def test_overlapping_inputs_take_each_image_once(data: Path, out: Ledger, words: list[tuple[str, ...]]):
    touch(data, *(f"{n:02d}.jpg" for n in range(15)), *(f"sub/{n:02d}.jpg" for n in range(15)))
    (data / "list").write_text("sub/01.jpg\nsub/12.jpg\n03.jpg\n")
    for run in words:
        units = planned(out, *run).units
    assert Counter(uris(units)) == Counter(str(path) for path in data.rglob("*.jpg"))
    assert planned(out, *words[-1]).units == units


@pytest.mark.parametrize(
    ("words", "passed_over", "left"),
    [
        (("sub", "sub/../sub"), (), "sub/"),
        (("sub", "link"), ("link is the same place as INPUT sub",), "sub/"),
        (("link", "sub"), ("link is the same place as INPUT sub",), "sub/"),
        (("link/deep", "sub"), ("link/deep is in INPUT sub",), "sub/"),
        (("sub/deep", "link"), ("sub/deep is in INPUT link",), "link/"),
        (("link/1.jpg", "sub"), ("link/1.jpg is in INPUT sub",), "sub/"),
        (("sub/deep", "link/1.jpg"), (), None),
        (("*",), ("/link leads to ",), "sub/"),
        (("link/.hidden", "sub"), (), None),  # which is not listed in sub
    ],
)
def test_a_place_that_links_lead_to_is_taken_once(data: Path, out: Ledger, words, passed_over, left):
    touch(data, "sub/1.jpg", "sub/deep/2.jpg", "sub/.hidden/3.jpg")
    (data / "link").symlink_to("sub")
    found = find(*words)
    assert [note for note in found.notes if "passed over" not in note] == []
    assert len(found.notes) == len(passed_over)
    for said, note in zip(passed_over, found.notes, strict=True):
        assert said in note
    if left is not None:
        assert set(uris(planned(out, *words).units)) == {f"{data}/{left}1.jpg", f"{data}/{left}deep/2.jpg"}
    else:
        assert len(uris(planned(out, *words).units)) == 2 + (words[-1] == "sub")


def test_a_shard_and_a_link_to_it_are_one(data: Path):
    touch(data, "a.tar")
    (data / "b.tar").symlink_to("a.tar")
    assert tars(found := find("b.tar", "a.tar"), data) == ["a.tar"]
    assert found.notes == ["passed over: INPUT b.tar is the same place as INPUT a.tar, by a link"]


def test_a_changed_tar_replaces_its_older_unit(data: Path, out: Ledger):
    touch(data, "a.tar", "b.tar")
    first = planned(out, ".")
    os.utime(data / "a.tar", ns=(1, 1))
    second = planned(out, ".")
    assert second.replaced == {first.units[0].id}
    assert [unit.uri for unit in second.units] == [f"{data}/b.tar", f"{data}/a.tar"]
    assert first.units[1] in second.units


def test_a_changed_tar_on_s3_is_known_by_its_etag(s3: S3Server, tmp_path: Path):
    storage, name = s3.storage(), s3.bucket()
    ledger = Ledger(f"s3://{name}/out", storage)
    for content, num_replaced in [(b"one", 0), (b"one", 0), (b"two", 1)]:
        s3.put(name, "in/a.tar", content)
        plan = Plan(ledger, storage)
        plan.add(find(f"s3://{name}/in/", storage=storage))
        plan.write()
        assert (len(plan.units), len(plan.replaced)) == (1, num_replaced)


def test_vanished_inputs_keep_their_units(data: Path, out: Ledger):
    touch(data, "a.tar", "b.tar", "i/1.jpg", "i/2.jpg")
    first = planned(out, "a.tar", "b.tar", "i")
    (data / "b.tar").unlink()
    (data / "i" / "1.jpg").unlink()
    second = planned(out, "{a,b}.tar", "i")
    assert (second.units, second.replaced) == (first.units, set())


def test_a_tar_that_was_missing_is_replaced_when_it_appears(data: Path, out: Ledger):
    touch(data, "a.tar")
    first = planned(out, "{a,b}.tar")
    assert [unit.size_bytes for unit in first.units] == [5, -1]
    touch(data, "b.tar")
    second = planned(out, "{a,b}.tar")
    assert [unit.size_bytes for unit in second.units] == [5, 5]
    assert second.replaced == {first.units[1].id}


@pytest.mark.usefixtures("_small_slices")
@pytest.mark.parametrize("limit", [1, 5, 7, 12, 13, 22, 23, 36, 37, 38, 1000])
def test_limit_is_exact_over_tars_and_slices(data: Path, out: Ledger, limit: int):
    make_tar(data / "a.tar", sample_members(5))
    make_tar(data / "b.tar", sample_members(7))
    touch(data, *(f"i/{n:02d}.jpg" for n in range(25)))
    units = planned(out, "a.tar", "b.tar", "i", limit=limit).units
    assert num_samples(units) == min(limit, 37)
    assert planned(out, "a.tar", "b.tar", "i", limit=limit).units == units
    everything = planned(out, "a.tar", "b.tar", "i")
    assert num_samples(everything.units) == 37
    assert planned(out, "a.tar", "b.tar", "i", limit=limit).units == everything.units  # done work is not cut


@pytest.mark.usefixtures("_small_slices")
def test_a_larger_limit_adds_to_a_smaller_one(data: Path, out: Ledger):
    touch(data, *(f"{n:02d}.jpg" for n in range(40)))
    for limit in (3, 15, 16):
        units = planned(out, ".", limit=limit).units
        assert uris(units) == [f"{data}/{n:02d}.jpg" for n in range(limit)]


def test_a_damaged_plan_is_named(data: Path, out: Ledger):
    touch(data, "1.jpg")
    planned(out, ".")
    STORAGE.replace(out.uri("plan/units.parquet"), b"no parquet")
    with pytest.raises(OutputError, match="damaged"):
        Plan(out, STORAGE)


@pytest.mark.parametrize("damage", [b"no parquet", None])
def test_images_whose_list_is_lost_are_planned_again(data: Path, out: Ledger, damage: bytes | None):
    touch(data, "1.jpg")
    (unit,) = planned(out, ".").units
    assert unit.keys_uri is not None
    STORAGE.delete(unit.keys_uri) if damage is None else STORAGE.replace(unit.keys_uri, damage)
    again = planned(out, ".")
    assert (uris(again.units), again.replaced) == ([f"{data}/1.jpg"], {unit.id})


def test_local_samples_are_counted_within_the_budget(data: Path, out: Ledger):
    make_tar(data / "a.tar", sample_members(5))
    touch(data, "i/1.jpg")
    units = planned(out, "a.tar", "i").units
    assert list(count_samples(units, STORAGE, 60.0).values()) == [1, 5]
    assert list(count_samples(units, STORAGE, -1.0).values()) == [1]


@pytest.mark.slow
def test_memory_stays_flat_over_a_long_listing(data: Path, out: Ledger, monkeypatch: pytest.MonkeyPatch):
    def peak_mb() -> float:
        tracemalloc.reset_peak()
        planned(out, "in")
        return tracemalloc.get_traced_memory()[1] / 1e6

    monkeypatch.setattr(planning, "_PARALLEL_READS", 2)
    touch(data, "first.jpg")
    planned(out, "first.jpg")  # what is imported on first use is not the listing's
    for n in range(50_000):
        folder = data / "in" / f"{n // 1000:03d}"
        if n % 1000 == 0:
            folder.mkdir(parents=True)
        (folder / f"{n:06d}.jpg").touch()
    tracemalloc.start()
    try:
        peaks_mb = [peak_mb(), peak_mb()]
        held = [entry for _, listing in find("in").loose for entry in listing]
        held_mb = tracemalloc.get_traced_memory()[0] / 1e6
    finally:
        tracemalloc.stop()
    assert (len(held), len(Plan(out, STORAGE).units)) == (50_000, 26)
    assert max(peaks_mb) < held_mb / 4
