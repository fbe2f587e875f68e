"""The report's page in a real browser: wide and narrow, light and dark, on paper, by keyboard and by ear."""

from __future__ import annotations

import csv
import itertools
import shutil

import pytest
from conftest import jpeg, make_tar
from contrasts import CONTRASTS
from playwright.sync_api import sync_playwright

from pipeline import label, report

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

EVIL = "</title><script>alert(1)</script><svg onload=alert(2)>\"'><img src=http://evil.example/x onerror=alert(3)>"
KEY = EVIL.replace("/", "|").replace(".", "_")  # keys end at a dot
WIDE, PHONE = {"width": 1360, "height": 900}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def page_file(sample_data, tmp_path_factory):
    """A report on a real job whose keys, classes and messages want to be obeyed."""
    folder = tmp_path_factory.mktemp("page")
    good = [
        (f"{number:02d}{KEY}.{end}", data)
        for number in range(24)
        for end, data in (("cls", str(number % 14).encode()), ("jpg", jpeg(number, (300, 200))))
    ]
    bad = [(f"{'long' * 60}{KEY}.jpg", b"no image"), ("cut.jpg", jpeg(1, (400, 300))[:4000])]
    shard = make_tar(folder / "shard.tar", [*good, *bad])
    (folder / "classes.txt").write_text("\n".join(f"{EVIL} {number}" for number in range(14)))
    with (folder / "own.csv").open("w", newline="") as file:
        groups = [(number, f"{EVIL} kind {number % 5}", f"{EVIL} family {number % 5 % 2}") for number in range(10)]
        csv.writer(file).writerows([("class", "kind", "family"), *groups])
    label(
        str(shard),
        folder / "out",
        model="first:shufflenet_v2_x0_5,second:squeezenet1_1",
        weights_dir=str(sample_data / "weights"),
        labels=str(folder / "classes.txt"),
        classes=str(folder / "own.csv"),
        engine="inline",
        rows_per_part=8,
        max_bad_rate=1.0,
    )
    made = report(folder / "out")
    assert made.pictures > 20
    return made.saved


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser, page_file):
    """Opens the page, and afterwards makes sure that it asked for nothing, complained of nothing and ran nothing."""
    contexts, trouble = [], []

    def open_page(viewport=WIDE, **more):
        context = browser.new_context(viewport=viewport, **more)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: trouble.append(request.url) if asks(request.url) else None)
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
        page.goto(f"file://{page_file}")
        return page

    def asks(url):
        return not url.startswith("data:") and url != f"file://{page_file}"

    yield open_page
    for context in contexts:
        context.close()
    assert trouble == []


@pytest.mark.parametrize("viewport", [WIDE, {"width": 768, "height": 1000}, PHONE], ids=["wide", "tablet", "phone"])
def test_it_fits(opened, viewport):
    page = opened(viewport)
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    assert page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
    boxes = "[...document.querySelectorAll('.plot svg, .cards, .tiles')]"
    assert page.evaluate(f"{boxes}.every(one => one.scrollWidth <= one.clientWidth + 1)")
    sticky = page.evaluate("getComputedStyle(document.querySelector('nav')).position")
    assert sticky == ("sticky" if viewport == WIDE else "static")


def test_hostile_names_are_text(opened):
    page = opened()
    assert page.evaluate("document.scripts.length + document.querySelectorAll('[onload], [onerror]').length") == 0
    assert page.get_by_text(EVIL).count() > page.get_by_text(KEY).count() > 20
    assert page.title().startswith("Labels in ")
    assert page.evaluate("typeof globalThis.alerted") == "undefined"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read(opened, scheme):
    page = opened(color_scheme=scheme)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 128) == (scheme == "dark")
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    measured = page.evaluate(CONTRASTS)
    assert len(measured) > 500
    assert measured[0][0] >= 4.5, measured[0]


def test_headings_landmarks_and_names(opened):
    page = opened()
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(one => +one.tagName[1])")
    assert levels[0] == levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    tree = page.locator("body").aria_snapshot()
    for landmark in ("- banner:", '- navigation "Contents":', "- main:", "- contentinfo:", '- region "Overview":'):
        assert landmark in tree
    drawings = page.get_by_role("img").all()
    assert len(drawings) > 30
    assert page.get_by_role("img", name="Reliability: consensus").count() == 1
    nameless = "[...document.querySelectorAll('img:not([alt]), svg:not([aria-labelledby]), table:not(:has(caption))')]"
    assert page.evaluate(f"{nameless}.length") == 0
    assert page.evaluate("[...document.querySelectorAll('th')].every(one => one.scope)")


def test_by_keyboard_alone(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    assert page.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash + document.activeElement.id") == "#mainmain"
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        tag, shown = page.evaluate(
            "[document.activeElement.tagName, getComputedStyle(document.activeElement).outlineStyle]"
        )
        if tag == "BODY":
            break
        reached.append(tag)
        assert shown == "solid"
    assert {"SUMMARY", "DIV"} <= set(reached)  # what opens, and what scrolls
    for where, is_open in ((".plot summary", True), (".tree summary", False)):  # the first groups are open
        summary = page.locator(where).first
        summary.focus()
        page.keyboard.press("Enter")
        assert summary.evaluate("one => one.parentElement.open") == is_open


def test_reduced_motion_is_respected(opened):
    smooth = "getComputedStyle(document.documentElement).scrollBehavior"
    assert opened().evaluate(smooth) == "smooth"
    assert opened(reduced_motion="reduce").evaluate(smooth) == "auto"


def test_on_paper_all_is_light_and_open(opened):
    page = opened({"width": 700, "height": 990}, color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()
    assert page.locator("details table").first.is_visible()
    assert page.evaluate("[...document.querySelectorAll('details td')].every(one => one.getClientRects().length)")
    page.evaluate("document.querySelectorAll('.tree details').forEach(one => one.open = false)")
    groups = page.locator(".tree details.on-paper li")
    assert groups.count() > 1
    assert all(group.is_visible() for group in groups.all())
    assert page.evaluate("document.documentElement.scrollWidth") <= 700
    assert page.evaluate(CONTRASTS)[0][0] >= 4.5
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_the_page_is_complete_without_scripts(opened):
    page = opened(java_script_enabled=False)
    page.locator(".plot summary").first.click()
    assert page.locator("details table").first.is_visible()
    assert page.locator("main img").first.is_visible()
