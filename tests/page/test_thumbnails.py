"""Thumbnails: small, upright, whole."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from conftest import jpeg
from PIL import Image

from pipeline.page.thumbnails import SIDE_PX, thumbnail


def opened(found) -> Image.Image:
    head, _, data = found.uri.partition(",")
    assert head == "data:image/webp;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert picture.size == (found.width, found.height)
    return picture


@pytest.mark.parametrize(
    ("size", "small"),
    [
        ((640, 480), (176, 132)),
        ((30, 20), (30, 20)),
        ((1200, 1600), (132, 176)),
        ((4000, 20), (176, 20)),
        ((1, 1), (1, 1)),
    ],
)
def test_sizes(size, small):
    assert opened(thumbnail(jpeg(size=size))).size == small
    assert max(small) <= SIDE_PX


def test_a_thumbnail_is_upright():
    lying = Image.new("RGB", (400, 200))
    lying.paste((255, 0, 0), (0, 0, 200, 200))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by 90 degrees clockwise
    buffer = io.BytesIO()
    lying.save(buffer, "JPEG", exif=exif)
    picture = opened(thumbnail(buffer.getvalue()))
    assert picture.size == (88, 176)
    top, bottom = (np.asarray(picture.convert("RGB"))[row, 44].tolist() for row in (20, 150))
    assert top[0] > 200 > 60 > bottom[0]


def test_a_truncated_jpeg_shows_its_beginning():
    whole = jpeg(size=(600, 400))
    seen, cut = (
        np.asarray(opened(thumbnail(data)).convert("RGB"), int) for data in (whole, whole[: len(whole) * 2 // 3])
    )
    assert seen.shape == cut.shape
    assert np.abs(seen[:40] - cut[:40]).mean() < 3
    assert np.abs(seen[-20:] - cut[-20:]).mean() > 10


@pytest.mark.parametrize("data", [b"", b"text", b"\xff\xd8\xff", jpeg()[:100], b"\x89PNG\r\n\x1a\n"])
def test_other_data_has_no_thumbnail(data):
    assert thumbnail(data) is None
