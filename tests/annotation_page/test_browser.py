"""The page for labelling in a real browser: by keyboard, by touch, wide and narrow, light and dark."""

from __future__ import annotations

import shutil

import pytest
from conftest import jpeg
from contrasts import CONTRASTS
from playwright.sync_api import expect, sync_playwright
from served_page import open_session, serving, truths, write_list

from pipeline.annotation_page.session import Session
from pipeline.taxonomy.classes_file import parse_classes

CHROMIUM = shutil.which("chromium")
expect.set_options(timeout=20_000)  # on a machine that does other things, too
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

EVIL = "</title><script>alert(1)</script><img src=http://evil.example/x onerror=alert(3)>"
NAMES = (
    *("tabby cat", "Egyptian_cat", "tiger shark", "tench, Tinca tinca", "crane", "crane", "Käse"),
    *(f"thing {number}" for number in range(12)),
    EVIL,
    "a class with a very long name that goes on and on, " * 4,
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 2,
)
LONG = "Maximiliane von und zu Hohenstein-Oberpfaffenhofen"  # whose name takes more than a line
WIDE, PHONE = {"width": 1360, "height": 850}, {"width": 390, "height": 844}
IMAGES = [
    *(jpeg(number, (300, 200)) for number in range(4)),
    jpeg(4, (4000, 60)),
    jpeg(5, (60, 4000)),
    b"no image",
    *(jpeg(number, (30, 30)) for number in range(7, 10)),
]


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser):
    """Opens a page, and afterwards makes sure that it asked its server alone, complained of nothing and ran nothing."""
    contexts, trouble = [], []

    def open_page(url, viewport=WIDE, **more):
        context = browser.new_context(viewport=viewport, **more)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda request: trouble.append(request.url) if asks_others(request.url, url) else None)
        page.on("console", lambda message: trouble.append(message.text) if "status of 40" not in message.text else None)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
        page.goto(url)
        return page

    def asks_others(asked, url):
        return not asked.startswith((url, f"blob:{url.rpartition(':')[0]}", "data:"))

    yield open_page
    for context in contexts:
        context.close()
    assert trouble == []


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory):
    """The address of a page that tests look at, and change nothing."""
    place = write_list(tmp_path_factory.mktemp("looked"), IMAGES)
    with serving(open_session(place, NAMES)) as server:
        yield server.url
    assert set(truths(place)) == {""}


@pytest.fixture
def own(tmp_path):
    """A list that a test fills in, and the server of its page."""
    place = write_list(tmp_path, IMAGES)
    with serving(open_session(place, NAMES)) as server:
        yield place, server


def at(page, number):
    expect(page.locator("#place")).to_have_text(f"Image {number} of 10")


def saved(page):
    expect(page.locator("#saved")).to_have_text("saved")


def test_by_keyboard_from_the_first_image_to_the_last(own, opened):
    place, server = own
    page = opened(server.url)
    keys = page.keyboard
    at(page, 1)
    keys.type("egyp")
    keys.press("Enter")
    at(page, 2)
    keys.type("shark")
    expect(page.get_by_role("option", selected=True)).to_have_text("tiger shark")
    keys.press("Enter")
    at(page, 3)
    keys.press("1")  # the class that was used first
    at(page, 4)
    keys.press("0")
    at(page, 5)
    keys.type("cat")
    keys.press("ArrowDown")
    keys.press("Enter")
    saved(page)
    assert truths(place)[:5] == ["Egyptian_cat", "tiger shark", "Egyptian_cat", "none", "tabby cat"]
    keys.press("Control+z")
    at(page, 5)
    keys.press("Control+z")
    at(page, 4)
    saved(page)
    assert truths(place)[3:5] == ["", ""]
    keys.press("ArrowLeft")
    at(page, 3)
    expect(page.locator("#own")).to_have_text("Your answer: Egyptian_cat")
    keys.press("Delete")
    expect(page.locator("#own")).to_be_empty()
    keys.press("ArrowRight")
    keys.type("#5")
    keys.press("Enter")  # the second crane
    at(page, 5)
    keys.press("Space")
    at(page, 6)
    saved(page)
    page.reload()
    at(page, 3)
    assert truths(place)[2:5] == ["", "crane (5)", ""]
    for number, name in ((3, "tinca"), (5, "käse"), (6, "KASE"), (7, "thing 11"), (8, "thing_3"), (9, "none")):
        at(page, number)
        keys.type(name)
        keys.press("Enter")
    at(page, 10)
    keys.type(EVIL[:12])
    keys.press("Enter")
    expect(page.locator("#done")).to_be_visible()
    expect(page.locator("#done-text")).to_have_text("10 of 10 images have a truth, of which 1 have no class that fits.")
    expect(page.locator("#next")).to_have_text("shardlabel next")
    expected = [NAMES[1], NAMES[2], NAMES[3], "crane (5)", "Käse", "Käse", "thing 11", "thing 3", "none", EVIL]
    assert truths(place) == expected


def test_what_cannot_be_shown_is_said_and_can_be_skipped(opened, looked_at):
    page = opened(looked_at)
    at(page, 1)
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    expect(page.locator(".problem")).to_contain_text("This image cannot be shown. It cannot be decoded")
    page.keyboard.press("Space")
    at(page, 8)
    expect(page.locator("#frame img")).to_be_visible()
    expect(page.locator("#key")).to_be_empty()  # a key may give the class away
    page.keyboard.press(".")
    expect(page.locator("#key")).to_have_text("/data/a.tar key_7")


def test_an_answer_that_another_program_gave_is_not_written_over(own, opened):
    place, server = own
    page = opened(server.url)
    at(page, 1)
    text = place.read_text()
    place.write_text(text.replace(".jpg,\n", ".jpg,Käse\n", 1))
    page.keyboard.type("tabby")
    page.keyboard.press("Enter")
    expect(page.locator("#banner")).to_contain_text("the file has changed: it says Käse for this image")
    at(page, 1)
    expect(page.locator("#own")).to_have_text("Your answer: Käse")
    assert truths(place)[0] == "Käse"
    page.keyboard.type("tabby")
    page.keyboard.press("Enter")
    at(page, 2)
    saved(page)
    assert truths(place)[0] == "tabby cat"


def test_two_people_by_name_on_one_server(own, opened):
    place, server = own
    for name, first in ((LONG, "tabby"), ("ben", "tabby")):
        page = opened(server.url)
        if name == LONG:
            page.get_by_role("button", name="give a name").click()
        page.get_by_label("Name").fill(name)
        page.keyboard.press("Enter")
        expect(page.locator("#who")).to_have_text(f"as {name}")
        at(page, 1)  # neither sees what the other has answered
        page.keyboard.type(first)
        page.keyboard.press("Enter")
        at(page, 2)
        saved(page)
        assert all(page.locator(one).bounding_box()["height"] < 30 for one in ("#saved", "#who", ".field label"))
    assert truths(place)[0] == truths(place, f"truth by {LONG}")[0] == truths(place, "truth by ben")[0] == "tabby cat"


def test_without_its_server_no_further_answer_is_taken(browser, tmp_path):
    place = write_list(tmp_path, IMAGES)
    with serving(open_session(place, NAMES)) as server:
        page = browser.new_context(viewport=WIDE).new_page()
        page.goto(server.url)
        at(page, 1)
        page.keyboard.type("tabby")
        page.keyboard.press("Enter")
        saved(page)
    page.keyboard.type("shark")
    page.keyboard.press("Enter")
    expect(page.locator("#banner")).to_contain_text("Not saved: the server of this page does not answer")
    expect(page.locator("#saved")).to_have_text("not saved")
    at(page, 3)
    page.keyboard.type("shark")
    page.keyboard.press("Enter")
    at(page, 3)
    assert truths(place)[:3] == ["tabby cat", "", ""]
    page.context.close()


@pytest.mark.parametrize("viewport", [WIDE, {"width": 800, "height": 600}, PHONE], ids=["wide", "small", "phone"])
def test_it_fits_whatever_the_picture(opened, looked_at, viewport):
    page = opened(looked_at, viewport)
    for number in range(1, 8):
        at(page, number)
        shown = page.locator(f"#frame > img[alt='Image {number}'], #frame > .problem")
        expect(shown).to_be_visible()
        frame, image = page.locator("#frame").bounding_box(), shown.bounding_box()
        for start, length in (("x", "width"), ("y", "height")):
            assert frame[start] <= image[start]
            assert image[start] + image[length] <= frame[start] + frame[length] + 0.5
        root = "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
        assert page.evaluate(root) == [viewport["width"], viewport["height"]]
        page.keyboard.press("ArrowRight")
    page.keyboard.type("a class")
    boxes = "[...document.querySelectorAll('.panel *')]"
    assert page.evaluate(f"{boxes}.every(one => one.scrollWidth <= Math.max(one.clientWidth, one.offsetWidth) + 1)")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    page.get_by_role("button", name="Close").click()


def test_by_touch_alone(own, opened):
    place, server = own
    page = opened(server.url, PHONE, has_touch=True, is_mobile=True)
    at(page, 1)
    assert page.evaluate("document.activeElement.tagName") == "BODY"  # no keyboard jumps over the picture
    page.get_by_label("Class", exact=True).tap()
    page.keyboard.type("shark")
    page.get_by_role("option", name="tiger shark").tap()
    at(page, 2)
    page.get_by_role("button", name="No class fits").tap()
    at(page, 3)
    page.get_by_role("button", name="Undo").tap()
    at(page, 2)
    page.get_by_role("option", name="tiger shark").first.tap()
    page.get_by_role("button", name="Skip").tap()
    page.get_by_role("button", name="Back").tap()
    at(page, 3)
    saved(page)
    assert truths(place)[:3] == ["tiger shark", "tiger shark", ""]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read(opened, looked_at, scheme):
    page = opened(looked_at, color_scheme=scheme)
    at(page, 1)
    page.keyboard.type("thing")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 128) == (scheme == "dark")
    page.evaluate("document.querySelectorAll('dialog').forEach(one => one.setAttribute('open', ''))")
    page.evaluate("document.querySelectorAll('[hidden]').forEach(one => { one.hidden = false; one.append('text'); })")
    measured = page.evaluate(CONTRASTS)
    assert len(measured) > 60
    assert measured[0][0] >= 4.5, measured[0]


def test_for_screen_readers_and_by_tab(opened, looked_at):
    page = opened(looked_at, reduced_motion="reduce")
    at(page, 1)
    page.keyboard.type("cat")
    combobox = page.get_by_role("combobox", name="Class")
    expect(combobox).to_be_focused()
    active = page.get_by_role("option", selected=True)
    expect(active).to_have_count(1)
    assert combobox.get_attribute("aria-activedescendant") == active.get_attribute("id")
    expect(page.get_by_role("img", name="Image 1")).to_be_visible()
    tree = page.locator("body").aria_snapshot()
    for part in ("- main:", '- region "Picture":', '- img "Image 1"', '- listbox "Classes":', '- progressbar "Images'):
        assert part in tree
    page.keyboard.press("Escape")
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        name, shown = page.evaluate(
            "[document.activeElement.id, getComputedStyle(document.activeElement).outlineStyle]"
        )
        if not name:
            break
        assert shown == "solid"
        reached.append(name)
    assert reached[:4] == ["none", "skip", "forward", "help"]
    assert page.evaluate("getComputedStyle(document.querySelector('button')).transitionDuration") == "0s"


def test_predictions_come_first_where_they_are_asked_for(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(Session, "candidates", lambda _, at: [(2 + at, 0.9), (0, 0.05)])
    place = write_list(tmp_path, IMAGES)
    with serving(open_session(place, NAMES, predictions=True)) as server:
        page = opened(server.url)
        for number, name in ((1, "tiger shark0.900"), (2, "tench, Tinca tinca0.900")):
            at(page, number)
            expect(page.get_by_role("option").first).to_have_text(name)
            page.keyboard.press("ArrowDown")
            page.keyboard.press("Enter")
        saved(page)
        at(page, 3)
        expect(page.locator("#frame img")).to_be_visible()
        page.context.close()
    assert truths(place)[:2] == ["tiger shark", "tench, Tinca tinca"]


def test_groups_are_found_and_shown_as_such(opened, tmp_path):
    place = write_list(tmp_path, IMAGES)
    tree = parse_classes("t.csv", f"class,kind\n0,Katze\n1,Katze\n2,Fisch\n3,Fisch\n6,{EVIL}\n".encode(), NAMES)
    with serving(open_session(place, NAMES, taxonomy=tree)) as server:
        page = opened(server.url)
        at(page, 1)
        expect(page.get_by_role("option").last).to_contain_text("Katzegroup of 2 classes")
        page.keyboard.type("katz")
        expect(page.get_by_role("option", selected=True)).to_have_text("Katzegroup of 2 classes")
        page.keyboard.press("Enter")
        at(page, 2)
        page.keyboard.press("1")  # it has a digit, as a class has
        at(page, 3)
        page.keyboard.type("#2")  # indices are of classes
        expect(page.get_by_role("option")).to_have_count(3)
        page.keyboard.press("Enter")
        saved(page)
        at(page, 4)
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#own")).to_have_text("Your answer: Katze")
        page.context.close()
    assert truths(place)[:4] == ["Katze", "Katze", "tiger shark", ""]


def test_hostile_names_are_text(opened, looked_at):
    page = opened(looked_at)
    at(page, 1)
    assert page.get_by_text(EVIL).count() == 1
    assert page.evaluate("document.scripts.length + document.querySelectorAll('[onload], [onerror]').length") == 1
    assert page.evaluate("typeof globalThis.alerted") == "undefined"
