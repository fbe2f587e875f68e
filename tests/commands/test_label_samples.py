"""Several images of a key, members that lie apart, and members of no sample: labelled, counted, and verified."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from conftest import jpeg, make_tar
from small_jobs import options, rows

import pipeline
from pipeline import label, verify
from pipeline.commands.verify import Verification
from pipeline.job.summary import LabelSummary
from pipeline.output.ledger import PREDICTIONS, Ledger
from pipeline.storage import Storage

STEREO = [(f"{n:04d}.{side}.png", jpeg(2 * n + at)) for n in range(3) for at, side in enumerate(("left", "right"))]
FRAMES = [(f"cam0/17000000{n:02d}.{ms}.jpg", jpeg(n)) for n in range(2) for ms in ("000", "333", "667")]
DATES = [(f"cam1.2024-05-0{n}T10.30.00.{ms}.jpg", jpeg(n)) for n in range(1, 3) for ms in ("125", "250")]
VERSIONS = [(f"logo.{n}.2.png", jpeg(n)) for n in range(3)]


def with_extra(field: str) -> list[tuple[str, bytes]]:
    return [(f"{n:04d}.{name}", jpeg(n)) for n in range(3) for name in (field, "jpg")]


def run(tmp_path: Path, sample_data: Path, inputs: object, **more) -> tuple[LabelSummary, list[dict]]:
    out = tmp_path / "out"
    summary = label(inputs, out, **options(sample_data, **more))
    return summary, rows(out).to_pylist()


def is_sound(tmp_path: Path) -> Verification:
    found = verify(tmp_path / "out")
    assert found.discrepancies == ()
    return found


@pytest.mark.parametrize(
    ("members", "fields", "num_other", "advised"),
    [
        (STEREO, ["left.png"] * 3, 3, True),
        (FRAMES, ["000.jpg"] * 2, 4, True),
        (DATES, ["2024-05-01t10.30.00.125.jpg"], 3, True),
        (VERSIONS, ["0.2.png"], 2, True),
        (with_extra("depth.png"), ["jpg"] * 3, 3, False),
        (with_extra("mask.png"), ["jpg"] * 3, 3, False),
        (with_extra("seg.left.png"), ["jpg"] * 3, 3, False),
        (with_extra("gif"), ["gif"] * 3, 3, False),
    ],
)
def test_images_that_are_not_labelled_are_counted(tmp_path, sample_data, members, fields, num_other, advised):
    path = make_tar(tmp_path / "a.tar", members)
    summary, found = run(tmp_path, sample_data, path)
    assert [row["field"] for row in found] == fields
    assert (summary.other_images, any("--images all" in note for note in summary.notes)) == (num_other, advised)
    assert summary.other_images_example in dict(members)
    assert is_sound(tmp_path).other_images == pipeline.status(tmp_path / "out").other_images == num_other
    assert pipeline.plan(path, measure=False).other_images == num_other


@pytest.mark.parametrize("members", [STEREO, FRAMES, DATES, VERSIONS, with_extra("depth.png")])
def test_each_image_can_be_a_sample(tmp_path, sample_data, members):
    summary, found = run(tmp_path, sample_data, make_tar(tmp_path / "a.tar", members), images="all", rows_per_part=2)
    assert [row["key"] for row in found] == [name.rpartition(".")[0] for name, _ in members]
    assert [row["field"] for row in found] == [name.partition(".")[2].lower() for name, _ in members]
    assert summary.other_images == 0
    assert is_sound(tmp_path).samples == len(members)


def test_images_of_one_name_have_keys_of_their_own_and_share_the_truth(tmp_path, sample_data):
    members = [("a.cls", b"3"), ("a.jpg", jpeg(0)), ("a.png", jpeg(1)), ("b.l.jpg", jpeg(2)), ("b.r.jpg", jpeg(3))]
    members += [("b.r.cls", b"5"), ("b.cls", b"4"), ("b.txt", b"words")]
    path = make_tar(tmp_path / "a.tar", members)
    _, found = run(tmp_path, sample_data, path, images="all", keep="txt")
    assert [(row["key"], row["truth"], row["txt"]) for row in found] == [
        ("a", 3, None),
        ("a.png", 3, None),
        ("b.l", 4, "words"),
        ("b.r", 5, "words"),
    ]
    is_sound(tmp_path)


LATE = [
    ("all images, then all labels", lambda pairs: [p[0] for p in pairs] + [p[1] for p in pairs]),
    ("all labels, then all images", lambda pairs: [p[1] for p in pairs] + [p[0] for p in pairs]),
    ("no order", lambda pairs: sorted((m for p in pairs for m in p), key=lambda m: hash_of(m[0]))),
    ("labels appended", lambda pairs: [m for p in pairs[:4] for m in p] + [p[at] for at in (0, 1) for p in pairs[4:]]),
]


def hash_of(name: str) -> int:
    return sum((at + 7) ** 3 * ord(char) for at, char in enumerate(name)) % 101


@pytest.mark.parametrize("order", [order for _, order in LATE], ids=[name for name, _ in LATE])
def test_samples_are_whole_wherever_their_members_lie(tmp_path, sample_data, order):
    pairs = [((f"{n:03d}.jpg", jpeg(n)), (f"{n:03d}.cls", str(n % 14).encode())) for n in range(40)]
    summary, found = run(tmp_path, sample_data, make_tar(tmp_path / "a.tar", order(pairs)), rows_per_part=7)
    assert summary.quarantined == 0
    assert sorted((row["key"], row["truth"]) for row in found) == [(f"{n:03d}", n % 14) for n in range(40)]
    assert is_sound(tmp_path).samples == 40


def test_a_run_that_goes_on_inside_an_unsorted_shard_makes_the_same_rows(tmp_path, sample_data):
    names = [f"{n:03d}" for n in range(12)]
    members = [(f"{name}.depth.png", jpeg(9)) for name in names] + [(f"{name}.cls", b"3") for name in names]
    members += [(f"{name}.jpg", jpeg(at)) for at, name in enumerate(names)]
    path = make_tar(tmp_path / "a.tar", members)
    summary, found = run(tmp_path, sample_data, path, rows_per_part=5)
    assert summary.other_images == 12
    ledger = Ledger(str(tmp_path / "out"), Storage())
    for name in sorted(ledger.names(PREDICTIONS))[1:]:
        ledger.remove_part(name)
    (tmp_path / "out" / "_SUCCESS").unlink()
    again, same = run(tmp_path, sample_data, path, rows_per_part=5)
    assert same == found
    assert again.images == 7
    assert again.other_images == pipeline.status(tmp_path / "out").other_images == 12
    assert is_sound(tmp_path).other_images == 12
    done, _ = run(tmp_path, sample_data, path, rows_per_part=5)
    assert (done.images, done.other_images) == (0, 12)


def test_what_comes_late_in_a_packed_shard_joins_its_sample(tmp_path, sample_data):
    members = [(f"{n:03d}.jpg", jpeg(n)) for n in range(20)] + [("000.cls", b"1"), ("001.depth.png", jpeg(30))]
    summary, found = run(tmp_path, sample_data, make_tar(tmp_path / "a.tar.gz", members, "w:gz"))
    assert (summary.quarantined, summary.other_images, summary.repeated_keys) == (0, 1, 0)
    assert [(row["key"], row["truth"], row["field"]) for row in found] == [
        (f"{n:03d}", 1 if n == 0 else None, "jpg") for n in range(20)
    ]
    assert is_sound(tmp_path).other_images == 1


def unsorted_in_the_middle(order) -> list[tuple[str, bytes]]:
    """Forty samples, each with a depth map, of which those in the middle are in another order."""
    whole = [
        [(f"{n:03d}.cls", str(n % 14).encode()), (f"{n:03d}.depth.png", jpeg(50)), (f"{n:03d}.jpg", jpeg(n))]
        for n in range(40)
    ]
    middle = order([(sample[2], sample[0]) for sample in whole[10:20]])
    middle += [sample[1] for sample in whole[10:20]]
    return [member for sample in whole[:10] for member in sample] + middle + [m for s in whole[20:] for m in s]


@pytest.mark.parametrize("order", [order for _, order in LATE], ids=[name for name, _ in LATE])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_shard_that_is_unsorted_in_its_middle_is_begun_again(tmp_path, sample_data, order, mode):
    path = make_tar(tmp_path / "a.tar", unsorted_in_the_middle(order), mode)
    summary, found = run(tmp_path, sample_data, path, rows_per_part=25)
    assert (summary.quarantined, summary.other_images, summary.repeated_keys) == (0, 40, 0)
    assert sorted((row["key"], row["truth"], row["field"]) for row in found) == [
        (f"{n:03d}", n % 14, "jpg") for n in range(40)
    ]
    assert is_sound(tmp_path).samples == 40
    assert pipeline.plan(path, measure=False).images == 40
    ledger = Ledger(str(tmp_path / "out"), Storage())
    ledger.remove_part(sorted(ledger.names(PREDICTIONS))[1])
    (tmp_path / "out" / "_SUCCESS").unlink()
    again, same = run(tmp_path, sample_data, path, rows_per_part=25)
    assert (again.images, same) == (15, found)


@pytest.mark.parametrize("images", ["auto", "all"])
def test_a_key_that_comes_again_when_parts_are_published_is_counted(tmp_path, sample_data, images):
    path = make_tar(tmp_path / "a.tar", unsorted_in_the_middle(lambda pairs: [m for p in pairs for m in p]))
    summary, found = run(tmp_path, sample_data, path, rows_per_part=6, images=images)
    depth_maps = [row["key"] for row in found if row["field"] == "depth.png"]
    expected = (30, 10, "010", 10) if images == "auto" else (0, 0, "", 40)
    assert (summary.other_images, summary.repeated_keys, summary.repeated_keys_example, len(depth_maps)) == expected
    checked = is_sound(tmp_path)
    assert (checked.repeated_keys, checked.repeated_keys_example) == (summary.repeated_keys, expected[2])
    ledger = Ledger(str(tmp_path / "out"), Storage())
    for name in sorted(ledger.names(PREDICTIONS))[3:]:
        ledger.remove_part(name)
    (tmp_path / "out" / "_SUCCESS").unlink()
    again, same = run(tmp_path, sample_data, path, rows_per_part=6, images=images)
    assert same == found
    assert again.repeated_keys == pipeline.status(tmp_path / "out").repeated_keys == summary.repeated_keys


def test_images_of_one_name_have_keys_of_their_own_whatever_their_case(tmp_path, sample_data):
    members = [
        ("d/A.JPG", jpeg(0)),
        ("d/A.Jpg", jpeg(1)),
        ("d/A.cls", b"3"),
        ("d/a.jpg", jpeg(2)),
        ("d/a.png", jpeg(3)),
    ]
    members += [(f"{n:02d}.jpg", jpeg(n)) for n in range(9)] + [("d/A.jpg", jpeg(4)), ("d/A.PNG", jpeg(5))]
    summary, found = run(tmp_path, sample_data, make_tar(tmp_path / "a.tar", members), images="all")
    keys = ["d/A", "d/A.Jpg", "d/a", "d/a.png", *[f"{n:02d}" for n in range(9)], "d/A.jpg", "d/A.PNG"]
    assert [row["key"] for row in found] == keys
    assert [row["truth"] for row in found if row["key"].startswith("d/A")] == [3, 3, 3, 3]
    assert (summary.quarantined, summary.repeated_keys) == (0, 0)
    assert is_sound(tmp_path).samples == len(members) - 1


STRAYS = {
    "a Mac's companions": [("._{}.jpg", b"\0\5\26\7" + bytes(159)), ("._{}.cls", b"\0\5\26\7" + bytes(159))],
    "files of a Mac's and Windows' folders": [(".DS_Store", b"\0\0\0\1Bud1"), ("Thumbs.db", b"\xd0\xcf\x11\xe0")],
    "a Mac's folder": [("__MACOSX/._{}.jpg", b"\0\5\26\7"), ("__MACOSX/{}.jpg", b"\0\5\26\7")],
    "a folder of webdataset's metadata": [("__train__/{}.jpg", jpeg(0)), ("__meta__", b"{}")],
    "hidden folders": [(".Trashes/501/{}.jpg", jpeg(0)), ("d/.ipynb_checkpoints/{}-checkpoint.jpg", jpeg(0))],
    "a Mac's hidden folders": [("./.AppleDouble/{}.jpg", b"\0\5\26\7"), (".Spotlight-V100/Store-V2/store.db", b"")],
    "names without a dot": [("LICENSE", b"MIT"), ("README", b"what this is")],
}


@pytest.mark.parametrize("strays", STRAYS.values(), ids=STRAYS.keys())
def test_what_is_no_sample_is_passed_over_and_ends_none(tmp_path, sample_data, strays):
    members = []
    for n in range(6):
        (one, first), (two, second) = strays
        members += [(one.format(n), first), (f"{n}.jpg", jpeg(n)), (two.format(n), second), (f"{n}.cls", b"5")]
    summary, found = run(tmp_path, sample_data, make_tar(tmp_path / "a.tar", members), rows_per_part=4)
    assert (summary.labelled, summary.quarantined, summary.passed_over) == (6, 0, 12)
    assert [row["truth"] for row in found] == [5] * 6
    assert is_sound(tmp_path).passed_over == pipeline.status(tmp_path / "out").passed_over == 12


def test_an_image_without_a_dot_is_labelled(tmp_path, sample_data):
    members = [("a/0001", jpeg(1)), ("a/LICENSE", b"MIT"), ("._x.jpg", jpeg(2)), ("a/0002", jpeg(3))]
    summary, found = run(tmp_path, sample_data, make_tar(tmp_path / "a.tar", members))
    assert [(row["key"], row["field"]) for row in found] == [("a/0001", ""), ("._x.jpg", ""), ("a/0002", "")]
    assert summary.passed_over == 1


@pytest.mark.parametrize(
    ("name", "num_labelled", "truths"),
    [
        ("frames.tar", 2, [None] * 2),
        ("mac.tar", 6, list(range(6))),
        ("unsorted.tar", 4, list(range(4))),
        ("field-in-two-parts.tar", 3, list(range(3))),
    ],
)
def test_what_was_reported(tmp_path, sample_data, shared, name, num_labelled, truths):
    summary, found = run(tmp_path, sample_data, shared / "data" / "reports" / name)
    assert (summary.labelled, summary.quarantined) == (num_labelled, 0)
    assert [row["truth"] for row in found] == truths
    is_sound(tmp_path)


def test_the_real_tar_in_the_order_of_a_directory(tmp_path, sample_data):
    folder = tmp_path / "in"
    folder.mkdir()
    for n in range(30):
        (folder / f"{n:03d}.jpg").write_bytes(jpeg(n))
        (folder / f"{n:03d}.cls").write_text(str(n % 14))
    names = sorted(os.listdir(folder), key=hash_of)
    subprocess.run(["tar", "-cf", tmp_path / "a.tar", "-C", folder, *names[:50]], check=True)
    subprocess.run(["tar", "--append", "-f", tmp_path / "a.tar", "-C", folder, *names[50:]], check=True)
    summary, found = run(tmp_path, sample_data, tmp_path / "a.tar", rows_per_part=8)
    assert summary.quarantined == 0
    assert sorted((row["key"], row["truth"]) for row in found) == [(f"{n:03d}", n % 14) for n in range(30)]
    is_sound(tmp_path)


def test_an_output_without_the_column_goes_on_without_it(tmp_path, sample_data):
    path = make_tar(tmp_path / "a.tar", [*STEREO[:2], ("x.jpg", jpeg(5))])
    run(tmp_path, sample_data, path, rows_per_part=1)
    out = tmp_path / "out"
    job = json.loads((out / "job.json").read_text())
    assert job.pop("field_column")
    (out / "job.json").write_text(json.dumps(job))  # as an older version left it
    ledger = Ledger(str(out), Storage())
    for name in ledger.names(PREDICTIONS):
        ledger.remove_part(name)
    (out / "_SUCCESS").unlink()
    summary, found = run(tmp_path, sample_data, path, rows_per_part=1)
    assert summary.labelled == 2
    assert all("field" not in row for row in found)
    assert pipeline.report(out).images == 2
    is_sound(tmp_path)


def test_the_surfaces_show_what_is_not_labelled(tmp_path, sample_data, shardlabel):
    path = make_tar(tmp_path / "a.tar", [*FRAMES, ("LICENSE", b"MIT")])
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options(sample_data).items()]
    out = str(tmp_path / "out")
    said = shardlabel("label", str(path), "--out", out, *arguments, "--progress", "plain")
    assert "4 not labelled, because another image of the sample is" in said.stdout
    assert "--images all labels each of them" in said.stderr
    for command in (("status", out), ("verify", out), ("plan", str(path), "--no-measure", "--progress", "none")):
        said = shardlabel(*command)
        assert "4 not labelled" in said.stdout
        assert "1 member of no sample, e.g. LICENSE" in said.stdout
        found = json.loads(shardlabel(*command, "--json").stdout)
        assert (found["other_images"], found["passed_over"]) == (4, 1)
    shardlabel("report", out)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "4 not labelled, because another image of the sample is" in page.replace("<wbr>", "")
