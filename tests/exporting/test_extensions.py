"""Extensions of exported images, and what default readers make of them."""

from __future__ import annotations

import io

import pytest
from conftest import jpeg
from datasets.packaged_modules.webdataset.webdataset import WebDataset
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS
from webdataset.autodecode import IMAGE_EXTENSIONS as DECODED

from pipeline.exporting.default_readers import NOT_IN_TARS, TORCHVISION, describe_readers
from pipeline.exporting.extensions import image_extension
from pipeline.records import IMAGE_EXTENSIONS


def encoded(kind: str, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (8, 8)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "extension"),
    [
        ("a/photo.JPEG", jpeg(), "jpg"),
        ("photo.jfif", jpeg(), "jpg"),
        ("photo.mpo", jpeg(), "jpg"),
        ("photo.png", jpeg(), "jpg"),
        ("photo.jpg", encoded("PNG"), "png"),
        ("photo.TIFF", encoded("TIFF"), "tif"),
        ("raw.dng", encoded("TIFF"), "dng"),
        ("photo.dib", encoded("BMP"), "bmp"),
        ("photo.jpg", encoded("WEBP"), "webp"),
        ("photo.avifs", encoded("AVIF"), "avif"),
        ("photo.heif", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "heic"),
        ("photo.jpf", encoded("JPEG2000"), "jp2"),
        ("photo.pnm", encoded("PPM", "L"), "pgm"),
        ("photo", jpeg(), "jpg"),
        ("photo.jpg_large", jpeg(), "jpg"),
        ("photo", b"?", "img"),
        ("photo.tga", b"?", "tga"),
        ("photo.jpeg", b"?", "jpg"),
    ],
)
def test_extensions_say_what_an_image_is(name, data, extension):
    assert image_extension(name, data, keeps_field=False) == extension
    assert image_extension(name, data, keeps_field=True) == extension


@pytest.mark.parametrize(
    ("name", "keeps_field", "extension"),
    [
        ("0001.left.jpeg", True, "left.jpg"),
        ("0001.left.jpeg", False, "jpg"),
        ("v1.0/0001.RGB.PNG", True, "rgb.jpg"),
        ("0001.\u00fc.jpg", True, "jpg"),
        ("0001." + "x" * 40 + ".jpg", True, "jpg"),
        ("170000.333.jpg", True, "jpg"),
        ("0001.2024-05-01T10:00.left.jpg", True, "jpg"),
        ("0001.3f9c.jpg", True, "jpg"),
    ],
)
def test_a_field_of_a_shard_keeps_its_name_unless_it_has_a_digit(name, keeps_field, extension):
    assert image_extension(name, jpeg(), keeps_field=keeps_field) == extension


WRITTEN = {image_extension(f"x.{name}", b"?", keeps_field=False) for name in (*IMAGE_EXTENSIONS, "none")}


def test_the_readers_take_what_we_think_they_take():
    assert WRITTEN - {name.removeprefix(".") for name in IMG_EXTENSIONS} == WRITTEN - TORCHVISION
    assert WRITTEN - set(DECODED) == WRITTEN & NOT_IN_TARS
    assert WRITTEN - set(WebDataset.IMAGE_EXTENSIONS) == WRITTEN & NOT_IN_TARS


def test_what_readers_leave_out_is_said():
    mixed = {"jpg": 1_000, "png": 20, "heic": 3, "left.gif": 1}
    assert describe_readers("webdataset", mixed) == (
        "datasets.load_dataset loads 1,000 of 1,024 images, those of .jpg; give the name of a configuration for each "
        "other kind: .png (20), .heic (3), .left.gif (1)",
        "webdataset's decode() decodes, as does datasets, 1,021 of 1,024 images, not .heic (3)",
    )
    assert describe_readers("imagefolder", mixed) == (
        "torchvision's ImageFolder loads 1,020 of 1,024 images, not .heic (3), .left.gif (1)",
        "Pillow without pillow-heif decodes 1,021 of 1,024 images, not .heic (3)",
    )
    assert describe_readers("parquet", mixed) == (
        "Pillow without pillow-heif decodes 1,021 of 1,024 images, not .heic (3)",
    )
    assert describe_readers("csv", {}) == ()
    for kind in ("webdataset", "imagefolder", "parquet", "csv"):
        assert describe_readers(kind, {"jpg": 5}) == ()


def test_a_line_names_some_kinds_and_counts_the_others():
    kinds = {"jpg": 50} | {f"kind{chr(97 + number)}.jpg": 1 for number in range(20)}
    (line,) = describe_readers("webdataset", kinds)
    assert line.count(".kind") == 8
    assert line.endswith(".kindh.jpg (1) and 12 more")


def test_classes_that_torchvision_finds_no_image_of_are_said():
    raises, loads = describe_readers("imagefolder", {"jpg": 15, "gif": 2}, ["dog", "retina"])
    assert raises.startswith("torchvision's ImageFolder raises FileNotFoundError")
    assert raises.endswith("classes: dog, retina")
    assert loads == "torchvision's ImageFolder with allow_empty=True loads 15 of 17 images, not .gif (2)"
