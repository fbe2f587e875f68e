"""Plots: SVG with the colours and fonts of the page, and the same bytes for the same data."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest

from pipeline.page import plots
from pipeline.page.timeline import timeline
from pipeline.trust.reliability import compute_reliability

TIMES = timeline(1e9 + np.concatenate([np.arange(40) * 10.0, 9000 + np.arange(40) * 10.0]), np.full(80, 500))
SCORES = np.random.default_rng(0).random(400)
PAINTERS = {
    "histogram": lambda axes: plots.draw_histogram(axes, np.linspace(0, 1, 21), np.arange(20) * 10**6, "score"),
    "empty": lambda axes: plots.draw_histogram(axes, np.linspace(0, 1, 21), np.zeros(20, int), "score"),
    "levels": lambda axes: plots.draw_levels(axes, [0.5, 1.0], np.array([3, 9]), "agreement"),
    "one-level": lambda axes: plots.draw_levels(axes, [1.0], np.array([9]), "agreement"),
    "ranks": lambda axes: plots.draw_ranks(axes, np.arange(3000, 0, -1)),
    "few-ranks": lambda axes: plots.draw_ranks(axes, np.array([5, 4, 4, 2, 1])),
    "done": lambda axes: plots.draw_done_over_time(axes, TIMES),
    "rate": lambda axes: plots.draw_rate_over_time(axes, TIMES),
    "reliability": lambda axes: plots.draw_reliability(axes, compute_reliability(SCORES, SCORES > 0.4)),
    "precision": lambda axes: plots.draw_precision(axes, np.linspace(0.1, 1, 9), np.linspace(1, 0.8, 9), [0.95]),
    "shares": lambda axes: plots.draw_shares(axes, ["kind", "f" * 90], [0.9, 0.99], [(0.8, 0.95), (0.9, 1)], [0.7, 1]),
}


@pytest.mark.parametrize("name", PAINTERS)
def test_a_drawing_belongs_to_its_page(name):
    words = 'in "words" <b>& more'
    svg = plots.draw_svg(name, "Title <i>", words, PAINTERS[name])
    assert svg == plots.draw_svg(name, "Title <i>", words, PAINTERS[name])
    root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
    assert root.get("role") == "img"
    assert [root.find(f"*[@id='{own}']").text for own in root.get("aria-labelledby").split()] == ["Title <i>", words]
    ids = [each.get("id") for each in root.iter() if each.get("id")]
    assert len(ids) == len(set(ids))
    assert all(own.startswith(f"{name}-") for own in ids)
    assert set(re.findall(r"(?:url\(|href=\")#([\w.-]+)", svg)) <= set(ids)
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= {"#000000"}  # of shapes that are used in a colour of their own
    assert "font-family" not in svg
    assert "http" not in svg
    assert [each.text for each in root.iter("text") if each.text]


def test_the_rest_of_the_program_keeps_its_own_settings():
    with mpl.rc_context({"svg.fonttype": "path", "axes.grid": False, "axes.facecolor": "red", "font.size": 30}):
        held = dict(mpl.rcParams)
        one = plots.draw_svg("a", "t", "w", PAINTERS["ranks"])
        assert dict(mpl.rcParams) == held
    assert one == plots.draw_svg("a", "t", "w", PAINTERS["ranks"])


def test_large_numbers_are_short():
    assert [plots._short_number(value) for value in (0, 7, 1500, 2000, 25_000, 3e6, 4e9)] == [
        *("0", "7", "1500", "2k", "25k", "3M", "4G"),
    ]


def test_settings_that_matplotlib_refuses_are_a_wrong_request():
    code = "import pipeline.errors as e\ntry: import pipeline.page.plots\nexcept e.RequestError as error: print(error)"
    settings = {"MPLBACKEND": "nope", "PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run([sys.executable, "-c", code], env=os.environ | settings, capture_output=True, text=True)
    assert re.fullmatch(r"matplotlib cannot be loaded: .*'nope'.*; look at MPLBACKEND and .*\n", ran.stdout), ran.stderr
