"""Report: one page from an output, in all the states that an output can be in, whatever its names are."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import jpeg, make_tar
from made_up_outputs import calibrated, write_csv, write_output
from typer.testing import CliRunner

from pipeline import label, report
from pipeline.cli import app
from pipeline.errors import OutputError, RequestError
from pipeline.text import fmt

EVIL = "<script>alert(1)</script>\"'><img src=http://evil.example/x onerror=alert(2)>\x1b[31m\u202e"
NUM_IMAGES, NUM_CLASSES = 120, 10


class Page(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.shown = [], []
        self.source = path.read_text("utf-8")
        self.feed(self.source)
        self.text = " ".join("".join(self.shown).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != "wbr":
            self.shown.append(" ")

    def handle_data(self, data):
        self.shown.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def made_up(folder, *, members=2, truth=True, **more):
    probs, right = calibrated(NUM_IMAGES, NUM_CLASSES)
    noise = np.random.default_rng(2).normal(size=(members, *probs.shape))
    views = np.exp(np.log(probs) + noise)
    views /= views.sum(axis=2, keepdims=True)
    return write_output(folder, views, right if truth else [None] * NUM_IMAGES, **more)


@pytest.fixture(scope="module")
def labelled(sample_data, tmp_path_factory):
    """A real job on photographs and broken images, two members."""
    folder = tmp_path_factory.mktemp("labelled")
    good = [(f"photo/{number:02d}.{end}", data) for number in range(30) for end, data in sample(number)]
    bad = [("cut.jpg", jpeg(1, (400, 300))[:4000]), ("text.jpg", b"no image"), ("empty.jpg", b"")]
    shard = make_tar(folder / "shard.tar", [*good, *bad])
    label(
        str(shard),
        folder / "out",
        model="shufflenet_v2_x0_5,squeezenet1_1",
        weights_dir=str(sample_data / "weights"),
        labels=str(sample_data / "classes.txt"),
        engine="inline",
        rows_per_part=8,
        max_bad_rate=1.0,
    )
    return folder


def sample(number):
    return [("cls", str(number % 14).encode()), ("jpg", jpeg(number, (300, 200)))]


def test_it_tells_what_was_run_and_what_came_of_it(labelled):
    made = report(labelled / "out")
    assert (made.images, made.quarantined, made.matched, made.note) == (30, 3, 30, "")
    assert made.saved == str(labelled / "out" / "report.html")
    page = Page(labelled / "out" / "report.html")
    assert made.num_bytes == len(page.source.encode()) < 1_000_000
    job = json.loads((labelled / "out" / "job.json").read_text())
    for said in (
        job["fingerprint"],
        f"mean of 2 members, top {job['results']['top_k']}",
        "shufflenet_v2_x0_5 50.0 % resize 256, crop 224, bilinear",
        str(labelled / "shard.tar"),
        f"torch {job['versions']['torch']}",
        "The consensus is not calibrated",
        "1 of 1 done",
        "3 samples could not be labelled.",
        "truncated_image",
        "no image format that is known",
        "Accuracy on 30 images with known truth",
        "Reliability: consensus",
        "What could be kept at a precision",
    ):
        assert said in page.text
    assert "not finished" not in page.text
    assert page.all("html") == [{"lang": "en"}]


def test_pictures_are_those_of_the_rows_and_say_what_they_show(labelled):
    made = report(labelled / "out")
    pictures = Page(labelled / "out" / "report.html").all("img")
    assert len({picture["src"] for picture in pictures}) == made.pictures > 20
    assert all(picture["src"].startswith("data:image/webp;base64,") for picture in pictures)
    assert all(picture["alt"] for picture in pictures)
    others = [picture["alt"] for picture in pictures if not picture["alt"].startswith("Image labelled ")]
    assert others == ["What can be seen of it"]  # of what was cut short


def test_the_same_output_gives_the_same_page(labelled, tmp_path):
    pages = [tmp_path / f"{number}.html" for number in range(2)]
    for path in pages:
        report(labelled / "out", save=path)
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_inputs_that_are_gone_or_not_wanted_leave_no_gap(labelled, tmp_path):
    path = tmp_path / "page.html"
    assert report(labelled / "out", save=path, images=False).pictures == 0
    without = Page(path)
    assert not without.all("img")
    assert "Made without pictures." in without.text
    shutil.move(labelled / "shard.tar", labelled / "moved.tar")
    try:
        made = report(labelled / "out", save=path)
    finally:
        shutil.move(labelled / "moved.tar", labelled / "shard.tar")
    assert made.pictures == 0
    assert re.match(r"(\d+) of \1 originals cannot be shown: .*shard.tar: no such file", made.note)
    page = Page(path)
    assert made.note in page.text
    assert page.text.count("photo/") == without.text.count("photo/") > 30


def test_truth_from_a_file_marks_the_pictures(labelled, tmp_path):
    rows = [(f"photo/{number:02d}", "astronaut") for number in range(10)] + [("nowhere", "brick")]
    truth = write_csv(tmp_path / "truth.csv", rows)
    made = report(labelled / "out", truth=truth, save=tmp_path / "page.html")
    assert made.matched == 10
    page = Page(tmp_path / "page.html")
    assert "Truth: 1 whose key is not among the labelled images (nowhere)" in page.text
    marks = [attrs["class"] for attrs in page.all("span") if attrs.get("class", "").startswith("mark")]
    assert "mark wrong" in marks
    assert page.text.count("truth: astronaut") == marks.count("mark wrong")
    assert "truth: brick" not in page.text


def test_classes_of_one_name_are_not_taken_for_each_other(tmp_path):
    out = made_up(tmp_path / "out", names=["same"] * NUM_CLASSES)
    report(out)
    marks = [attrs["class"] for attrs in Page(out / "report.html").all("span") if "mark" in attrs.get("class", "")]
    assert {"mark right", "mark wrong"} == set(marks)


@pytest.mark.parametrize("members", [1, 2, 5])
def test_any_number_of_members(tmp_path, members):
    report(made_up(tmp_path / "out", members=members))
    page = Page(tmp_path / "out" / "report.html")
    assert ("nothing to agree or disagree with" in page.text) == (members == 1)
    assert ("Members against each other" in page.text) == (members > 1)
    assert len(page.all("svg")) == {1: 5, 2: 7, 5: 10}[members]


def test_without_truth_there_is_no_accuracy(tmp_path):
    report(made_up(tmp_path / "out", truth=False))
    page = Page(tmp_path / "out" / "report.html")
    assert "No image has a known truth." in page.text
    assert "Reliability" not in page.text


def test_an_output_without_any_part(tmp_path):
    out = made_up(tmp_path / "out")
    shutil.rmtree(out / "predictions")
    made = report(out)
    page = Page(out / "report.html")
    assert (made.images, made.pictures) == (0, 0)
    for said in (
        "not finished",
        "No image is labelled",
        "Nothing has been published yet.",
        "No sample is in quarantine.",
    ):
        assert said in page.text
    assert not page.all("svg")


def test_an_output_of_nothing_but_quarantine(tmp_path, sample_data):
    shard = make_tar(tmp_path / "bad.tar", [(f"{number}.jpg", b"x" * number) for number in range(9)])
    label(
        str(shard),
        tmp_path / "out",
        model="shufflenet_v2_x0_5",
        weights_dir=str(sample_data / "weights"),
        labels=str(sample_data / "classes.txt"),
        engine="inline",
        max_bad_rate=1.0,
    )
    made = report(tmp_path / "out")
    page = Page(tmp_path / "out" / "report.html")
    assert (made.images, made.quarantined) == (0, 9)
    assert "9 samples could not be labelled." in page.text
    assert "No image is labelled" in page.text
    assert "not finished" not in page.text


def test_names_from_outside_are_text_only(tmp_path):
    names = [f"{EVIL}{number}" for number in range(NUM_CLASSES)]
    keys = [f"{EVIL}{number}" for number in range(NUM_IMAGES)]
    out = made_up(tmp_path / "out", names=names, keys=keys, shards=[EVIL] * NUM_IMAGES, inputs=[EVIL])
    report(out)
    page = Page(out / "report.html")
    assert not page.all("script")
    assert not page.all("img")
    assert not [attrs for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.text  # as text
    assert "\\x1b[31m\\u202e" in page.text
    assert not {"\x1b", "\u202e"} & set(page.source)


def test_nothing_is_asked_for(labelled):
    page = Page(labelled / "out" / "report.html")
    policy = next(attrs for attrs in page.all("meta") if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    assert "http://" not in page.source
    assert "https://" not in page.source
    targets = [attrs[name] for _, attrs in page.tags for name in ("href", "src", "xlink:href") if name in attrs]
    assert all(target.startswith(("#", "data:")) for target in targets)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {target[1:] for target in targets if target.startswith("#")} <= set(ids)


def test_the_command(labelled, tmp_path):
    path = tmp_path / "page.html"
    shown = CliRunner().invoke(app, ["report", str(labelled / "out"), "--save", str(path)])
    assert shown.exit_code == 0
    assert shown.stdout.startswith(f"{path}: 30 images, 3 quarantined, 30 with known truth, ")
    shown = CliRunner().invoke(app, ["report", str(labelled / "out"), "--no-images", "--json", "--save", str(path)])
    made = json.loads(shown.stdout)
    assert (made["images"], made["pictures"], made["note"], made["saved"]) == (30, 0, "", str(path))


def test_wrong_requests_are_one_line(labelled, tmp_path):
    with pytest.raises(OutputError, match=r"not an output of shardlabel"):
        report(tmp_path)
    with pytest.raises(RequestError, match=r"^--save .*unknown scheme"):
        report(labelled / "out", save="ftp://somewhere/page.html", images=False)


def test_on_s3(labelled, s3):
    bucket = s3.bucket()
    for path in (labelled / "out").rglob("*"):
        if path.is_file() and path.suffix != ".html":
            s3.put(bucket, f"out/{path.relative_to(labelled / 'out')}", path.read_bytes())
    made = report(f"s3://{bucket}/out", s3_endpoint=s3.endpoint)
    assert made.saved == f"s3://{bucket}/out/report.html"
    assert made.pictures > 20
    written = s3.client.get_object(Bucket=bucket, Key="out/report.html")
    assert written["ContentLength"] == made.num_bytes
    assert written["ContentType"] == "text/html"


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0, "0.0 %"), (1, "100.0 %"), (0.99999, ">99.9 %"), (1e-6, "<0.1 %"), (0.5, "50.0 %"), (None, "-")],
)
def test_shares_are_never_rounded_to_all_or_none(share, shown):
    assert fmt.percent(share) == shown
