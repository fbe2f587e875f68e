"""From a tar to its samples: names, fields, images, damage, and starting in the middle."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import jpeg, make_tar, sample_members, truth_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.errors import ObjectChanged, ObjectDamaged, ObjectMissing
from pipeline.records import Cursor, Reason, Sample, ShardEvent, Unit, UnitKind
from pipeline.stages.member_names import is_image_name
from pipeline.stages.read import UnitReader
from pipeline.storage import Storage

STORAGE = Storage()


def tar_unit(path: Path, **changes) -> Unit:
    entry = STORAGE.stat(str(path))
    return Unit("0" * 16, UnitKind.TAR, entry.uri, **({"size_bytes": entry.size_bytes, "etag": entry.etag} | changes))


def read(path: Path, cursor: Cursor | None = None, keep=(), payloads=True, **changes):
    """Samples and events, in the order they come, each kind on its own."""
    items = list(UnitReader(tar_unit(path, **changes), STORAGE, cursor, keep, payloads=payloads))
    samples = [item for item in items if isinstance(item, Sample)]
    return samples, [item for item in items if isinstance(item, ShardEvent)]


def keys(samples) -> list[str]:
    return [sample.key for sample in samples]


def listing(samples) -> list[tuple[int, str, int | None]]:
    return [(sample.index, sample.key, sample.offset) for sample in samples]


def reasons(items) -> list[Reason | None]:
    return [item.reason for item in items]


# -- the collection of odd tars ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "num_samples", "num_images", "sample_reasons", "event_reasons"),
    [
        ("good.tar", 20, 20, {}, []),
        ("gz.tar.gz", 20, 20, {}, []),
        ("truncated.tar", 11, 10, {"shard_truncated": 1}, ["shard_truncated"]),
        ("header-corrupt.tar", 20, 19, {"no_image": 1}, ["shard_corrupt"]),
        ("zero-blocks-middle.tar", 20, 19, {"no_image": 1}, ["shard_corrupt"]),
        ("empty.tar", 0, 0, {}, ["shard_truncated"]),
        ("duplicate-key.tar", 12, 12, {}, []),
        ("no-image.tar", 10, 0, {"no_image": 10}, []),
        ("nested-dirs.tar", 24, 24, {}, []),
        ("special-members.tar", 9, 5, {"no_image": 3, "empty": 1}, []),
        ("good-with-bad.tar", 100, 100, {}, []),
    ],
)
def test_odd_tars(shared, name, num_samples, num_images, sample_reasons, event_reasons):
    path = shared / "data" / "odd-tars" / name
    samples, events = read(path)
    assert len(samples) == num_samples
    assert sum(sample.image is not None for sample in samples) == num_images
    assert Counter(sample.reason for sample in samples if sample.reason) == sample_reasons
    assert reasons(events) == event_reasons
    assert [sample.index for sample in samples] == list(range(num_samples))
    listed, same_events = read(path, payloads=False)
    assert listing(listed) == listing(samples)
    assert same_events == events


def test_every_cursor_gives_the_same_tail(shared):
    for name in (
        "good.tar",
        "gz.tar.gz",
        "header-corrupt.tar",
        "nested-dirs.tar",
        "truncated.tar",
        "duplicate-key.tar",
    ):
        path = shared / "data" / "odd-tars" / name
        whole = list(UnitReader(tar_unit(path), STORAGE))
        for at, sample in enumerate(whole):
            if isinstance(sample, Sample) and sample.index % 3 == 1:
                cursor = Cursor(1, sample.index, sample.offset, name.endswith(".gz"))
                assert list(UnitReader(tar_unit(path), STORAGE, cursor)) == whole[at:]


def test_the_same_images_as_tarfile_reads(shared):
    path = shared / "data" / "odd-tars" / "good-with-bad.tar"
    with tarfile.open(path) as tar:
        wanted = [tar.extractfile(info).read() for info in tar if info.name.endswith(".jpg")]
        truths = [tar.extractfile(info).read() for info in tar if info.name.endswith(".cls")]
    samples, _ = read(path)
    assert [sample.image for sample in samples] == wanted
    assert [sample.cls for sample in samples] == truths


def test_nested_names_follow_webdataset(shared):
    samples, _ = read(shared / "data" / "odd-tars" / "nested-dirs.tar")
    assert "v1.0/photo" in keys(samples)
    assert "noext" in keys(samples)
    assert any(key.endswith(".hidden.jpg") for key in keys(samples))


def test_links_are_named_and_never_followed(shared):
    samples, _ = read(shared / "data" / "odd-tars" / "special-members.tar")
    messages = {sample.key: sample.message for sample in samples if sample.reason == Reason.NO_IMAGE}
    assert "symbolic link to /etc/passwd, which is not followed" in messages["passwd"]
    assert all("\n" not in message for message in messages.values())


# -- samples -------------------------------------------------------------------------------------------


def test_truth_and_kept_fields(tmp_path):
    members = [("a.CLS", b" 7\n"), ("a.jpg", jpeg()), ("a.json", b'{"x": 1}'), ("a.txt", b"caf\xe9")]
    samples, _ = read(make_tar(tmp_path / "a.tar", members), keep=("json", "txt"))
    assert [(s.key, s.cls, s.kept, s.image) for s in samples] == [
        ("a", b" 7\n", {"json": '{"x": 1}', "txt": "caf\ufffd"}, jpeg())
    ]


@pytest.mark.parametrize(
    ("content", "handed_on"),
    [
        (b"7", b"7"),
        (b"tiger shark\r\n", b"tiger shark\r\n"),  # what it means depends on the names of the job
        (b"\xff", b"\xff"),
        (b"", b""),
        (b"9" * 50_000, b"9" * 4096),
    ],
)
def test_what_a_cls_holds_is_handed_on(tmp_path, content, handed_on):
    samples, _ = read(make_tar(tmp_path / "a.tar", [("a.jpg", jpeg()), ("a.cls", content)]))
    assert samples[0].cls == handed_on
    assert samples[0].image == jpeg()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_of_several_images_the_first_by_name_is_taken(tmp_path, order):
    members = [("k.a.png", b"first"), ("k.b.jpg", b"second"), ("k.c.webp", b"")]
    samples, _ = read(make_tar(tmp_path / "a.tar", [members[number] for number in order]))
    assert [(s.key, s.image, s.reason, s.num_bytes) for s in samples] == [("k", b"first", None, 5)]


def test_a_field_that_comes_twice_starts_a_new_sample(tmp_path):
    members = [("k.jpg", b"one"), ("k.cls", b"1"), ("k.jpg", b"two"), ("k.cls", b"2")]
    samples, _ = read(make_tar(tmp_path / "a.tar", members))
    assert [(s.index, s.key, s.image, s.cls) for s in samples] == [(0, "k", b"one", b"1"), (1, "k", b"two", b"2")]


def test_names_without_a_key_stand_alone(tmp_path):
    members = [(".jpg", b"0"), ("d/.a.jpg", b"1"), ("d/.b.jpg", b"2"), ("v1.0/x", jpeg(3)), ("v1.0/x", jpeg(4))]
    samples, _ = read(make_tar(tmp_path / "a.tar", members))
    assert [(sample.key, sample.image) for sample in samples] == members


def test_metadata_directories_and_labels_are_no_samples(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (
            ("Backup", b"V"),
            ("dir.jpg", tarfile.DIRTYPE),
            ("__meta__", b"0"),
            ("__meta__/x.jpg", b"0"),
        ):
            info = tarfile.TarInfo(name)
            info.type = kind
            tar.addfile(info)
        info = tarfile.TarInfo("a.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    samples, events = read(path)
    assert keys(samples) == ["a"]
    assert events == []


def test_odd_names_give_one_line_messages(tmp_path):
    samples, _ = read(make_tar(tmp_path / "a.tar", [("k.a\nb", b"1")]))
    assert samples[0].message == "no image among the fields: a b"


def test_a_sample_survives_the_loss_of_one_of_its_fields(tmp_path):
    """Damage in the middle of a sample: what is left of it stays one sample, and the event follows it."""
    path = make_tar(tmp_path / "a.tar", [("a.cls", b"1"), ("a.json", b"{}"), ("a.jpg", b"image"), ("b.jpg", b"b")])
    data = bytearray(path.read_bytes())
    data[1024 + 3] ^= 0xFF
    path.write_bytes(data)
    items = list(UnitReader(tar_unit(path), STORAGE))
    assert [getattr(item, "key", None) for item in items] == ["a", None, "b"]
    assert (items[0].image, items[0].cls) == (b"image", b"1")
    assert items[1].reason == Reason.SHARD_CORRUPT
    assert items[1].offset == 1024


def test_an_archive_cut_in_a_field_keeps_the_image(tmp_path):
    path = make_tar(tmp_path / "a.tar", [("a.jpg", b"image"), ("a.cls", b"1" * 600)])
    path.write_bytes(path.read_bytes()[: 1024 + 512 + 100])
    samples, events = read(path)
    assert [(s.image, s.cls, s.reason) for s in samples] == [(b"image", None, None)]
    assert reasons(events) == [Reason.SHARD_TRUNCATED]


def test_limits(tmp_path, monkeypatch):
    path = make_tar(tmp_path / "a.tar", sample_members(5))
    assert keys(read(path, max_samples=2)[0]) == ["00000", "00001"]
    assert len(read(path, max_samples=9)[0]) == 5
    monkeypatch.setattr("pipeline.stages.grouping.MAX_IMAGE_BYTES", 10)
    assert set(reasons(read(path)[0])) == {Reason.TOO_LARGE}


def test_a_tar_that_is_gone_or_changed_is_an_error(tmp_path):
    path = make_tar(tmp_path / "a.tar", sample_members(1))
    unit = tar_unit(path)
    with pytest.raises(ObjectChanged):
        list(UnitReader(tar_unit(path, size_bytes=-1), STORAGE))
    with pytest.raises(ObjectChanged):
        list(UnitReader(tar_unit(path, etag="other"), STORAGE))
    path.unlink()
    with pytest.raises(ObjectMissing):
        list(UnitReader(unit, STORAGE))


@pytest.mark.parametrize(
    "columns",
    [
        None,
        {"key": [b"a.jpg"], "size_bytes": [1]},
        {"key": [None], "size_bytes": [1], "etag": ["x"]},
        {"key": [b"a.jpg"], "size_bytes": [None], "etag": ["x"]},
        {"key": [b"a.jpg"], "size_bytes": [[1]], "etag": ["x"]},
    ],
)
def test_a_key_list_that_is_none_is_an_error_of_ours(tmp_path, columns):
    path = tmp_path / "keys.parquet"
    if columns is None:
        path.write_bytes(b"PAR1 no, not really PAR1")
    else:
        pq.write_table(pa.table(columns), path)
    unit = Unit("0" * 16, UnitKind.SLICE, f"{tmp_path}/", 1, "", str(path), 1)
    with pytest.raises(ObjectDamaged, match=r"keys.parquet: damaged"):
        list(UnitReader(unit, STORAGE))


def test_an_abandoned_reader_closes_its_file(tmp_path):
    path = make_tar(tmp_path / "a.tar", sample_members(3))
    items = iter(UnitReader(tar_unit(path), STORAGE))
    next(items)
    items.close()
    assert not [fd for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink() and fd.readlink() == path]


def test_image_names():
    assert all(is_image_name(name) for name in ("jpg", "a.JPEG", "x/y.left.png", "p.heic"))
    assert not any(is_image_name(name) for name in ("cls", "json", "jpg.txt", "npy"))


stems = st.text("ab/.", min_size=1, max_size=4).filter(lambda name: name.strip("/") == name)
fields = st.sampled_from(["jpg", "cls", "json", "JPG", "left.png"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(stems, fields), min_size=1, max_size=12), st.booleans(), st.data())
def test_no_member_is_lost_or_doubled(tmp_path_factory, pairs, packed, data):
    members = [(f"{stem}.{field}", str(number).encode()) for number, (stem, field) in enumerate(pairs)]
    path = tmp_path_factory.mktemp("any") / "any.tar"
    make_tar(path, members)
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    samples, events = read(path, keep=("json",))
    assert events == []
    images = [sample.image for sample in samples if sample.image is not None]
    assert len(images) == len(set(images))
    truths = [sample.cls for sample in samples if sample.cls is not None]
    assert len(truths) == len(set(truths))
    kept = [value for sample in samples for value in sample.kept.values()]
    assert len(kept) == len(set(kept))
    assume(samples)
    begin = data.draw(st.sampled_from(samples))
    assert read(path, Cursor(1, begin.index, begin.offset, packed), keep=("json",))[0] == samples[begin.index :]
    assert listing(read(path, payloads=False)[0]) == listing(samples)


def test_an_image_that_is_gone_can_be_noted_whatever_its_name(tmp_path):
    keys = pa.table({"key": [b"bytes\xff.jpg"], "size_bytes": [9], "etag": ["x"]})
    pq.write_table(keys, tmp_path / "keys.parquet")
    unit = Unit("0" * 16, UnitKind.SLICE, f"{tmp_path}/", 9, "", str(tmp_path / "keys.parquet"), 1)
    (sample,) = UnitReader(unit, STORAGE)
    assert sample.reason == Reason.SHARD_MISSING
    assert pa.array([sample.key, sample.message], pa.string()).to_pylist()[1].endswith("bytes\\udcff.jpg: no such file")


def read_all(path: Path, cursor: Cursor | None = None) -> list[Sample]:
    items = UnitReader(tar_unit(path), STORAGE, cursor, images="all")
    return [item for item in items if isinstance(item, Sample)]


def test_a_key_of_very_many_images_is_passed_on_in_stretches(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.stages.grouping._MAX_HELD_BYTES", 25)
    members = [("v.001.cls", b"1"), ("v.cls", b"7")] + [(f"v.{n:03d}.jpg", b"0123456789") for n in range(5)]
    members += [("v.004.cls", b"4"), ("v.000.cls", b"0"), ("v.json", b"{}"), ("w.jpg", b"w")]
    path = make_tar(tmp_path / "a.tar", members)
    samples = read_all(path)
    assert [(s.key, truth_of(s)) for s in samples] == [
        *[("v.000", 7), ("v.001", 1), ("v.002", 7), ("v.003", 7), ("v.004", 4), ("v", 7), ("w", None)]
    ]
    assert samples[5].reason == Reason.NO_IMAGE
    assert samples[5].message.startswith("000.cls came after images")
    for sample in samples:
        assert sample.start is not None
        assert (
            read_all(path, Cursor(1, sample.index, *sample.start[:1], False, sample.start[1]))
            == samples[sample.index :]
        )


def test_a_shard_whose_index_is_too_large_says_how_to_sort_it(tmp_path, monkeypatch):
    members = [(f"{n}.{field}", b"1") for field in ("jpg", "cls") for n in range(6)]
    path = make_tar(tmp_path / "a.tar", members)
    assert [truth_of(sample) for sample in read(path)[0]] == [1] * 6
    for limit in ("_MAX_RUNS", "_MAX_CONTENT_BYTES"):
        with monkeypatch.context() as patch:
            patch.setattr(f"pipeline.stages.joining.{limit}", 4)
            samples, _ = read(path)
        assert reasons(samples) == [None] * 6 + [Reason.NO_IMAGE] * 6
        assert all("tar --sort=name" in sample.message for sample in samples[6:])


def test_a_late_image_is_read_where_it_lies_and_the_rest_joins_it(tmp_path):
    members = [
        ("a.depth.png", b"d"),
        ("a.json", b"{}"),
        ("b.jpg", b"b"),
        ("a.jpg", b"a"),
        ("b.cls", b"2"),
        ("a.cls", b"1"),
    ]
    path = make_tar(tmp_path / "a.tar", members)
    samples, _ = read(path, keep=("json",))
    assert [(s.index, s.key, s.image, truth_of(s), s.kept) for s in samples] == [
        (0, "b", b"b", 2, {}),
        (1, "a", b"a", 1, {"json": "{}"}),
    ]
