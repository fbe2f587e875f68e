"""Photographs of ImageNet's usual size (500 x 375, about 100 kB), made from those that ship with the project."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.errors import ImageError
from pipeline.machine import num_local_cpus
from pipeline.sample_data import sample_data
from pipeline.stages.decode import decode

_SIZE = (500, 375)
_GRAIN = 9.0  # grey levels: as heavy as a photograph that was not made small


def shipped_images() -> list[bytes]:
    """The images of the sample data, encoded; some of them are broken on purpose."""
    found: list[bytes] = []
    for path in sorted(sample_data().glob("*.tar")):
        with tarfile.open(path) as tar:
            members = [member for member in tar if member.name.endswith((".jpg", ".jpeg", ".png", ".webp"))]
            found += [file.read() for member in members if (file := tar.extractfile(member)) is not None]
    return found


def make_photographs(number: int) -> list[bytes]:
    """So many JPEGs, each with another grain."""
    sources: list[Image.Image] = []
    for data in shipped_images():
        try:
            sources.append(Image.fromarray(decode(data).pixels_CHW.permute(1, 2, 0).contiguous().numpy()))
        except ImageError:
            continue
    with ThreadPoolExecutor(num_local_cpus()) as pool:
        return list(pool.map(lambda seed: _photograph(seed, sources[seed % len(sources)]), range(number)))


def _photograph(seed: int, source: Image.Image) -> bytes:
    picture = source.resize(_SIZE, Image.Resampling.BICUBIC)
    grain = np.random.default_rng(seed).normal(0, _GRAIN, (_SIZE[1], _SIZE[0], 1))
    pixels = np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_tars(folder: Path, photographs: Sequence[bytes], num_images: int, num_tars: int) -> None:
    """Write tars that hold them, over and over where there are more images than photographs."""
    folder.mkdir()
    each = -(-num_images // num_tars)
    for number in range(num_tars):
        with tarfile.open(folder / f"photographs-{number:03d}.tar", "w") as tar:
            for place in range(each):
                data = photographs[(number * each + place) % len(photographs)]
                member = tarfile.TarInfo(f"{place:06d}.jpg")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
