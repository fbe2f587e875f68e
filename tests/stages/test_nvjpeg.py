"""Decoding on a device: what goes there, what does not, and when it is not trusted. The device here is a stand-in."""

from __future__ import annotations

import io

import pytest
import torch
from conftest import SAMPLE_DATA, jpeg
from PIL import Image

from pipeline.stages.decode import decode
from pipeline.stages.nvjpeg import DeviceDecoder, plain_size, read_plain_jpegs

CPU = torch.device("cpu")


def encoded(mode: str = "RGB", form: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (40, 30), 128 if mode == "L" else None).save(buffer, form, **options)
    return buffer.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(1, exif=exif)


def on_device(images):
    """What a flawless device would do."""
    return [decode(data).pixels_CHW.contiguous() for data in images]


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (jpeg(1), (64, 48)),
        (jpeg(1) + b"\0" * 5, (64, 48)),
        (encoded("L"), (40, 30)),
        (jpeg(1, progressive=True), (64, 48)),
        (turned(1), (64, 48)),
        (turned(6), None),
        (encoded("CMYK"), None),
        (jpeg(1)[:-100], None),
        (encoded(form="PNG"), None),
        (b"\xff\xd8\xff\xd9", None),
        (b"", None),
    ],
)
def test_only_whole_upright_grey_or_rgb_jpegs_are_plain(data, size):
    assert plain_size(data) == size


def test_what_is_plain_comes_from_the_device_and_the_rest_is_left():
    asked = []

    def decode_many(images):
        asked.extend(images)
        return on_device(images)

    images = [jpeg(1), turned(6), jpeg(2, size=(80, 60)), b"no image"]
    found = DeviceDecoder(CPU, decode_many).decode(images)
    assert asked == [images[0], images[2]]
    assert [None if picture is None else (picture.width, picture.height) for picture in found] == [
        (64, 48),
        None,
        (80, 60),
        None,
    ]
    assert torch.equal(found[2].pixels_CHW, decode(images[2]).pixels_CHW)


def test_what_the_device_refuses_or_gets_wrong_is_left_for_the_cpu():
    def refuse(_images):
        raise RuntimeError("nvjpegDecode failed: 8")

    assert DeviceDecoder(CPU, refuse).decode([jpeg(1), jpeg(2)]) == [None, None]
    cut = DeviceDecoder(CPU, lambda images: [pixels[:, :-1] for pixels in on_device(images)])
    assert cut.decode([jpeg(1)]) == [None]
    assert DeviceDecoder(CPU, refuse).decode([b"nothing plain"]) == [None]


def test_a_device_that_gives_the_pixels_of_the_cpu_is_trusted():
    images = read_plain_jpegs(SAMPLE_DATA)
    assert len(images) == 32
    assert DeviceDecoder(CPU, on_device).find_problem(images) is None
    nearly = DeviceDecoder(CPU, lambda some: [(pixels.int() + 1).clamp(0, 255).byte() for pixels in on_device(some)])
    assert nearly.find_problem(images) is None


def test_a_device_that_cannot_be_trusted_is_not_used():
    images = read_plain_jpegs(SAMPLE_DATA)[:6]

    def broken(_images):
        raise RuntimeError("no nvJPEG in\nthis build")

    def random(some):
        return [torch.randint_like(pixels, 256) for pixels in on_device(some)]

    cases = {
        "there is no photograph": DeviceDecoder(CPU, on_device).find_problem([b"no image"]),
        "it fails: no nvJPEG in this build": DeviceDecoder(CPU, broken).find_problem(images),
        "other pixels each time": DeviceDecoder(CPU, random).find_problem(images),
        "grey levels off": DeviceDecoder(CPU, lambda some: [255 - pixels for pixels in on_device(some)]).find_problem(
            images
        ),
    }
    assert all(text in problem for text, problem in cases.items()), cases
