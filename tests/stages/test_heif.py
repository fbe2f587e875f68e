"""HEIC: the primary picture, whatever else the file holds, with its transparency; and a libheif that is missing."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED, jpeg
from small_jobs import options, rows

import pipeline
from pipeline.errors import ImageError
from pipeline.records import Reason
from pipeline.stages import decode as decode_module
from pipeline.stages import heif
from pipeline.stages.decode import decode

NASTY = SHARED / "data" / "nasty"
SEVERAL = "wrongext_c-heic-as-jpg.jpg"  # pictures 1 and 6 of 64 x 64, 9 of 96 x 64, grids of them as thumbnails
ALPHA = b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0"


def pixels(data: bytes) -> np.ndarray:
    """(H, W, 3)."""
    return decode(data).pixels_CHW.permute(1, 2, 0).numpy()


def refusal(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data)
    return caught.value


def box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def full(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


@pytest.fixture
def photo(shared) -> tuple[bytes, bytes]:
    """The HEVC settings (hvcC) and the HEVC data of a photograph of 128 x 128."""
    data = (shared / "data" / "nasty" / "heic_heif-RGB-8-128x128.heif").read_bytes()
    found = {}
    for kind in (b"hvcC", b"mdat"):
        at = data.index(kind)
        found[kind] = data[at + 4 : at - 4 + int.from_bytes(data[at - 4 : at], "big")]
    return found[b"hvcC"], found[b"mdat"]


def make(photo, *, primary=1, auxiliary=ALPHA, premultiplied=False, boxes=b"") -> bytes:
    """A HEIC of two pictures, the second of which may be auxiliary to the first: with ALPHA its transparency."""
    settings, picture = photo
    properties = [box(b"hvcC", settings), full(b"ispe", 0, 0, struct.pack(">II", 128, 128))]
    properties += [full(b"auxC", 0, 0, auxiliary)] if auxiliary else []
    associations = struct.pack(">IHBBBHB", 2, 1, 2, 0x81, 2, 2, len(properties)) + bytes(
        [0x81, 2, 0x83][: len(properties)]
    )
    infos = [full(b"infe", 2, 0, struct.pack(">HH4sB", number, 0, b"hvc1", 0)) for number in (1, 2)]
    references = [box(b"auxl", struct.pack(">HHH", 2, 1, 1))] if auxiliary else []
    references += [box(b"prem", struct.pack(">HHH", 1, 1, 2))] if premultiplied else []

    def meta(offset: int) -> bytes:
        extents = b"".join(struct.pack(">HHHII", n, 0, 1, offset, len(picture)) for n in (1, 2))
        return full(
            b"meta",
            0,
            0,
            full(b"hdlr", 0, 0, struct.pack(">I4s12xB", 0, b"pict", 0)),
            full(b"pitm", 0, 0, struct.pack(">H", primary)),
            full(b"iloc", 0, 0, b"\x44\x00", struct.pack(">H", 2), extents),
            full(b"iinf", 0, 0, struct.pack(">H", 2), *infos),
            box(b"iprp", box(b"ipco", *properties), full(b"ipma", 0, 0, associations)),
            full(b"iref", 0, 0, *references) if references else b"",
        )

    head = box(b"ftyp", b"heic", bytes(4), b"mif1heic") + boxes
    return head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", picture)


@pytest.mark.parametrize(("number", "size"), [(1, (64, 64)), (6, (64, 64)), (9, (96, 64))])
def test_the_primary_picture_is_labelled_whichever_it_is_and_however_large_the_others_are(shared, number, size):
    data = bytearray((shared / "data" / "nasty" / SEVERAL).read_bytes())
    at = data.index(b"pitm") + 8
    assert data[at : at + 2] == b"\0\x06"
    data[at : at + 2] = struct.pack(">H", number)
    decoded = decode(bytes(data))
    assert (decoded.width, decoded.height) == size
    others = [decode(bytes(data[:at] + struct.pack(">H", other) + data[at + 2 :])) for other in {1, 6, 9} - {number}]
    for other in others:
        assert other.pixels_CHW.shape != decoded.pixels_CHW.shape or not other.pixels_CHW.equal(decoded.pixels_CHW)


def test_transparency_is_laid_over_white(photo):
    plain, clear = pixels(make(photo, auxiliary=b"")), pixels(make(photo))
    grey = plain @ [0.299, 0.587, 0.114]  # the luma of the same picture, as alpha
    wanted = plain * (grey[..., None] / 255) + 255 - grey[..., None]
    assert np.abs(clear - wanted).mean() < 3
    assert np.abs(clear - plain.astype(float)).mean() > 20
    multiplied = pixels(make(photo, premultiplied=True))
    assert np.abs(multiplied - np.minimum(255, plain + (255 - grey[..., None]))).mean() < 3


def test_a_depth_map_is_no_transparency(photo):
    depth = pixels(make(photo, auxiliary=b"urn:mpeg:mpegB:cicp:systems:auxiliary:depth\0"))
    assert np.array_equal(depth, pixels(make(photo, auxiliary=b"")))


def test_only_the_primary_picture_stays_visible_and_a_plain_file_is_not_touched(photo, shared):
    two = make(photo, auxiliary=b"")
    changed = heif.read_primary(two).data
    assert [one ^ other for one, other in zip(two, changed, strict=True) if one != other] == [1]
    plain = (shared / "data" / "nasty" / "heic_heif-RGB-8-128x128.heif").read_bytes()
    assert heif.read_primary(plain).data is plain


def test_what_is_no_picture(photo):
    assert refusal(make(photo, primary=7)).reason == Reason.CORRUPT_IMAGE
    sequence = box(b"ftyp", b"hevc", bytes(4), b"msf1hevc") + box(b"moov", bytes(20))
    assert refusal(sequence).reason == Reason.UNSUPPORTED_FORMAT
    assert refusal(box(b"ftyp", b"heic", bytes(4), b"heic")).reason == Reason.CORRUPT_IMAGE
    sound = make(photo)
    for end in range(30, 480, 7):
        assert refusal(sound[:end]).reason in {Reason.CORRUPT_IMAGE, Reason.TRUNCATED_IMAGE}


NO_LIBHEIF = ImportError("Failed to load the HEIC decoding library. HEIC decoding requires libheif")
NO_PLUGIN = RuntimeError(
    "/x/DecodeHeic.cpp:99, heif_decode_image failed at frame 0: Unsupported feature: Unsupported codec"
)


@pytest.mark.parametrize("error", [NO_LIBHEIF, NO_PLUGIN], ids=["no libheif", "no decoder of HEVC"])
def test_without_libheif_the_package_is_named_and_the_job_goes_on(error, photo, sample_data, tmp_path, monkeypatch):
    def fails(*_args, **_options):
        raise error

    monkeypatch.setattr(decode_module, "decode_heic", fails)
    images = tmp_path / "images"
    images.mkdir()
    for number in range(3):
        Path(images / f"{number}.jpg").write_bytes(jpeg(number))
    Path(images / "1.heic").write_bytes(make(photo, auxiliary=b""))
    summary = pipeline.label([str(images)], out=str(tmp_path / "out"), **options(sample_data))
    assert (summary.labelled, summary.quarantined) == (3, 1)
    (row,) = rows(tmp_path / "out", "quarantine").to_pylist()
    assert (row["key"], row["stage"], row["reason"]) == ("1.heic", "decode", "unsupported_format")
    assert "libheif1" in row["message"]
    assert "libheif-plugin-libde265" in row["message"]
