"""TIFFs of every kind that Pillow opens, and the picture that each of them means."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, TiffImagePlugin

WIDTH, HEIGHT = 32, 24
NUM_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}
ALPHA = {1, 2, 999}  # kinds of extra samples: multiplied, not multiplied, Corel's


@dataclass(frozen=True)
class Kind:
    """A kind of TIFF, as in the keys of Pillow's OPEN_INFO."""

    order: bytes
    photometric: int
    sample_format: int
    fill_order: int
    bits: tuple[int, ...]
    extra: tuple[int, ...]
    planar: int = 1
    compression: int = 1

    @property
    def endian(self) -> str:
        return "<" if self.order == b"II" else ">"

    @property
    def num_colours(self) -> int:
        return min(NUM_COLOURS[self.photometric], len(self.bits))


def every_kind() -> list[Kind]:
    return [
        Kind(order, photometric, formats[0], fill_order, bits, extra, planar, compression)
        for order, photometric, formats, fill_order, bits, extra in TiffImagePlugin.OPEN_INFO
        for planar in (1, 2)
        for compression in (1, 8)
    ]


def meaning(kind: Kind) -> np.ndarray:
    """(H, W, samples), 0-1: colours, then extra samples. Half of the alpha is 0."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    samples = np.stack([((x * (3 + i) + y * (5 - i) * 2) % 32) / 31 for i in range(len(kind.bits))], -1)
    if kind.sample_format != 3:
        most = 2 ** min(kind.bits[0], 16) - 1
        samples = np.floor(samples * most) / most
    for i, extra in enumerate(kind.extra):
        if extra in ALPHA:
            samples[..., kind.num_colours + i] = x >= 10
    return samples


def shown(kind: Kind) -> np.ndarray | None:
    """(H, W, 3), 0-255: what a person should see, over white; None for Lab, whose conversion is Pillow's."""
    samples, colours = meaning(kind), meaning(kind)[..., : kind.num_colours]
    if kind.photometric == 8:
        return None
    if kind.photometric == 3:
        picture = (palette(kind).T // 256)[np.rint(colours[..., 0] * (2 ** kind.bits[0] - 1)).astype(int)].astype(float)
    elif kind.photometric == 5:
        picture = 255 * (1 - colours[..., :3]) * (1 - colours[..., 3:4])
    elif kind.photometric == 6 and kind.num_colours == 3:
        stored = Image.fromarray(np.rint(colours * 255).astype(np.uint8), "YCbCr")
        picture = np.asarray(stored.convert("RGB")).astype(float)
    else:
        picture = np.repeat(colours, 3, -1) * 255 if kind.num_colours == 1 else colours * 255
    alphas = [samples[..., kind.num_colours + i] for i, extra in enumerate(kind.extra) if extra in ALPHA]
    if not kind.extra and kind.photometric == 2 and len(kind.bits) == 4:
        alphas = [samples[..., 3]]
    for alpha in alphas:
        picture = picture * alpha[..., None] + 255 * (1 - alpha[..., None])
    return picture


def palette(kind: Kind) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 65536, (3, 2 ** kind.bits[0]))


def encode(kind: Kind) -> bytes:
    """The file."""
    stored = meaning(kind)
    if kind.photometric == 0:
        stored = 1 - stored
    if 1 in kind.extra:
        at = kind.num_colours + kind.extra.index(1)
        stored[..., : kind.num_colours] *= stored[..., at : at + 1]
    samples = range(len(kind.bits))
    planes = [_pack(kind, stored[..., i : i + 1]) for i in samples] if kind.planar == 2 else [_pack(kind, stored)]
    if kind.compression == 8:
        planes = [zlib.compress(plane) for plane in planes]
    if kind.fill_order == 2:
        planes = [bytes(int(f"{byte:08b}"[::-1], 2) for byte in plane) for plane in planes]
    tags = {
        258: kind.bits,
        259: (kind.compression,),
        262: (kind.photometric,),
        266: (kind.fill_order,),
        277: (len(kind.bits),),
        284: (kind.planar,),
        339: (kind.sample_format,) * len(kind.bits),
    }
    if kind.photometric == 3:
        tags[320] = tuple(map(int, palette(kind).ravel()))
    if kind.extra:
        tags[338] = kind.extra
    if kind.photometric == 6:
        tags[530] = (1, 1)
    return write([(tags, planes)], kind.endian)


def _pack(kind: Kind, values: np.ndarray) -> bytes:
    bits = kind.bits[0]
    if kind.sample_format == 3:
        return values.astype(f"{kind.endian}f4").tobytes()
    numbers = np.rint(values * (2**bits - 1)).astype(np.int64)
    if kind.sample_format == 2:
        numbers -= 2 ** (bits - 1)
    if bits in {8, 16, 32}:
        return (numbers & (2**bits - 1)).astype(f"{kind.endian}u{bits // 8}").tobytes()
    each = (numbers[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(each.astype(np.uint8).reshape(HEIGHT, -1), axis=1).tobytes()


def write(pages: list[tuple[dict, list[bytes]]], endian: str = "<", size=(WIDTH, HEIGHT)) -> bytes:
    """A TIFF of pages, each of its tags of 16 bits and its strips."""
    data = bytearray((b"II" if endian == "<" else b"MM") + struct.pack(endian + "HI", 42, 0))
    link = 4
    for short_tags, strips in pages:
        offsets = []
        for strip in strips:
            offsets.append(len(data))
            data += strip + b"\0" * (len(strip) % 2)
        width, height = short_tags.get("size", size)
        longs = {256: (width,), 257: (height,), 273: offsets, 278: (height,), 279: [len(strip) for strip in strips]}
        shorts = {tag: values for tag, values in short_tags.items() if tag != "size"}
        entries = sorted([(tag, "H", v) for tag, v in shorts.items()] + [(tag, "I", v) for tag, v in longs.items()])
        struct.pack_into(endian + "I", data, link, len(data))
        outside, beyond = len(data) + 2 + 12 * len(entries) + 4, b""
        data += struct.pack(endian + "H", len(entries))
        for tag, form, values in entries:
            value = struct.pack(f"{endian}{len(values)}{form}", *values)
            if len(value) > 4:
                beyond, value = beyond + value, struct.pack(endian + "I", outside + len(beyond))
            data += struct.pack(endian + "HHI", tag, 3 if form == "H" else 4, len(values)) + value.ljust(4, b"\0")
        link = len(data)
        data += bytes(4) + beyond + b"\0" * (len(beyond) % 2)
    return bytes(data)
