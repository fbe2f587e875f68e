"""Galleries of real pictures, in a real browser."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import jpeg, make_tar
from playwright.sync_api import sync_playwright
from small_jobs import options

from pipeline import gallery, label
from pipeline.errors import RequestError

CHROMIUM = shutil.which("chromium")
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def out(tmp_path_factory, sample_data: Path) -> Path:
    folder = tmp_path_factory.mktemp("gallery")
    images = [(f"{at:03d}{EVIL}.jpg", jpeg(at % 8, (300, 200))) for at in range(9)]
    images += [("wide.jpg", jpeg(20, (1600, 100))), ("gone.jpg", jpeg(21))]
    shard = make_tar(folder / "a.tar", images)
    label(str(shard), folder / "out", **options(sample_data, model="first:shufflenet_v2_x0_5,second:squeezenet1_1"))
    return folder / "out"


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_pictures_are_enlarged_and_turned_by_keyboard(out: Path):
    made = gallery(out, order="key")
    assert (made.matching, made.shown, made.pictures, made.note) == (11, 10, 10, "")  # two have the same bytes
    assert gallery(out, order="random", num=1, save=str(out / "one.html")).shown == 1  # as `--help` calls the default
    trouble = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width in (1360, 390):
            page = browser.new_page(viewport={"width": width, "height": 800})
            page.on("console", lambda message: trouble.append(message.text))
            page.on("pageerror", lambda error: trouble.append(str(error)))
            page.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
            page.on("request", lambda own: trouble.append(own.url) if own.url.startswith("http") else None)
            page.goto(f"file://{made.saved}")
            assert page.evaluate("document.documentElement.scrollWidth") == width
            assert page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
            assert page.get_by_text(EVIL).count() == 16  # eight images, in the overview and enlarged
            shown = page.locator(":popover-open")
            page.locator(".frame").nth(1).click()
            assert shown.get_attribute("id") == "p2"
            page.keyboard.press("ArrowRight")
            page.keyboard.press("Enter")  # the button for the next one has the focus
            assert shown.get_attribute("id") == "p4"
            page.keyboard.press("ArrowLeft")
            assert shown.get_attribute("id") == "p3"
            assert shown.get_by_text("second").count() == 1
            box = shown.bounding_box()
            assert box["width"] <= width
            assert box["height"] <= 800
            page.keyboard.press("Escape")
            assert shown.count() == 0
        browser.close()
    assert trouble == []


def test_a_class_a_query_and_what_is_wrong_with_them(out: Path, tmp_path: Path, shardlabel):
    names = json.loads((out / "job.json").read_text())["class_names"]
    rows = pq.read_table(out / "predictions", columns=["label"])["label"].to_pylist()
    held, empty = (next(label for label in range(len(names)) if (label in rows) is there) for there in (True, False))
    assert gallery(out, of_class=names[held], save=tmp_path / "one.html").matching == rows.count(held)
    assert gallery(out, of_class=list(range(len(names))), save=tmp_path / "all.html").matching == 11
    printed = shardlabel("gallery", out, "--where", "width > 1000", "--save", tmp_path / "wide.html")
    assert printed.stdout.startswith(f"{tmp_path}/wide.html: 1 image matches, 1 shown")
    assert "width &gt; 1000" in (tmp_path / "wide.html").read_text()
    for words, line in (
        (("--class", f"{names[1]}x"), f"did you mean {names[1]}"),
        (("--class", "99"), "is not one of the 14 classes"),
        (("--class", "none"), "says that no class fits"),
        (("--class", names[empty]), f"no image matches --class {names[empty]}; nothing was written"),
        (("--class", names[held], "--where", "1 > 2"), f"no image matches --class {names[held]} and --where 1 > 2;"),
        (("-n", "2001"), "must be 1 to 2,000"),
        (("--where", "nothing"), "--where nothing: "),
    ):
        refused = shardlabel("gallery", out, *words, "--save", tmp_path / "refused.html")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert line in refused.stderr
    assert not (tmp_path / "refused.html").exists()
    with pytest.raises(RequestError, match="--save"):
        gallery(out, save=tmp_path / "no" / "such" / "\0")


def test_pictures_that_are_gone_are_said(out: Path, tmp_path: Path):
    moved = out.parent / "a.tar"
    kept = moved.read_bytes()
    moved.unlink()
    try:
        made = gallery(out, save=tmp_path / "gone.html")
    finally:
        moved.write_bytes(kept)
    assert (made.shown, made.pictures) == (10, 0)
    assert made.note.startswith("10 of 10 originals cannot be shown: ")
    assert "10 of 10 originals" in (tmp_path / "gone.html").read_text()
