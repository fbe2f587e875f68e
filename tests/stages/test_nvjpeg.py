"""Decoding on a device: what goes there, what does not, and when it is not trusted. The device here is a stand-in."""

from __future__ import annotations

import io

import pytest
import torch
from conftest import SAMPLE_DATA, jpeg
from PIL import Image
from torch.nn import functional as F  # noqa: N812

from pipeline.models.preprocessing import Geometry, crop
from pipeline.stages import nvjpeg
from pipeline.stages.crop import Batch, new_crops
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


def test_no_more_pixels_are_decoded_at_once_than_a_thread_has_memory_for(monkeypatch):
    monkeypatch.setattr(nvjpeg, "GPU_MAX_PIXELS_AT_ONCE", 2 * 64 * 48)
    images = [jpeg(1), b"no image", jpeg(2), jpeg(3), jpeg(4, size=(640, 480))]
    decoder = DeviceDecoder(CPU, on_device)
    found = [[picture is not None for picture in decoder.decode(images[at:])] for at in (0, 3, 4)]
    assert found == [[True, False, True], [True], [True]]  # one is always taken
    monkeypatch.setattr(nvjpeg, "GPU_MAX_PIXELS", 640 * 480 - 1)
    assert decoder.decode(images[4:]) == [None]


def test_what_does_not_fit_on_the_device_is_resized_on_the_cpu(monkeypatch):
    picture = decode(jpeg(1)).pixels_CHW
    tried = []

    def full(pixels, geometry):
        tried.append(geometry)
        if len(tried) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return crop(pixels, geometry)

    monkeypatch.setattr("pipeline.stages.crop.crop", full)
    small = Geometry(40, 32)
    batch = Batch(new_crops([small], 1, pinned=False))
    batch.put(0, picture)
    assert len(tried) == 2
    assert torch.equal(batch.packed([0])[small][0], crop(picture, small))


def colours_repeated(pixels_CHW):
    """What nvJPEG does by default: the colour of four pixels is that of the file, where libjpeg interpolates."""
    red, green, blue = pixels_CHW.float()
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = torch.stack([(blue - luma) * 0.564, (red - luma) * 0.713])[None]
    stored = F.avg_pool2d(chroma, 2, ceil_mode=True).round()
    cb, cr = F.interpolate(stored, scale_factor=2, mode="nearest")[0, :, : luma.shape[0], : luma.shape[1]]
    rgb = torch.stack([luma + 1.402 * cr, luma - 0.344 * cb - 0.714 * cr, luma + 1.772 * cb])
    return rgb.round().clamp(0, 255).byte()


def blurred(pixels_CHW):
    """Each pixel mixed with its neighbour: half a pixel's shift."""
    return ((pixels_CHW.float() + pixels_CHW.roll(1, 2).float()) / 2).round().byte()


def test_a_device_that_gives_the_pixels_of_the_cpu_is_trusted():
    images = read_plain_jpegs(SAMPLE_DATA)
    assert len(images) == 32
    assert DeviceDecoder(CPU, on_device).find_problem(images) is None
    nearly = DeviceDecoder(CPU, lambda some: [(pixels.int() + 1).clamp(0, 255).byte() for pixels in on_device(some)])
    assert nearly.find_problem(images) is None
    coarse = DeviceDecoder(CPU, lambda some: [colours_repeated(pixels) for pixels in on_device(some)])
    assert coarse.find_problem(images) is None


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
        "on average, one in 1,000 by": DeviceDecoder(
            CPU, lambda some: [blurred(pixels) for pixels in on_device(some)]
        ).find_problem(images),
        "off on average": DeviceDecoder(
            CPU, lambda some: [(pixels.int() + 3).clamp(0, 255).byte() for pixels in on_device(some)]
        ).find_problem(images),
    }
    assert all(text in problem for text, problem in cases.items()), cases
