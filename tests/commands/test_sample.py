"""Lists for people, from an output to files and back by --truth: real images, all formats, local and on S3."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import re
import shutil
import xml.etree.ElementTree as ET

import pytest
from conftest import jpeg, make_tar
from made_up_outputs import calibrated, write_output
from PIL import Image

from pipeline import evaluate, label, review, sample
from pipeline.errors import RequestError

FORMATS = ("csv", "label-studio", "fiftyone")
NAMES = [*(f"thing {number}" for number in range(12)), 'a "crane" & <co>', 'a "crane" & <co>']


@pytest.fixture(scope="module")
def made(tmp_path_factory, sample_data):
    """Two shards whose images have the same keys, and a third with one of them once more; two classes have one name."""
    folder = tmp_path_factory.mktemp("asking")
    names = folder / "names.json"
    names.write_text(json.dumps(NAMES))
    for at, shard in enumerate("ab"):
        make_tar(folder / f"{shard}.tar", [(f"{number:05d}.jpg", jpeg(100 * at + number)) for number in range(12)])
    make_tar(folder / "c.tar", [("again.jpg", jpeg(3)), ("png.png", _png())])
    label(str(folder), folder / "out", labels=str(names), rows_per_part=5, **models(sample_data))
    return folder


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(jpeg(77))).save(buffer, "PNG")
    return buffer.getvalue()


def models(sample_data):
    return {
        "model": "shufflenet_v2_x0_5,squeezenet1_1",
        "weights_dir": str(sample_data / "weights"),
        "engine": "inline",
        "precision": "fp32",
    }


def rows_of(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))


def true_label(row) -> int:
    """The annotation of an image, in this test."""
    return int(hashlib.sha256(f"{row['shard']}{row['key']}".encode()).hexdigest(), 16) % len(NAMES)


def filled_in(place, kind: str, choices: list[str]):
    """Do people's work on a list; the file to give to --truth, and what is true by shard and key."""
    if kind == "csv":
        rows = rows_of(place.read_text())
        truth = {(row["shard"], row["key"]): true_label(row) for row in rows}
        for number, row in enumerate(rows):
            row["truth"] = choices[true_label(row)] if number % 2 else str(true_label(row))
        with place.open("w") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        return place, truth
    if kind == "label-studio":
        tasks = json.loads(place.read_text())
        for task in tasks:
            value = {"choices": [choices[true_label(task["data"])]]}
            result = [{"type": "choices", "from_name": "choice", "to_name": "image", "value": value}]
            task["annotations"] = [{"completed_by": 1, "was_cancelled": False, "result": result}]
        place.write_text(json.dumps(tasks))
        return place, {(task["data"]["shard"], task["data"]["key"]): true_label(task["data"]) for task in tasks}
    content = json.loads((place / "labels.json").read_text())
    keys = {row["image"].split("/")[1].rpartition(".")[0]: row for row in rows_of((place / "images.csv").read_text())}
    content["labels"] = {stem: {"label": true_label(keys[stem])} for stem in content["labels"]}
    (place / "labels.json").write_text(json.dumps(content))
    return place / "labels.json", {(row["shard"], row["key"]): true_label(row) for row in keys.values()}


def place_of(folder, kind: str):
    return folder / {"csv": "list.csv", "label-studio": "tasks.json", "fiftyone": "set"}[kind]


@pytest.mark.parametrize("kind", FORMATS)
def test_annotations_come_back_as_truth(made, tmp_path, kind):
    place = place_of(tmp_path, kind)
    found = sample(made / "out", save=place, num=20, format=kind)
    assert (found.images, found.labelled, found.without_image, found.problems) == (20, 26, 0, ())
    choices = [*NAMES[:12], 'a "crane" & <co> (12)', 'a "crane" & <co> (13)']
    truth, said = filled_in(place, kind, choices)
    assert len(said) == 20
    matched = evaluate(made / "out", truth=truth)
    assert matched.images == 20
    assert matched.truth.complaints == ()
    expected = {label: list(said.values()).count(label) for label in said.values()}
    assert {figures.label: figures.images for figures in matched.classes if figures.images} == expected


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truth_may_be_a_group(made, tmp_path, kind):
    place, own = place_of(tmp_path, kind), tmp_path / "own.csv"
    own.write_text("class,kind\n0,low\n1,low\n2,low\n3,high\n4,high\nthing 5,thing 6\n")
    assert sample(made / "out", save=place, num=4, format=kind, classes=own).groups == 3
    answers = ["low", "thing 6 (kind)", "thing 4", "none"]
    if kind == "csv":
        header, *lines = place.read_text().splitlines()
        rows = [line + answer for line, answer in zip(lines, answers, strict=True)]
        place.write_text("\n".join([header, *rows]))
    elif kind == "label-studio":
        tasks = json.loads(place.read_text())
        for task, answer in zip(tasks, answers, strict=True):
            path = ["high", answer] if answer == "thing 4" else [answer]
            result = [{"type": "taxonomy", "from_name": "choice", "value": {"taxonomy": [path]}}]
            task["annotations"] = [{"completed_by": 1, "result": result}]
        place.write_text(json.dumps(tasks))
    else:
        place /= "labels.json"
        content = json.loads(place.read_text())
        labels = [content["classes"].index(answer) for answer in answers]
        place.write_text(json.dumps(content | {"labels": dict(zip(content["labels"], labels, strict=True))}))
    found = evaluate(made / "out", truth=place, classes=own)
    assert (found.truth.complaints, found.truth.no_class, found.group_truths, found.levels[0].images) == ((), 1, 2, 4)
    assert {figures.label: figures.images for figures in found.classes if figures.images} == {4: 1}


@pytest.mark.parametrize("kind", FORMATS)
def test_images_are_the_originals(made, tmp_path, kind):
    place = place_of(tmp_path, kind)
    sample(made / "out", save=place, num=100, format=kind)
    folder = {"csv": "list-images", "label-studio": "tasks-images", "fiftyone": "set/data"}[kind]
    images = sorted((tmp_path / folder).iterdir())
    assert len(images) == 26
    originals = {jpeg(number) for at in (0, 100) for number in range(at, at + 12)} | {_png()}
    assert {path.read_bytes() for path in images} == originals
    assert [path.suffix for path in images].count(".png") == 1
    if kind == "csv":
        for row in rows_of(place.read_text()):
            assert hashlib.sha256((tmp_path / row["image"]).read_bytes()).hexdigest() == row["sha256"]


def test_a_sample_shows_labels_only_with_with_labels(made, tmp_path):
    for kind in FORMATS:
        sample(made / "out", save=place_of(tmp_path, kind), num=9, format=kind)
        sample(made / "out", save=place_of(tmp_path / "shown", kind), num=9, format=kind, with_labels=True)
    blind, shown = rows_of((tmp_path / "list.csv").read_text()), rows_of((tmp_path / "shown/list.csv").read_text())
    assert list(blind[0]) == ["shard", "key", "index", "sha256", "image", "drawn", "truth"]
    assert set(shown[0]) - set(blind[0]) == {*"label class_name score agreement entropy disagreement top".split()}
    assert [row["key"] for row in blind] == [row["key"] for row in shown]
    assert "predictions" not in (tmp_path / "tasks.json").read_text()
    assert all("predictions" in task for task in json.loads((tmp_path / "shown/tasks.json").read_text()))
    assert set(json.loads((tmp_path / "set/labels.json").read_text())["labels"].values()) == {None}


def test_label_studio_knows_every_choice_and_serves_every_image(made, tmp_path):
    found = review(made / "out", save=tmp_path / "my tasks.json", num=6, format="label-studio")
    assert [name.rpartition("/")[2] for name in found.files] == ["my tasks.xml", "my tasks.json"]
    config = ET.parse(tmp_path / "my tasks.xml").getroot()
    choices = [choice.get("value") for choice in config.iter("Choice")]
    assert len(set(choices)) == 15
    assert choices[0] == "none"
    assert config.find("Filter").get("toName") == config.find("Choices").get("name")
    for task in json.loads((tmp_path / "my tasks.json").read_text()):
        start, _, name = task["data"]["image"].partition("my%20tasks-images/")
        assert start == "/data/local-files/?d="
        assert (tmp_path / "my tasks-images" / name).is_file()
        (prediction,) = task["predictions"]
        (result,) = prediction["result"]
        assert result["value"]["choices"][0] in choices
        assert (result["from_name"], result["to_name"]) == (config.find("Choices").get("name"), "image")
        assert config.find("Image").get("value") == "$image"


def test_a_review_begins_with_the_most_doubtful_and_is_no_truth_by_itself(made, tmp_path):
    for order, sign in (("disagreement", -1), ("entropy", -1), ("score", 1)):
        save = tmp_path / f"{order}.csv"
        assert review(made / "out", save=save, num=26, order=order, images=False).images == 26
        values = [sign * float(row[order]) for row in rows_of(save.read_text())]
        assert values == sorted(values)
    review(made / "out", save=tmp_path / "set", num=26, format="fiftyone")
    review(made / "out", save=tmp_path / "t.json", num=26, format="label-studio")
    for truth in ("score.csv", "set/labels.json", "t.json"):
        with pytest.raises(RequestError, match="of its 26 truths none can be used: 26 without a label"):
            evaluate(made / "out", truth=tmp_path / truth)


def test_equal_images_once(made, tmp_path):
    assert sample(made / "out", save=tmp_path / "t.csv", unique=True, images=False).images == 25


def test_people_s_work_is_never_written_over(made, tmp_path):
    for kind in FORMATS:
        place = place_of(tmp_path, kind)
        sample(made / "out", save=place, num=2, format=kind)
        with pytest.raises(RequestError, match="is there already, and may hold annotations"):
            sample(made / "out", save=place, num=2, format=kind)


@pytest.mark.parametrize("unique", [False, True])
def test_a_sample_grows_and_keeps_its_answers(made, tmp_path, unique):
    out, older, whole = made / "out", tmp_path / "t.csv", tmp_path / "whole.csv"
    sample(out, save=older, num=8, seed=5, unique=unique)
    header, *rows = older.read_text().splitlines()
    # as a German Excel saves it, with answers and a column more
    lines = [f"note,{header}", *(f"{at},{row}none" for at, row in enumerate(rows))]
    older.write_bytes("\r\n".join(line.replace(",", ";") for line in lines).encode("utf-8-sig"))
    found = sample(out, save=older, more=5)  # the list knows its seed
    assert (found.images, found.added, found.files) == (13, 5, (str(older),))
    assert older.read_bytes().startswith("\r\n".join(line.replace(",", ";") for line in lines).encode("utf-8-sig"))
    sample(out, save=whole, num=13, seed=5, unique=unique)
    drawn = list(csv.DictReader(io.StringIO(older.read_text("utf-8-sig"), newline=""), delimiter=";"))
    assert [row["key"] for row in drawn] == [row["key"] for row in rows_of(whole.read_text())]
    assert [row["truth"] for row in drawn] == ["none"] * 8 + [""] * 5
    assert [row["note"] for row in drawn[8:]] == [""] * 5
    for row in drawn:
        assert hashlib.sha256((tmp_path / row["image"]).read_bytes()).hexdigest() == row["sha256"]
    assert evaluate(out, truth=older).truth.no_class == 8
    assert sample(out, save=older, more=100).images == (25 if unique else 26)
    with pytest.raises(RequestError, match="are in the list already"):
        sample(out, save=older, more=1)


def test_a_list_that_grew_with_its_output_was_drawn_from_all(tmp_path):
    probs, truth = calibrated(60, 6)
    out, save = tmp_path / "out", tmp_path / "t.csv"
    write_output(out, probs[None, :40], truth[:40])
    sample(out, save=save, num=10, images=False)
    shutil.rmtree(out)
    write_output(out, probs[None], truth)
    with pytest.raises(RequestError, match="a larger --more, so that the sample stays uniform"):
        sample(out, save=save, more=1, images=False)
    found = sample(out, save=save, more=40, images=False)
    assert (found.images, found.labelled) == (50, 60)
    (drawn,) = {row["drawn"] for row in rows_of(save.read_text())}
    assert drawn.startswith("random seed=0 num=50 of=60 population=")
    review(out, save=tmp_path / "r.csv", num=5, images=False)
    with pytest.raises(RequestError, match="a list of `review`"):
        sample(out, save=tmp_path / "r.csv", more=5, images=False)


@pytest.mark.parametrize("with_groups", [False, True])
def test_tasks_grow_and_the_new_ones_are_in_a_file_of_their_own(made, tmp_path, with_groups):
    out, tasks, own = made / "out", tmp_path / "tasks.json", tmp_path / "own.csv"
    own.write_text("class,kind\n" + "".join(f"{label},low\n" for label in range(14)))
    sample(out, save=tasks, num=6, format="label-studio", with_labels=True, classes=own if with_groups else None)
    if with_groups:
        with pytest.raises(RequestError, match="drawn with groups of classes; give the same --classes"):
            sample(out, save=tasks, more=3)
    older = json.loads(tasks.read_text())
    older[0]["annotations"] = [{"result": [{"value": {"choices": ["none"]}}]}]
    tasks.write_text(json.dumps(older))
    found = sample(out, save=tasks, more=3, classes=own)  # the control stays that of the project
    assert (found.format, found.images, found.added) == ("label-studio", 9, 3)
    assert [name.rpartition("/")[2] for name in found.files] == ["tasks-7-9.json", "tasks.json"]
    new, every = json.loads((tmp_path / "tasks-7-9.json").read_text()), json.loads(tasks.read_text())
    assert every == older + new
    values = [task["predictions"][0]["result"][0]["value"] for task in new]
    assert [value["taxonomy"][0][0] if with_groups else len(value["choices"]) for value in values] == (
        ["low"] * 3 if with_groups else [1] * 3
    )
    assert all((tmp_path / task["data"]["image"].partition("?d=")[2]).is_file() for task in every)
    sample(out, save=tmp_path / "whole.json", num=9, format="label-studio")
    whole = json.loads((tmp_path / "whole.json").read_text())
    assert [task["data"]["key"] for task in every] == [task["data"]["key"] for task in whole]
    truth = evaluate(out, truth=tasks).truth
    assert (truth.no_class, truth.used, truth.blank) == (1, 1, 8)


@pytest.mark.parametrize(
    ("text", "words", "says"),
    [
        (None, {}, "there is no list to add to"),
        ("key,label\na,b\n", {}, "it has no columns key and truth"),
        ("key,truth\n", {}, "there are no images in it"),
        ("[{}]", {}, "some carry no key"),
        ("[", {}, "not JSON"),
        ("PK\x03\x04", {}, "no plain CSV or JSON"),
        ("drawn", {"seed": 6}, r"of its 8 images are not among the first 9 that --seed 6 draws .* a larger --more"),
        ("drawn", {"more": 0}, "--more 0: must be at least 1"),
    ],
)
def test_what_cannot_be_added_to_is_refused_and_left_alone(made, tmp_path, text, words, says):
    save = tmp_path / "t.csv"
    if text == "drawn":
        sample(made / "out", save=save, num=8, images=False)
        save.write_text(re.sub(r"random seed=[^,]*", "", save.read_text()))  # as earlier versions wrote it
    elif text is not None:
        save.write_text(text)
    before = save.read_bytes() if text else None
    with pytest.raises(RequestError, match=says):
        sample(made / "out", save=save, **{"more": 1} | words)
    assert (save.read_bytes() if text else None) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"num": 0}, "must be at least 1"),
        ({"format": "fiftyone", "images": False}, "needs the images"),
        ({"save": "."}, "is a folder; name a file in it"),
        ({"save": "gs://b/t.csv"}, "--save .*unknown scheme"),
        ({"save": "/dev/null/t.csv", "images": False}, "--save /dev/null/t"),
    ],
)
def test_wrong_requests(made, tmp_path, words, says):
    with pytest.raises(RequestError, match=says):
        sample(made / "out", **{"save": tmp_path / "t.csv"} | words)


def test_images_that_are_gone_are_named_and_left_out_of_what_shows_images(sample_data, tmp_path):
    for shard in "ab":
        make_tar(tmp_path / f"{shard}.tar", [(f"{shard}{number}.jpg", jpeg(number)) for number in range(4)])
    label(
        [str(tmp_path / "a.tar"), str(tmp_path / "b.tar")],
        tmp_path / "out",
        labels=str(sample_data / "classes.txt"),
        **models(sample_data),
    )
    (tmp_path / "b.tar").unlink()
    found = sample(tmp_path / "out", save=tmp_path / "list.csv")
    assert (found.images, found.without_image, len(found.problems)) == (8, 4, 4)
    assert all("no such file" in line for line in found.problems)
    assert (
        sorted(bool(row["image"]) for row in rows_of((tmp_path / "list.csv").read_text())) == [False] * 4 + [True] * 4
    )
    sample(tmp_path / "out", save=tmp_path / "t.json", format="label-studio")
    assert {task["data"]["key"][0] for task in json.loads((tmp_path / "t.json").read_text())} == {"a"}


def test_on_s3(s3, sample_data, tmp_path):
    bucket = s3.bucket()
    shard = make_tar(tmp_path / "a.tar", [(f"{number}.jpg", jpeg(number)) for number in range(6)])
    s3.put(bucket, "in/a.tar", shard.read_bytes())
    out, where = f"s3://{bucket}/out", {"s3_endpoint": s3.endpoint}
    label(f"s3://{bucket}/in/", out, labels=str(sample_data / "classes.txt"), **models(sample_data), **where)
    found = sample(out, save=f"s3://{bucket}/lists/t.json", num=4, format="label-studio", **where)
    tasks = json.loads(s3.client.get_object(Bucket=bucket, Key="lists/t.json")["Body"].read())
    assert len(tasks) == found.images == 4
    for task in tasks:
        start = f"s3://{bucket}/"
        assert task["data"]["image"].startswith(f"{start}lists/t-images/")
        body = s3.client.get_object(Bucket=bucket, Key=task["data"]["image"].removeprefix(start))["Body"].read()
        assert hashlib.sha256(body).hexdigest() == task["data"]["sha256"]
        result = [{"value": {"choices": ["cat"]}}]
        task["annotations"] = [{"result": result}]
    s3.put(bucket, "lists/done.json", json.dumps(tasks).encode())
    matched = evaluate(out, truth=f"s3://{bucket}/lists/done.json", **where)
    assert (matched.images, matched.truth.complaints) == (4, ())
    sample(out, save=f"s3://{bucket}/lists/set", num=4, format="fiftyone", **where)
    content = json.loads(s3.client.get_object(Bucket=bucket, Key="lists/set/labels.json")["Body"].read())
    s3.put(
        bucket, "lists/set/labels.json", json.dumps({**content, "labels": dict.fromkeys(content["labels"], 1)}).encode()
    )
    assert evaluate(out, truth=f"s3://{bucket}/lists/set/labels.json", **where).images == 4
    with pytest.raises(RequestError, match="is there already"):
        sample(out, save=f"s3://{bucket}/lists/t.json", num=4, format="label-studio", **where)


def test_the_commands_print_the_same(made, tmp_path, capsys):
    from typer.testing import CliRunner

    from pipeline.cli import app

    words = ["review", str(made / "out"), "-n", "3", "--order", "score", "--save", str(tmp_path / "t.csv")]
    said = CliRunner().invoke(app, words, standalone_mode=False)
    assert said.return_value == 0
    assert said.stdout.splitlines() == [
        f"{tmp_path}/t.csv: 3 images by score, of 26 labelled ones",
        f"  with {tmp_path}/t-classes.json",
        "  in a browser, or by hand: fill in the column truth with class names or indices (none where no class fits), "
        "and save it as CSV; give that to --truth",
        "  its truth is about doubtful images: for `export --target-precision`, label a list of `sample`",
        f"next: shardlabel annotate {tmp_path}/t.csv",
    ]
    words = ["sample", str(made / "out"), "-n", "3", "--json", "--save", str(tmp_path / "s"), "--format", "fiftyone"]
    said = json.loads(CliRunner().invoke(app, words, standalone_mode=False).stdout)
    expected = sample(made / "out", num=3, save=tmp_path / "other", format="fiftyone")
    assert said | {"files": []} == json.loads(json.dumps(dataclasses.asdict(expected))) | {"files": []}
