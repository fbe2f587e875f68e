"""The decoder against Pillow: the same pixels, the same refusals, and a reason for each."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import io
import random
import subprocess
import sys
import threading
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED, jpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference

from pipeline.errors import ImageError, RequestError
from pipeline.models import preprocessing as recipe
from pipeline.models.preprocessing import Geometry, crop
from pipeline.records import Reason
from pipeline.stages import decode as decode_module
from pipeline.stages.decode import decode
from pipeline.stages.limits import MAX_PIXELS, LargeImageLock

NASTY = SHARED / "data" / "nasty"
FILES = sorted(path.name for path in NASTY.glob("*.*") if path.suffix != ".csv") if NASTY.is_dir() else []
BOMBS = [name for name in FILES if name.startswith("bomb_")]
BY_TORCHCODEC_ALONE = {
    "heic_heif-RGB-8-128x128.heif",
    "heic_heif-RGB-10-128x128.heif",
    "wrongext_c-heic-as-jpg.jpg",
}
PLAIN_MODES = {"1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB"}


def pixels(data: bytes) -> np.ndarray:
    """(H, W, 3)."""
    return decode(data).pixels_CHW.permute(1, 2, 0).numpy()


def encoded(image: Image.Image, fmt: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def photo(width: int = 48, height: int = 32) -> Image.Image:
    return Image.open(io.BytesIO(jpeg(3, (width, height)))).convert("RGB")


def difference(one: np.ndarray, other: np.ndarray) -> int:
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - np.asarray(other).astype(int)).max(initial=0))


def refusal(data: bytes) -> Reason:
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert "\n" not in caught.value.message
    assert caught.value.message
    return Reason(caught.value.reason)


def as_pillow_shows_it(data: bytes) -> tuple[Image.Image, np.ndarray | None] | None:
    """Pillow's picture and its upright RGB (None where a plain ``convert`` is not what a person sees)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(data))
            image.load()
        except Exception:  # noqa: BLE001 - of six types at least
            return None
        if image.mode not in PLAIN_MODES or image.has_transparency_data:
            return image, None
        return image, np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


# -- the collection ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in FILES if name not in BOMBS])
def test_it_shows_and_refuses_what_pillow_does(name):
    data = (NASTY / name).read_bytes()
    shown = as_pillow_shows_it(data)
    if shown is None and name not in BY_TORCHCODEC_ALONE:
        assert refusal(data) not in {Reason.EMPTY, Reason.NO_IMAGE}
        return
    decoded = decode(data)
    assert decoded.pixels_CHW.dtype.is_floating_point is False
    assert sorted(decoded.pixels_CHW.shape[1:]) == sorted((decoded.height, decoded.width))
    if shown is not None and shown[1] is not None:
        assert difference(pixels(data), shown[1]) <= 3


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("notimg_c-text.jpg", Reason.NOT_AN_IMAGE),
        ("notimg_c-xml-access-denied.jpg", Reason.NOT_AN_IMAGE),
        ("notimg_c-json-error.jpg", Reason.NOT_AN_IMAGE),
        ("notimg_c-mp4-ftyp.jpg", Reason.NOT_AN_IMAGE),
        ("notimg_c-zip.jpg", Reason.NOT_AN_IMAGE),
        ("notimg_c-zeros-64k.jpg", Reason.NOT_AN_IMAGE),
        ("notimg_c-base64-jpeg.jpg", Reason.NOT_AN_IMAGE),
        ("notimg_c-soi-eoi.jpg", Reason.CORRUPT_IMAGE),
        ("jpegbad_c-trunc-1pct.jpg", Reason.TRUNCATED_IMAGE),
        ("jpegbad_c-trunc-50pct.jpg", Reason.TRUNCATED_IMAGE),
        ("jpegbad_c-trunc-90pct.jpg", Reason.TRUNCATED_IMAGE),
        ("jpegbad_c-no-eoi.jpg", Reason.TRUNCATED_IMAGE),
        ("jpegbad_c-missing-dqt.jpg", Reason.CORRUPT_IMAGE),
        ("jpegbad_c-bad-huffman-counts.jpg", Reason.CORRUPT_IMAGE),
        ("jpegbad_c-sof-width-0.jpg", Reason.CORRUPT_IMAGE),
        ("pngbad_c-trunc-50pct.png", Reason.TRUNCATED_IMAGE),
        ("pngbad_c-idat-bitflip.png", Reason.CORRUPT_IMAGE),
        ("pngbad_c-ihdr-crc.png", Reason.CORRUPT_IMAGE),
        ("gif_c-trunc.gif", Reason.TRUNCATED_IMAGE),
        ("webp_c-trunc.webp", Reason.TRUNCATED_IMAGE),
        ("heic_heif-truncated.heic", Reason.TRUNCATED_IMAGE),
        ("heic_heif-corrupted.heic", Reason.CORRUPT_IMAGE),
        ("jpeg_jpegdec-MR4.jpg", Reason.UNSUPPORTED_FORMAT),
        ("bmp_pillow-bmp-q-rgb24jpeg.bmp", Reason.UNSUPPORTED_FORMAT),
        ("other_pillow-decompression-bomb.ico", Reason.TOO_LARGE),
    ],
)
def test_reasons(shared, name, reason):
    assert refusal((shared / "data" / "nasty" / name).read_bytes()) == reason


def test_only_bombs_are_too_large_and_only_heic_goes_beyond_pillow(shared):
    with open(shared / "data" / "nasty" / "MANIFEST.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(FILES)
    for row in rows:
        if row["category"] == "bomb" and not row["pillow"].startswith("ok"):
            assert refusal((NASTY / row["file"]).read_bytes()) == Reason.TOO_LARGE


def test_bombs_stay_within_bounds(shared):
    """In a process of its own: refused bombs cost nothing, legitimate giants a few bytes per pixel."""
    code = """
import sys, resource
from pathlib import Path
from pipeline.errors import ImageError
from pipeline.stages.decode import decode
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
files = [Path(name) for name in sys.argv[1:]]
decode(files[0].read_bytes())
before, refused = peak(), 0
for file in files[1:-1]:
    try: decode(file.read_bytes())
    except ImageError as error: refused += error.reason == "too_large"
between = peak()
decode(files[-1].read_bytes())
print(refused, between - before, peak() - before)
"""
    refused = [name for name in BOMBS if "13000" not in name and "7000" not in name and "gif" not in name]
    paths = [NASTY / name for name in ("jpeg_pillow-hopper.jpg", *refused, "bomb_c-png-13000x13000-gray.png")]
    command = [sys.executable, "-c", code, *map(str, paths)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    num_refused, refused_mib, giant_mib = map(int, result.stdout.split())  # and nothing else is on stdout
    assert num_refused == len(refused)
    assert refused_mib < 50
    assert giant_mib < 1000  # 169 megapixels: 1 byte each as decoded, 3 as RGB, and a strip


def test_the_same_from_many_threads(shared):
    names = [name for name in FILES if name not in BOMBS]
    files = [(shared / "data" / "nasty" / name).read_bytes() for name in names]

    def outcome(data: bytes):
        try:
            return decode(data).pixels_CHW.numpy().tobytes()
        except ImageError as error:
            return error.reason, error.message

    alone = [outcome(data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(outcome, files)) == alone


def test_warnings_change_nothing_and_stay_inside():
    """An APNG that Pillow warns of; with and without -W error."""
    frames = [photo(), photo().rotate(90)]
    data = bytearray(encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]))
    at = data.index(b"acTL") + 4
    data[at : at + 4] = bytes(4)
    data[at + 8 : at + 12] = zlib.crc32(data[at - 4 : at + 8]).to_bytes(4, "big")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="APNG"):
            Image.open(io.BytesIO(data))
        warnings.simplefilter("error")
        assert difference(pixels(bytes(data)), np.asarray(frames[0])) == 0
    assert caught == []


# -- formats and modes ---------------------------------------------------------------------------------


def test_nothing_is_empty_and_other_formats_are_named():
    assert refusal(b"") == Reason.EMPTY
    for data in (
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
        b'\xef\xbb\xbf<svg width="1"/>',
        b"\xff\x0a\xfa\x7f",
        b"\0\0\0\x0cJXL \r\n\x87\n\0\0",
    ):
        assert refusal(data) == Reason.UNSUPPORTED_FORMAT
    assert refusal(b"<html>404</html>") == Reason.NOT_AN_IMAGE
    assert refusal(encoded(photo(), "AVIF")[:60]) == Reason.CORRUPT_IMAGE


@pytest.mark.parametrize("fmt", ["JPEG", "MPO", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "JPEG2000", "PPM", "ICO"])
def test_every_format_is_open(fmt):
    data = encoded(photo(), fmt)
    assert difference(pixels(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))) <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_orientation(fmt, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(), fmt, exif=exif.tobytes())
    stored = photo() if fmt in {"PNG", "TIFF"} else None
    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert wanted.size == ((32, 48) if orientation > 4 else (48, 32))
    assert difference(pixels(data), np.asarray(wanted)) <= 1
    assert (decode(data).width, decode(data).height) == (48, 32)
    if stored is not None and orientation == 6:
        assert difference(pixels(data), np.asarray(stored.transpose(Image.Transpose.ROTATE_270))) == 0


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_orientation_in_xmp_alone(orientation):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>' % orientation
    data = encoded(photo(), "JPEG", xmp=xmp)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert difference(pixels(data), wanted) <= 1


@pytest.mark.parametrize("fmt", ["PNG", "WEBP", "JPEG"])
def test_garbage_in_exif_costs_nothing(fmt):
    data = encoded(photo(), fmt, exif=b"Exif\0\0" + random.Random(0).randbytes(200))
    assert difference(pixels(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))) <= 1


def over_white(rgba: Image.Image) -> np.ndarray:
    colour, alpha = np.asarray(rgba)[..., :3].astype(float), np.asarray(rgba)[..., 3:].astype(float) / 255
    return np.rint(colour * alpha + 255 * (1 - alpha))


@pytest.mark.parametrize("fmt", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_laid_over_white(fmt):
    image = photo()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    data = encoded(image, fmt, **({"lossless": True, "exact": True} if fmt == "WEBP" else {}))
    assert difference(pixels(data), over_white(image)) <= 1


def test_other_kinds_of_transparency():
    alpha = Image.linear_gradient("L").resize((48, 32))
    grey = Image.merge("LA", (photo().convert("L"), alpha))
    assert difference(pixels(encoded(grey, "PNG")), over_white(grey.convert("RGBA"))) <= 1
    palette = photo().quantize(8)
    data = encoded(palette, "PNG", transparency=bytes([0, 128, 255]))
    assert difference(pixels(data), over_white(Image.open(io.BytesIO(data)).convert("RGBA"))) <= 1
    data = encoded(palette, "GIF", transparency=2)
    assert difference(pixels(data), over_white(Image.open(io.BytesIO(data)).convert("RGBA"))) <= 1
    colour = Image.new("RGB", (4, 4), (1, 2, 3))
    assert pixels(encoded(colour, "PNG", transparency=(1, 2, 3))).min() == 255
    assert pixels(encoded(colour, "PNG", transparency=(9, 9, 9))).max() == 3
    assert pixels(encoded(Image.new("L", (4, 4), 7), "PNG", transparency=7)).min() == 255
    assert pixels(encoded(Image.new("1", (4, 4), 0), "PNG", transparency=0)).min() == 255


def test_one_bit():
    bits = photo().convert("1")
    assert difference(pixels(encoded(bits, "PNG")), np.asarray(bits.convert("RGB"))) == 0


@pytest.mark.parametrize("fmt", ["PNG", "TIFF", "JPEG2000"])
def test_sixteen_bits_become_eight(fmt):
    deep = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    shown = pixels(encoded(Image.fromarray(deep), fmt))
    assert difference(shown, np.stack([deep / 257] * 3, -1)) <= 1
    assert abs(shown.mean() - deep.mean() / 257) < 0.6


def test_a_transparent_value_in_sixteen_bits():
    deep = np.array([[1000, 2000]], np.uint16)
    assert pixels(encoded(Image.fromarray(deep), "PNG", transparency=1000))[0, :, 0].tolist() == [255, 8]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (np.array([[0, 32768, 65535]], np.int32), [0, 128, 255]),
        (np.array([[-10, 0, 10]], np.int32), [0, 128, 255]),
        (np.array([[0, 500_000, 1_000_000]], np.int32), [0, 128, 255]),
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 0.25, 0.5]], np.float32), [0, 64, 128]),
        (np.array([[0.0, 100.0, 200.0]], np.float32), [0, 100, 200]),
        (np.array([[-1.0, 0.0, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[np.nan, np.inf, 1.0]], np.float32), [0, 255, 255]),
        (np.array([[np.nan, -np.inf]], np.float32), [0, 0]),
        (np.array([[-3e38, 0.0, 3e38]], np.float32), [0, 128, 255]),
        (np.array([[7.0, 7.0]], np.float32), [7, 7]),
        (np.array([[-7.0, -7.0]], np.float32), [0, 0]),
    ],
)
def test_deep_greys(values, shown):
    data = encoded(Image.fromarray(values), "TIFF")
    assert pixels(data)[0, :, 0].tolist() == shown


@pytest.mark.parametrize(
    ("mode", "fmt"), [("CMYK", "TIFF"), ("CMYK", "JPEG"), ("YCbCr", "TIFF"), ("YCbCr", "JPEG"), ("LAB", "TIFF")]
)
def test_other_colour_spaces(mode, fmt):
    image = photo().convert(mode) if mode != "LAB" else lab(photo())
    data = encoded(image, fmt)
    assert difference(pixels(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))) <= 3


def lab(image: Image.Image) -> Image.Image:
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "RGB", "LAB"))


@pytest.mark.parametrize("fmt", ["GIF", "WEBP", "PNG", "TIFF", "AVIF", "MPO"])
def test_animations_show_their_first_frame(fmt):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]
    shown = pixels(encoded(frames[0], fmt, save_all=True, append_images=frames[1:]))
    assert shown.shape == (32, 32, 3)
    assert difference(shown[8:24, 8:24], np.asarray(frames[0])[8:24, 8:24]) <= 4


def test_strips_make_no_difference(monkeypatch):
    image = photo(100, 77)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    deep = np.arange(100 * 77, dtype=np.int32).reshape(77, 100) * 1000
    files = [encoded(image, "PNG"), encoded(image.quantize(20), "PNG"), encoded(Image.fromarray(deep), "TIFF")]
    whole = [pixels(data) for data in files]
    monkeypatch.setattr("pipeline.stages.decode._STRIP_PIXELS", 1000)
    for data, wanted in zip(files, whole, strict=True):
        assert difference(pixels(data), wanted) == 0


def test_the_largest_picture_allowed():
    width = 30_000
    assert refusal(encoded(Image.new("1", (width, MAX_PIXELS // width + 1)), "PNG")) == Reason.TOO_LARGE


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([{}, {"progressive": True}, {"restart_marker_rows": 1}]), st.data())
def test_damaged_jpegs_fare_as_with_pillow(options, data):
    """TorchCodec decodes them, and neither shows more nor less than Pillow would."""
    whole = jpeg(1, (96, 64), **options)
    damaged = bytearray(whole[: data.draw(st.integers(1, len(whole)))])
    for at in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=3)):
        damaged[at] ^= data.draw(st.integers(1, 255))
    shown = as_pillow_shows_it(bytes(damaged))
    if shown is None:
        refusal(bytes(damaged))
    elif shown[1] is not None:
        assert difference(pixels(bytes(damaged)), shown[1]) <= 3


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "JPEG2000", "ICO", "TGA", "PCX"]), st.data())
def test_no_damage_raises_anything_else(fmt, data):
    damaged = bytearray(encoded(photo(), fmt))
    for at in data.draw(st.lists(st.integers(0, min(len(damaged) - 1, 400)), min_size=1, max_size=8)):
        damaged[at] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(damaged[: data.draw(st.integers(1, len(damaged)))]))
    except ImageError as error:
        Reason(error.reason)  # a ValueError where it is none


# -- fast decoding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(("size", "fast_to_px", "shorter"), [((1600, 1000), 256, 500), ((1600, 1000), 100, 250)])
def test_fast_decoding_keeps_enough_pixels(size, fast_to_px, shorter, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(5, size, exif=exif.tobytes())
    fast, exact = decode(data, fast_to_px=fast_to_px), decode(data)
    assert min(fast.pixels_CHW.shape[1:]) == shorter >= fast_to_px
    assert (fast.width, fast.height) == size
    geometry = Geometry(100, 96)
    one, other = crop(fast.pixels_CHW, geometry), crop(exact.pixels_CHW, geometry)
    assert abs(one.float() - other.float()).mean() < 2


def test_fast_decoding_leaves_small_and_other_pictures_alone():
    for data in (jpeg(5, (300, 200)), encoded(photo(900, 800), "PNG")):
        assert decode(data, fast_to_px=150).pixels_CHW.equal(decode(data).pixels_CHW)


# -- crops of odd shapes -------------------------------------------------------------------------------

GEOMETRIES = [
    Geometry(256, 224),
    Geometry(224, 224, "bicubic"),
    Geometry(256, 299, "bicubic"),
    Geometry(235, 224, "lanczos"),
    Geometry(96, 96, "nearest"),
    Geometry(320, 320, "bicubic", "squash"),
]


def reference_crop(image: Image.Image, geometry: Geometry) -> np.ndarray:
    size = geometry.resize_px if geometry.fit == "short" else [geometry.resize_px] * 2
    resized = reference.resize(image, size, InterpolationMode(geometry.interpolation), antialias=True)
    return np.asarray(reference.center_crop(resized, [geometry.crop_px] * 2))


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (300, 2), (3000, 200), (200, 3000), (500, 375), (17, 33)])
@pytest.mark.parametrize("elongated", [False, True])
def test_crops_are_the_reference_transform(monkeypatch, size, geometry, elongated):
    if elongated:
        monkeypatch.setattr(recipe, "_MAX_RESIZED_PIXELS", 0)
    image = photo(*size)
    made = crop(decode(encoded(image, "PNG")).pixels_CHW, geometry).permute(1, 2, 0).numpy()
    # The nearest pixel may be the one beside it where two are equally near.
    assert difference(made, reference_crop(image, geometry)) <= (40 if geometry.interpolation == "nearest" else 2)


@pytest.mark.parametrize("size", [(2, 30000), (30000, 2), (65500, 1), (1, 65500)])
def test_extreme_shapes_show_their_middle_and_cost_little(size):
    """The resized picture would have up to four billion pixels; its middle is the middle of a shorter one."""
    image = photo(*size)
    width, height = size
    left, top = max(0, width // 2 - 20), max(0, height // 2 - 20)
    middle = image.crop((left, top, left + min(width, 40), top + min(height, 40)))
    made = crop(decode(encoded(image, "PNG")).pixels_CHW, Geometry(256, 224)).permute(1, 2, 0).numpy()
    assert difference(made, reference_crop(middle, Geometry(256, 224))) <= 2


def test_large_images_wait_for_each_other_and_one_that_hangs_loses_the_lock(monkeypatch):
    lock, entered, left, free = LargeImageLock(), [], [], threading.Event()

    @contextlib.contextmanager
    def waiting():
        yield
        left.append(len(entered))

    def large(number: int) -> None:
        with lock.acquire(waiting):
            entered.append(number)
            if number == 0:
                free.wait(60)

    first = threading.Thread(target=large, args=(0,))
    first.start()
    while not entered:
        time.sleep(0.01)
    second = threading.Thread(target=large, args=(1,))
    second.start()
    second.join(0.3)
    assert entered == [0], "one at a time"
    monkeypatch.setattr("pipeline.stages.limits.DECODE_TIMEOUT_S", 0.1)
    third = threading.Thread(target=large, args=(2,))
    third.start()
    third.join(20)
    assert entered[:2] == [0, 2], "the one inside has been there for too long"
    assert first.is_alive()
    free.set()
    for thread in (first, second):
        thread.join(20)
    assert sorted(entered) == [0, 1, 2]
    assert left[:2] == [0, 1], "the time of waiting ends where the lock is held"


def test_a_torchcodec_that_does_not_load_is_a_wrong_request(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)  # an import of it fails
    again = importlib.util.spec_from_file_location("decode_again", decode_module.__file__)
    with pytest.raises(RequestError, match=r"TorchCodec cannot be loaded: .*; install"):
        again.loader.exec_module(importlib.util.module_from_spec(again))
