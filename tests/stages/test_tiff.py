"""TIFFs of every kind: the picture that is meant, or no picture."""

from __future__ import annotations

import io
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from tiffs import HEIGHT, WIDTH, Kind, encode, every_kind, meaning, shown, write

from pipeline.errors import ImageError
from pipeline.records import Reason
from pipeline.stages.decode import decode

COLOUR = {258: (8, 8, 8), 259: (1,), 262: (2,), 277: (3,), 284: (1,)}


def pixels(data: bytes) -> np.ndarray:
    """(H, W, 3)."""
    return decode(data).pixels_CHW.permute(1, 2, 0).numpy().astype(float)


def refusal(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data)
    return caught.value


def picture(seed: int, size=(WIDTH, HEIGHT)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


def page(image: np.ndarray, **tags) -> tuple[dict, list[bytes]]:
    more = {int(name[1:]): value for name, value in tags.items()}
    return COLOUR | more | {"size": (image.shape[1], image.shape[0])}, [image.tobytes()]


def test_every_kind_that_pillow_opens_is_shown_as_it_is_meant_or_refused():
    outcomes: Counter[str] = Counter()
    wrong = []
    for kind in every_kind():
        try:
            seen = pixels(encode(kind))
        except ImageError as error:
            outcomes[error.reason] += 1
            continue
        wanted = shown(kind)
        if wanted is not None and (seen.shape != wanted.shape or np.abs(seen - wanted).max() > 4):
            wrong.append(kind)
        outcomes["shown"] += 1
    assert wrong == []
    assert outcomes["shown"] > 5 * outcomes[Reason.UNSUPPORTED_FORMAT]
    assert outcomes["shown"] > 400
    assert outcomes[Reason.CORRUPT_IMAGE] <= 8, "YCbCr of one sample, which libtiff refuses"


@pytest.mark.parametrize(
    "kind",
    [
        Kind(b"II", 0, 1, 1, (16,), ()),
        Kind(b"II", 0, 1, 1, (16,), (), compression=8),
        Kind(b"II", 0, 3, 1, (32,), ()),
        Kind(b"MM", 0, 3, 1, (32,), (), compression=8),
        Kind(b"II", 1, 1, 1, (32,), ()),
        Kind(b"II", 1, 1, 1, (12,), ()),
        Kind(b"MM", 1, 3, 1, (32,), (), compression=8),
        Kind(b"MM", 1, 2, 1, (16,), (), compression=8),
        Kind(b"MM", 1, 2, 1, (32,), (), compression=8),
        Kind(b"II", 0, 1, 1, (8,), (), planar=2),
        Kind(b"II", 2, 1, 1, (16, 16, 16), (), planar=2),
        Kind(b"MM", 2, 1, 1, (16, 16, 16), (), planar=2),
        Kind(b"II", 2, 1, 1, (16, 16, 16, 16), (2,), planar=2),
        Kind(b"II", 2, 1, 1, (8, 8, 8, 8), (1,), planar=2),
        Kind(b"II", 5, 1, 1, (16, 16, 16, 16), (), planar=2),
        Kind(b"II", 3, 1, 2, (4,), (), planar=2),
    ],
)
def test_kinds_that_pillow_alone_gets_wrong(kind):
    assert np.abs(pixels(encode(kind)) - shown(kind)).max() <= 4


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Kind(b"II", 2, 3, 1, (32, 32, 32), ()), "TIFF of 3 x 32-bit floating-point, RGB is not supported"),
        (Kind(b"MM", 0, 1, 1, (16,), ()), "big-endian TIFF of 1 x 16-bit unsigned, white is zero is not supported"),
        (Kind(b"II", 1, 1, 1, (10,), ()), "TIFF of 1 x 10-bit unsigned, black is zero is not supported"),
        (Kind(b"II", 1, 1, 1, (8,) * 7, (0,) * 6), "TIFF of 7 x 8-bit unsigned, black is zero is not supported"),
        (Kind(b"II", 1, 2, 1, (8,), ()), "TIFF with signed 8-bit samples is not supported"),
        (Kind(b"II", 1, 1, 1, (8, 8), (2,), planar=2), "TIFF in 2 planes with transparency is not supported"),
        (Kind(b"II", 2, 1, 1, (8, 8, 8, 8), (0,), planar=2), "TIFF in 4 planes is not supported"),
    ],
)
def test_kinds_that_nobody_reads_are_named(kind, message):
    error = refusal(encode(kind))
    assert (error.reason, error.message) == (Reason.UNSUPPORTED_FORMAT, message)


def test_other_kinds_are_named_and_damage_is_damage():
    image = picture(1)
    assert refusal(write([page(image, _259=(34712,))])).message == "TIFF in compression JPEG 2000 is not supported"
    assert refusal(write([page(image, _259=(50001,))])).message == "TIFF in compression WebP is not supported"
    assert refusal(b"MM\0+" + bytes(60)).message == "big-endian BigTIFF is not supported"
    sound = write([page(image)])
    assert pixels(sound).tolist() == image.tolist()
    for damaged in (sound[:-100], sound[:4] + b"\xff" * 4 + sound[8:], b"II*\0" + bytes(50)):
        assert refusal(damaged).reason in {Reason.CORRUPT_IMAGE, Reason.TRUNCATED_IMAGE}


def test_a_palette_of_eight_bits_in_sixteen():
    colours = picture(2, (16, 1))[0]
    index = np.arange(WIDTH * HEIGHT, dtype=np.uint8).reshape(HEIGHT, WIDTH) % 16
    padded = np.zeros((256, 3), int)
    padded[:16] = colours
    tags = {258: (8,), 259: (1,), 262: (3,), 277: (1,), 284: (1,), 320: tuple(map(int, padded.T.ravel()))}
    assert pixels(write([(tags, [index.tobytes()])])).tolist() == colours[index].tolist()


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2), None])
def test_chroma_of_other_sizes_without_compression(subsampling):
    columns, rows = subsampling or (2, 2)
    luma = np.arange(WIDTH * HEIGHT).reshape(HEIGHT, WIDTH) % 200 + 20
    blocks = luma.reshape(HEIGHT // rows, rows, WIDTH // columns, columns).swapaxes(1, 2).reshape(-1, rows * columns)
    stored = np.concatenate([blocks, np.full((len(blocks), 2), 128)], 1).astype(np.uint8)
    tags = COLOUR | {262: (6,)} | ({530: subsampling} if subsampling else {})
    assert np.abs(pixels(write([(tags, [stored.tobytes()])])) - luma[..., None]).max() <= 1


def test_the_picture_behind_its_thumbnail():
    full, thumbnail = picture(1), picture(2, (8, 6))
    first, plain = page(thumbnail, _254=(1,)), page(full)
    for pages, wanted in (
        ([first, plain], full),
        ([first, first, plain], full),
        ([page(thumbnail, _255=(2,)), plain], full),
        ([page(thumbnail, _254=(4,)), plain], full),
        ([plain, first], full),
        ([page(thumbnail), plain], thumbnail),
        ([first], thumbnail),
    ):
        decoded = decode(write(pages))
        assert (decoded.height, decoded.width) == wanted.shape[:2]
        assert decoded.pixels_CHW.permute(1, 2, 0).numpy().tolist() == wanted.tolist()


def test_raw_files_of_cameras_are_not_their_thumbnails():
    thumbnail = picture(2, (8, 6))
    for data in (
        write([page(thumbnail, _254=(1,), _330=(8, 8))]),
        write([page(thumbnail, _50706=(1, 4, 0, 0))]),
        write([page(thumbnail, _254=(1,)), page(picture(1), _262=(32803,))]),
        write([({258: (16,), 259: (1,), 262: (32803,), 277: (1,), 284: (1,)}, [bytes(2 * WIDTH * HEIGHT)])]),
    ):
        assert refusal(data).reason == Reason.UNSUPPORTED_FORMAT


@pytest.mark.parametrize(
    ("stored", "values", "grey"),
    [
        ("i4", [0, 100, 200], [0, 100, 200]),
        ("u4", [3, 100, 255], [3, 100, 255]),
        ("i2", [3, 100, 255], [3, 100, 255]),
        ("i4", [0, 256, 25700], [0, 1, 100]),
        ("u4", [0, 32768, 65535], [0, 128, 255]),
        ("i2", [0, 256, 16384], [0, 2, 128]),
        ("u4", [2**28, 2**30, 2**31], [16, 64, 128]),
        ("u4", [0, 2**31, 2**32 - 1], [0, 128, 255]),
        ("i4", [0, 2**29, 2**30], [0, 64, 128]),
        ("i4", [-(2**30), 0, 2**30], [64, 128, 191]),
        ("i4", [-(2**31), 0, 2**31 - 1], [0, 128, 255]),
        ("u4", [0, 65536, 131072], [0, 128, 255]),
        ("i4", [-1000, 0, 1000], [0, 128, 255]),
        ("i2", [-1000, 0, 1000], [0, 128, 255]),
        ("u2", [0, 257, 25700], [0, 1, 100]),
    ],
)
@pytest.mark.parametrize("compression", [1, 8])
def test_integers_of_more_bits_than_a_picture_needs(stored, values, grey, compression):
    data = np.tile(np.array(values, f"<{stored}"), (2, 1)).tobytes()
    tags = {258: (8 * int(stored[1]),), 259: (compression,), 262: (1,), 277: (1,), 284: (1,)}
    tags[339] = (2 if stored[0] == "i" else 1,)
    file = write([(tags, [zlib.compress(data) if compression == 8 else data])], size=(3, 2))
    assert pixels(file).tolist() == [[[value] * 3 for value in grey]] * 2


def test_a_grey_picture_of_eight_bits_saved_in_thirty_two():
    gradient = Image.radial_gradient("L")
    for mode in ("I", "F"):
        file = io.BytesIO()
        gradient.convert(mode).save(file, "TIFF")
        assert pixels(file.getvalue())[..., 0].tolist() == np.asarray(gradient).tolist()


def test_a_dark_picture_of_another_format_stays_dark():
    assert pixels(b"P5\n3 1\n65535\n" + np.array([0, 100, 255], ">u2").tobytes()).max() <= 1


@pytest.mark.parametrize("orientation", [3, 6])
def test_orientation_of_what_is_read_otherwise(orientation):
    samples = (meaning(Kind(b"II", 1, 1, 1, (16,), ())) * 65535).astype("<u2")
    tags = {258: (16,), 259: (1,), 262: (0,), 274: (orientation,), 277: (1,), 284: (1,)}
    upright = np.rot90(255 - samples[..., 0] / 257, 2 if orientation == 3 else -1)
    assert np.abs(pixels(write([(tags, [samples.tobytes()])]))[..., 0] - upright).max() <= 1
