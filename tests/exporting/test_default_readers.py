"""What default readers find in an export: folders of classes, one extension for each kind, and a word on the rest."""

from __future__ import annotations

import io
import re
import tarfile
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import jpeg, make_tar
from PIL import Image
from small_jobs import options
from torchvision.datasets import ImageFolder

from pipeline import export, label


def test_no_empty_folder_stays_when_another_export_is_replaced(labelled, tmp_path):
    """torchvision's ImageFolder refuses a class folder without images, and would count it as a class."""
    to = tmp_path / "to"
    export(labelled.out, to, "imagefolder", engine="inline")
    before = {path.name for path in (to / "data").iterdir() if path.is_dir()}
    export(labelled.out, to, "imagefolder", engine="inline", min_score=0.9, overwrite=True)
    left = {path.name for path in (to / "data").iterdir() if path.is_dir()}
    assert left < before
    assert ImageFolder(to / "data").classes == sorted(left)
    export(labelled.out, to, "csv", engine="inline", overwrite=True)
    assert not [path for path in to.rglob("*") if path.is_dir() and not any(path.iterdir())]


def test_class_folders_are_distinct_where_case_counts_for_nothing(tmp_path, sample_data):
    names = ["Cardigan", "cardigan", "caf\u00e9", "cafe\u0301", "nul", "con.", "dot.", "aux.txt", *"abcdef"]
    (tmp_path / "names.txt").write_text("\n".join(names))
    members = [(f"{number:02d}.jpg", jpeg(number)) for number in range(40)]
    make_tar(tmp_path / "a.tar", members)
    own = options(sample_data, labels=str(tmp_path / "names.txt"), rows_per_part=100)
    label(str(tmp_path / "a.tar"), tmp_path / "out", **own)
    spread_labels(tmp_path / "out", names)
    export(tmp_path / "out", tmp_path / "to", "imagefolder", engine="inline")
    rows = pq.read_table(tmp_path / "to/data/metadata.parquet").to_pylist()
    folders = {row["label"]: row["file_name"].partition("/")[0] for row in rows}
    assert [folders[label] for label in range(8)] == [
        *("Cardigan (0)", "cardigan (1)", "caf\u00e9 (2)", "cafe\u0301 (3)"),
        *("%6Eul", "%63on%2E", "dot%2E", "%61ux.txt"),
    ]
    assert len({unicodedata.normalize("NFC", name).lower() for name in folders.values()}) == len(names)
    assert len(ImageFolder(tmp_path / "to/data").classes) == len(names)
    assert {row["class_name"] for row in rows} == set(names)


def spread_labels(out, names):
    """Give the images of an output each class in turn."""
    (part,) = (out / "predictions").iterdir()
    found = pq.read_table(part, partitioning=None)
    rows = [{**row, "label": at % len(names)} for at, row in enumerate(found.to_pylist())]
    pq.write_table(pa.Table.from_pylist(rows, found.schema), part)


def test_images_have_one_extension_for_each_kind_whatever_they_were_called(tmp_path, sample_data, shardlabel):
    """And the last lines say what default readers do not load."""
    png, gif = (encoded(kind) for kind in ("PNG", "GIF"))
    loose = tmp_path / "loose"
    loose.mkdir()
    for name, data in {
        **{f"{number}.{name}": jpeg(number) for number, name in enumerate(("jpg", "jpeg", "JPE", "jfif"))},
        **{"named.jpg": png, "b.gif": gif},
    }.items():
        (loose / name).write_bytes(data)
    label(str(loose), tmp_path / "out", **options(sample_data))
    for kind, lines in (
        (
            "webdataset",
            [
                "datasets.load_dataset loads 4 of 6 images, those of .jpg; give the name of a configuration for each "
                "other kind: .gif (1), .png (1)"
            ],
        ),
        ("imagefolder", ["torchvision's ImageFolder loads 5 of 6 images, not .gif (1)"]),
        ("parquet", []),
        ("csv", []),
    ):
        words = ("--to", tmp_path / kind, "--format", kind, "--engine", "inline", "--no-dedupe")
        for _ in range(2):  # the second has nothing left to do, and says the same
            ended = shardlabel("export", tmp_path / "out", *words)
            assert ended.returncode == 0
            said = [line for line in ended.stdout.splitlines() if "loads" in line]
            assert said == lines
            assert ended.stdout.endswith("\n".join(lines) + "\n")
        assert all(line in (tmp_path / kind / "README.md").read_text() for line in lines)
    assert len(ImageFolder(tmp_path / "imagefolder/data")) == 5
    with_png = loaded(tmp_path / "webdataset", tmp_path / "cache", name="png")
    assert (len(loaded(tmp_path / "webdataset", tmp_path / "cache")), len(with_png)) == (4, 1)
    assert len(loaded(tmp_path / "imagefolder", tmp_path / "cache")) == 6


@pytest.mark.parametrize(
    ("images", "keys"),
    [
        ("all", {"cam/17000%2E333", "cam/17001%2E342", "pair%2Eleft", "pair%2Eright"}),
        ("auto", {"cam/17000", "cam/17001"}),
    ],
)
def test_frames_and_stereo_pairs_are_of_one_kind(tmp_path, sample_data, images, keys):
    frames = ["cam/17000.333.jpg", "cam/17001.342.jpg"]
    names = [*frames, "pair.left.jpg", "pair.right.jpg"] if images == "all" else frames
    make_tar(tmp_path / "a.tar", [(name, jpeg(number)) for number, name in enumerate(names)])
    label(str(tmp_path / "a.tar"), tmp_path / "out", **options(sample_data, images=images))
    assert export(tmp_path / "out", tmp_path / "to", "webdataset", engine="inline").reader_notes == ()
    (tar,) = (tmp_path / "to/data").iterdir()
    with tarfile.open(tar) as file:
        assert set(file.getnames()) == {f"{key}.{field}" for key in keys for field in ("jpg", "cls", "json")}


def test_a_class_that_torchvision_finds_no_image_of_is_named(tmp_path, sample_data):
    """ImageFolder raises an error then, whatever else there is."""
    make_tar(tmp_path / "a.tar", [("0.jpg", jpeg(0)), ("1.jpg", jpeg(1)), ("2.gif", encoded("GIF"))])
    label(str(tmp_path / "a.tar"), tmp_path / "out", **options(sample_data))
    spread_labels(tmp_path / "out", ["dog", "cat", "retina"])
    for _ in range(2):  # the second has nothing left to do, and says the same
        notes = export(tmp_path / "out", tmp_path / "to", "imagefolder", engine="inline").reader_notes
        assert len(notes) == 2
        with pytest.raises(FileNotFoundError, match="no valid file for the classes") as raised:
            ImageFolder(tmp_path / "to/data")
        (named,) = re.findall("classes: (.*)$", notes[0])
        assert f"for the classes {named}." in str(raised.value)
        assert "allow_empty=True loads 2 of 3 images, not .gif (1)" in notes[1]
        assert len(ImageFolder(tmp_path / "to/data", allow_empty=True)) == 2
        assert all(note in (tmp_path / "to/README.md").read_text() for note in notes)


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(jpeg(9))).save(buffer, kind)
    return buffer.getvalue()


def loaded(place, cache, **words):
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset(str(place), cache_dir=str(cache), **words)["train"]
