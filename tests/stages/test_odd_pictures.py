"""Pictures that decoders read otherwise than they are meant, and sound files of kinds that are not decoded."""

from __future__ import annotations

import io
import struct
import zlib
from base64 import b64decode

import numpy as np
import pytest
from conftest import jpeg
from PIL import Image, PngImagePlugin

from pipeline.errors import ImageError
from pipeline.records import Reason
from pipeline.stages import decode as decode_module
from pipeline.stages.decode import decode

WIDTH, HEIGHT = 40, 30
COLOURS = np.random.default_rng(5).integers(1, 250, (HEIGHT, WIDTH, 3), dtype=np.uint8)
NOTHING = np.zeros((HEIGHT, WIDTH, 1), np.uint8)
HALF = np.where(np.arange(WIDTH) < 15, 0, 255).astype(np.uint8)[None, :, None].repeat(HEIGHT, 0)


def pixels(data: bytes) -> np.ndarray:
    """(H, W, 3)."""
    return decode(data).pixels_CHW.permute(1, 2, 0).numpy()


def refusal(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data)
    return caught.value


def over_white(alpha: np.ndarray) -> np.ndarray:
    return np.where(alpha > 0, COLOURS, 255)


def encoded(image: Image.Image, fmt: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


# -- alpha that is 0 throughout ------------------------------------------------------------------------


def bgra(alpha: np.ndarray) -> np.ndarray:
    return np.concatenate([COLOURS[..., ::-1], alpha], -1)


def tga(data: bytes, *, bits: int = 32, kind: int = 2, descriptor: int = 0x28) -> bytes:
    return struct.pack("<BBBHHBHHHHBB", 0, 0, kind, 0, 0, 0, 0, 0, WIDTH, HEIGHT, bits, descriptor) + data


def bmp(header_bytes: int, alpha: np.ndarray) -> bytes:
    """A BMP of 32 bits that is stored from the top, with a mask for alpha."""
    data = bgra(alpha).tobytes()
    head = struct.pack("<IiiHHIIiiII", header_bytes, WIDTH, -HEIGHT, 1, 32, 3, len(data), 2835, 2835, 0, 0)
    head += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = head.ljust(header_bytes, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(data), 0, 0, 14 + len(head)) + head + data


def icon(alpha: np.ndarray, left_out: np.ndarray | None = None, kind: int = 1) -> bytes:
    """An icon of 32 bits, or a cursor, with a mask of what is left out."""
    mask = np.zeros((HEIGHT, WIDTH), bool) if left_out is None else left_out
    rows = np.packbits(np.pad(mask[::-1], ((0, 0), (0, -WIDTH % 32))), axis=1).tobytes()
    data = bgra(alpha)[::-1].tobytes()
    picture = struct.pack("<IiiHHIIiiII", 40, WIDTH, 2 * HEIGHT, 1, 32, 0, len(data), 0, 0, 0, 0) + data + rows
    return struct.pack("<HHHBBBBHHII", 0, kind, 1, WIDTH, HEIGHT, 0, 0, 1, 32, len(picture), 22) + picture


@pytest.mark.parametrize(
    "make",
    [
        lambda alpha: tga(bgra(alpha).tobytes()),
        lambda alpha: tga(bgra(alpha).tobytes(), descriptor=0x20),
        lambda alpha: tga(bgra(alpha)[::-1].tobytes(), descriptor=0x08),
        lambda alpha: tga(b"".join(bytes([WIDTH - 1]) + row.tobytes() for row in bgra(alpha)), kind=10),
        lambda alpha: bmp(56, alpha),
        lambda alpha: bmp(108, alpha),
        lambda alpha: bmp(124, alpha),
        lambda alpha: icon(alpha),
    ],
    ids=["TGA", "TGA without depth of alpha", "TGA from below", "TGA in runs", "BMP V3", "BMP V4", "BMP V5", "ICO"],
)
def test_where_alpha_is_nothing_throughout_it_means_nothing(make):
    assert np.array_equal(pixels(make(NOTHING)), COLOURS)
    assert np.array_equal(pixels(make(HALF)), over_white(HALF))


def test_in_other_formats_what_is_transparent_throughout_is_white():
    clear = Image.fromarray(np.concatenate([COLOURS, NOTHING], -1))
    for fmt, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        assert pixels(encoded(clear, fmt, **options)).min() == 255


def test_an_icon_without_alpha_has_a_mask():
    mask = HALF[..., 0] == 0
    assert np.array_equal(pixels(icon(NOTHING, mask)), over_white(HALF))
    assert np.array_equal(pixels(icon(HALF, ~mask)), over_white(HALF)), "alpha counts where there is some"


def test_a_grey_targa_and_one_of_sixteen_bits():
    grey = COLOURS[..., 0]
    data = tga(np.stack([grey, NOTHING[..., 0]], -1).tobytes(), bits=16, kind=3)
    assert np.array_equal(pixels(data), np.stack([grey] * 3, -1))
    five = (COLOURS >> 3).astype(int)
    packed = (five[..., 0] << 10 | five[..., 1] << 5 | five[..., 2] | 0x8000).astype("<u2")
    shown = pixels(tga(packed.tobytes(), bits=16, descriptor=0x21))
    assert np.abs(shown - five * 255 / 31).max() <= 4


# -- first frames --------------------------------------------------------------------------------------

PALETTE = np.random.default_rng(6).integers(0, 250, (256, 3), dtype=np.uint8)
INDEX = np.random.default_rng(7).integers(0, 255, (12, 20), dtype=np.uint8)


def gif(*, left=8, top=6, clear=None, palette=True, index=INDEX, background=255) -> bytes:
    """A GIF whose first frame lies somewhere on its canvas; pixels are stored with 9 bits, as they are."""
    codes = [256]
    for number, value in enumerate(index.ravel()):
        codes += [256, int(value)] if number and number % 200 == 0 else [int(value)]
    bits = "".join(f"{code:09b}"[::-1] for code in [*codes, 257])
    body = bytes(int(bits[at : at + 8][::-1], 2) for at in range(0, len(bits), 8))
    blocks = b"".join(bytes([len(body[at : at + 255])]) + body[at : at + 255] for at in range(0, len(body), 255))
    control = b"\x21\xf9\x04" + struct.pack("<BHB", clear is not None, 10, clear or 0) + b"\0"
    height, width = index.shape
    head = b"GIF89a" + struct.pack("<HHBBB", WIDTH, HEIGHT, 0xF7 if palette else 0, background, 0)
    head += PALETTE.tobytes() if palette else b""
    place = struct.pack("<BHHHHB", 0x2C, left, top, width, height, 0)
    return head + control + place + b"\x08" + blocks + b"\0;"


def on_canvas(part: np.ndarray, left: int = 8, top: int = 6) -> np.ndarray:
    canvas = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
    return canvas


def test_around_the_first_frame_of_a_gif_is_nothing():
    for options in ({}, {"clear": 255}, {"background": 3}, {"left": 0, "top": 0}, {"left": 20, "top": 18}):
        wanted = on_canvas(PALETTE[INDEX], options.get("left", 8), options.get("top", 6))
        assert np.array_equal(pixels(gif(**options)), wanted), options
    assert np.array_equal(pixels(gif(palette=False)), on_canvas(np.stack([INDEX] * 3, -1)))
    full = np.random.default_rng(8).integers(0, 255, (HEIGHT, WIDTH), dtype=np.uint8)
    assert np.array_equal(pixels(gif(left=0, top=0, index=full)), PALETTE[full])


@pytest.mark.parametrize("flags", [0x02, 0x12], ids=["without alpha", "with alpha"])
@pytest.mark.parametrize("background", [b"\0\0\0\0", b"\0\0\xff\xff"], ids=["clear", "red"])
def test_around_the_first_frame_of_a_webp_is_nothing(flags, background):
    part = COLOURS[6:18, 8:28]

    def number(value: int) -> bytes:
        return struct.pack("<I", value)[:3]

    def frame(left: int, top: int, picture: np.ndarray) -> bytes:
        place = number(left // 2) + number(top // 2) + number(picture.shape[1] - 1) + number(picture.shape[0] - 1)
        return place + number(100) + b"\0" + encoded(Image.fromarray(picture), "WEBP", lossless=True)[12:]

    size = number(WIDTH - 1) + number(HEIGHT - 1)
    chunks = [(b"VP8X", bytes([flags, 0, 0, 0]) + size), (b"ANIM", background + b"\0\0")]
    chunks += [(b"ANMF", frame(8, 6, part)), (b"ANMF", frame(0, 0, COLOURS))]
    body = b"".join(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks)
    shown = pixels(b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body)
    assert np.array_equal(shown, on_canvas(part))


# -- depths --------------------------------------------------------------------------------------------


def png(depth: int, kind: int, rows: list[bytes], *chunks: tuple[bytes, bytes]) -> bytes:
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, kind, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    every = [(b"IHDR", head), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in every
    )


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("clear", [0, 1])
def test_a_transparent_grey_of_few_bits(depth, clear):
    grey = COLOURS[..., 0] >> (8 - depth)
    bits = (grey[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    rows = [row.tobytes() for row in np.packbits(bits.astype(np.uint8).reshape(HEIGHT, -1), axis=1)]
    wanted = np.where(grey == clear, 255, grey * (255 // (2**depth - 1)))
    assert np.array_equal(pixels(png(depth, 0, rows, (b"tRNS", struct.pack(">H", clear))))[..., 0], wanted)


def test_a_transparent_colour_of_sixteen_bits():
    deep = COLOURS.astype(">u2") * 256 + 7
    deep[:, :20] = (0x1234, 0x5678, 0x9ABC)
    data = png(
        16, 2, [row.astype(">u2").tobytes() for row in deep], (b"tRNS", struct.pack(">HHH", 0x1234, 0x5678, 0x9ABC))
    )
    shown = pixels(data)
    assert shown[:, :20].min() == 255
    assert np.array_equal(shown[:, 20:], COLOURS[:, 20:])


# JPEG 2000 of 4 x 4 pixels, three colours of 16 bits: white beside 25700, and 51400 beside it.
WHITE_16 = (
    "/0//UQAvAAAAAAAEAAAABAAAAAAAAAAAAAAABAAAAAQAAAAAAAAAAAADDwEBDwEBDwEB/1IADAAAAAEBAAQEAAH/XAAEQID/ZAAlAAFDcmVh"
    "dGVkIGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjT/kAAKAAAAAAAqAAH/k8/8MFgT/0jX6OQ3QAE/6j6A1I8IpIa2wakdgID/2Q=="
)
GREY_16 = (
    "/0//UQAvAAAAAAAEAAAABAAAAAAAAAAAAAAABAAAAAQAAAAAAAAAAAADDwEBDwEBDwEB/1IADAAAAAEBAAQEAAH/XAAEQID/ZAAlAAFDcmVh"
    "dGVkIGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjT/kAAKAAAAAAAwAAH/k8/8MHAT/0kM5zmYRAS3fAptmhWACoCPuU0Rmz7oPqB/gID/2Q=="
)


def test_jpeg_2000_of_sixteen_bits_in_colour_is_refused_where_white_and_black_are_one():
    error = refusal(b64decode(WHITE_16))
    assert (error.reason, error.message) == (
        Reason.UNSUPPORTED_FORMAT,
        "JPEG 2000 of 16 bits in colour is not supported",
    )
    assert np.abs(pixels(b64decode(GREY_16))[0, :, 0].astype(int) - [200, 200, 100, 100]).max() <= 1


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_jpeg_2000_of_few_bits_reaches_white(depth):
    data = bytearray(encoded(Image.new("L", (8, 8), 128), "JPEG2000", no_jp2=True))
    at = data.index(b"\xff\x4f\xff\x51") + 42
    data[at] = depth - 1  # 128 is stored as 0, which is the middle of any depth
    most = 2**depth - 1
    assert abs(int(pixels(bytes(data)).max()) - 255 * (2 ** (depth - 1)) / most) <= 1


# -- sound, and not decoded ----------------------------------------------------------------------------


PSD = b"8BPS\0\1" + bytes(6)


def frame_header(marker: int, bits: int, components: int = 3) -> bytes:
    """The beginning of a JPEG: application data, then the header of its frame."""
    body = struct.pack(">BHHB", bits, HEIGHT, WIDTH, components) + b"".join(
        bytes([number, 0x11, 0]) for number in range(components)
    )
    return (
        b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0\xff"
        + bytes([marker])
        + struct.pack(">H", 2 + len(body))
        + body
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (frame_header(0xC1, 12), "JPEG of 12 bits is not supported"),
        (frame_header(0xC2, 12, 1), "JPEG of 12 bits is not supported"),
        (frame_header(0xC3, 16, 1), "lossless JPEG of 16 bits is not supported"),
        (frame_header(0xC3, 12), "lossless JPEG of 12 bits is not supported"),
        (frame_header(0xC5, 8), "hierarchical JPEG is not supported"),
        (frame_header(0xF7, 8), "JPEG-LS is not supported"),
        (frame_header(0xF7, 16, 1), "JPEG-LS is not supported"),
        (frame_header(0xC0, 8, 2), "JPEG of 2 components is not supported"),
        (b"II\xbc\1" + bytes(40), "JPEG XR is not supported"),
        (b"\xff\x0a" + bytes(40), "JPEG XL is not supported"),
        (b"\x76\x2f\x31\1" + bytes(40), "OpenEXR is not supported"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\n", "Radiance HDR is not supported"),
        (b"%PDF-1.7\n", "PDF is not supported"),
        (b"PF\n1 1\n-1.0\n" + bytes(12), "PFM in colour is not supported"),
        (b"P7\nWIDTH 1\nHEIGHT 1\n", "PAM is not supported"),
        (bytes(128) + b"DICM", "DICOM is not supported"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "camera raw (CR3) is not supported"),
        (b"FUJIFILMCCD-RAW 0201", "camera raw (RAF) is not supported"),
        (b"8BPS\0\2" + bytes(40), "PSB is not supported"),
        (b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 1, 1, 16, 3), "PSD of 16 bits is not supported"),
        (
            b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 1, 1, 8, 1, 0) + bytes(20),
            "PSD in bitmap mode is not supported",
        ),
    ],
)
def test_kinds_that_are_not_decoded_are_named(data, message):
    error = refusal(data)
    assert (error.reason, error.message) == (Reason.UNSUPPORTED_FORMAT, message)


@pytest.mark.parametrize(
    "data",
    [
        frame_header(0xC0, 8),
        frame_header(0xC0, 7),
        frame_header(0xF7, 0),
        frame_header(0xC3, 16, 1)[:24],
        b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(20),
        b"\xff\xd8\xff\xff\xff\xff",
        b"8BPS\0\1",
        b"MM\0*",
    ],
)
def test_what_is_damaged_is_not_called_unsupported(data):
    assert refusal(data).reason in {Reason.CORRUPT_IMAGE, Reason.TRUNCATED_IMAGE}


def psd(num_layers: int | None) -> bytes:
    planes = np.concatenate([COLOURS, HALF], -1).transpose(2, 0, 1).tobytes()
    layers = b"" if num_layers is None else struct.pack(">Ih", 2, num_layers)
    head = PSD + struct.pack(">HIIHH", 4, HEIGHT, WIDTH, 8, 3) + bytes(8)
    return head + struct.pack(">I", len(layers)) + layers + b"\0\0" + planes


def test_the_fourth_channel_of_a_psd_is_transparency_only_if_it_says_so():
    assert np.array_equal(pixels(psd(None)), COLOURS), "a selection that somebody has saved"
    assert np.array_equal(pixels(psd(0)), COLOURS)


# -- whatever a decoder raises -------------------------------------------------------------------------


class Unprintable(Exception):  # noqa: N818 - as odd as can be
    def __str__(self) -> str:
        raise RuntimeError


ODD = [AttributeError("x"), KeyError(5), RecursionError("deep"), SystemError("error return without exception set")]
ODD += [struct.error("unpack"), UnicodeDecodeError("ascii", b"\xff", 0, 1, "bad"), StopIteration(), AssertionError()]
ODD += [
    ImportError("no codec"),
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
]
ODD += [
    NotImplementedError(),
    ZeroDivisionError(),
    OSError(5, "I/O"),
    Unprintable(),
    ExceptionGroup("two", [ValueError()]),
]


@pytest.mark.parametrize("error", ODD, ids=lambda error: type(error).__name__)
def test_no_exception_of_a_decoder_ends_a_job(error, monkeypatch):
    def fails(*_args, **_options):
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fails)
    refused = refusal(encoded(Image.fromarray(COLOURS), "PNG"))
    wanted = {MemoryError: Reason.TOO_LARGE, RuntimeError: Reason.TOO_LARGE, ImportError: Reason.UNSUPPORTED_FORMAT}
    wanted[NotImplementedError] = Reason.UNSUPPORTED_FORMAT
    assert refused.reason == wanted.get(type(error), Reason.CORRUPT_IMAGE)
    assert refused.message
    assert "\n" not in refused.message
    monkeypatch.setattr(decode_module, "decode_jpeg", fails)
    assert decode(jpeg(1)).pixels_CHW.shape == (3, 48, 64), "Pillow decodes what TorchCodec does not"


def test_what_stops_a_process_still_stops_it(monkeypatch):
    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", interrupted)
    with pytest.raises(KeyboardInterrupt):
        decode(encoded(Image.fromarray(COLOURS), "PNG"))
