"""Make the sample shards in ``examples/data`` from the photographs bundled with scikit-image.

Every picture is one class. Each is split by region: the models are trained on crops of the train regions
(``train_sample_models.py``), the shards hold crops of the test regions, and no pixel is in both. A few
samples are broken on purpose. The same seed gives byte-identical shards.

Usage: ``python examples/make_sample_data.py [--out DIR] [--seed N] [--per-class N]``
"""

import argparse
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import skimage.data
import webdataset as wds
from PIL import Image, ImageEnhance

Region = tuple[float, float, float, float]  # left, top, right, bottom, as fractions of the picture
Sample = dict[str, Any]  # "__key__" and one entry of bytes per field, as webdataset writes it

HERE = Path(__file__).resolve().parent
JPEG_QUALITY = 88
MIN_SIDE, MAX_SIDE = 96, 224  # of a crop in the shards, in pixels


class Picture(NamedTuple):
    """Which regions of a picture are for training and which one is for the shards."""

    train: tuple[Region, ...]
    test: Region
    shrink: int = 1


LEFT, RIGHT = (0.0, 0.0, 0.6, 1.0), (0.6, 0.0, 1.0, 1.0)
# Only pictures whose licence is stated and allows redistribution; see data/README.md.
PICTURES = {
    "astronaut": Picture(((0, 0, 1, 0.3), (0, 0.62, 1, 1)), (0, 0.3, 1, 0.62)),
    "brick": Picture((LEFT,), RIGHT),
    "camera": Picture(((0, 0, 1, 0.24), (0, 0.58, 1, 1)), (0, 0.24, 1, 0.58)),
    "cat": Picture(((0, 0, 0.5, 1),), (0.5, 0, 1, 1)),
    "clock": Picture(((0.1, 0.1, 0.5, 0.9),), (0.5, 0.15, 0.9, 0.85)),
    "coffee": Picture(((0, 0, 0.55, 1),), (0.55, 0, 1, 1)),
    "coins": Picture((LEFT,), RIGHT),
    "grass": Picture((LEFT,), RIGHT),
    "gravel": Picture((LEFT,), RIGHT),
    "hubble_deep_field": Picture((LEFT,), RIGHT),
    "immunohistochemistry": Picture((LEFT,), RIGHT),
    "retina": Picture(((0, 0, 1, 0.58),), (0, 0.58, 1, 1), shrink=3),
    "rocket": Picture(((0, 0, 0.55, 1),), (0.55, 0, 1, 1)),
    "text": Picture((LEFT,), RIGHT),
}


def load_region(name: str, region: Region) -> tuple[Image.Image, tuple[int, int]]:
    """Cut one region out of a bundled picture.

    Args:
        name: A key of ``PICTURES``.
        region: The part to keep, as fractions of the width and height.

    Returns:
        The region, mode L or RGB, and where its top left corner lies in the original picture.

    """
    picture = Image.fromarray(getattr(skimage.data, name)())
    # Cut first and shrink afterwards, so that no pixel of a neighbouring region is mixed in.
    width, height = picture.size
    left, top, right, bottom = region
    box = round(left * width), round(top * height), round(right * width), round(bottom * height)
    shrink = PICTURES[name].shrink
    part = picture.crop(box).reduce(shrink) if shrink > 1 else picture.crop(box)
    return part, (box[0], box[1])


def random_crop(name: str, rng: np.random.Generator) -> tuple[Image.Image, list[int]]:
    """Cut a crop of random size, shape, zoom and brightness from a test region; also return its box."""
    region, (x0, y0) = load_region(name, PICTURES[name].test)
    zoom = rng.uniform(0.85, 1.2)
    side, aspect = rng.uniform(MIN_SIDE, MAX_SIDE), rng.uniform(0.8, 1.25)
    width = round(float(np.clip(side * aspect, MIN_SIDE, MAX_SIDE)) / zoom)
    height = round(float(np.clip(side / aspect, MIN_SIDE, MAX_SIDE)) / zoom)
    width, height = min(width, region.width), min(height, region.height)
    x, y = int(rng.integers(region.width - width + 1)), int(rng.integers(region.height - height + 1))
    crop = region.crop((x, y, x + width, y + height))
    crop = crop.resize((round(width * zoom), round(height * zoom)), Image.Resampling.BICUBIC)
    crop = ImageEnhance.Brightness(crop).enhance(rng.uniform(0.75, 1.25))
    crop = ImageEnhance.Contrast(crop).enhance(rng.uniform(0.75, 1.25))
    scale = PICTURES[name].shrink
    box = [x0 + scale * x, y0 + scale * y, x0 + scale * (x + width), y0 + scale * (y + height)]
    return crop, box


def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """Encode an image with Pillow and return the file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": JPEG_QUALITY} if kind != "PNG" else {}), **options)
    return buffer.getvalue()


def encode_crop(crop: Image.Image, name: str, number: int) -> tuple[str, bytes]:
    """Encode a crop, mostly as plain JPEG; a few samples get a rarer format.

    Returns:
        The field name (``jpg``, ``png`` or ``webp``) and the bytes.

    """
    match name, number:
        case "gravel", 3:  # 16-bit grey
            return "png", encode(Image.fromarray(np.asarray(crop).astype(np.uint16) * 257), "PNG")
        case "cat", 5:  # a print file
            return "jpg", encode(crop.convert("CMYK"))
        case "astronaut", 4:  # stored lying on its side, to be turned by 90 degrees clockwise on display
            exif = Image.Exif()
            exif[0x0112] = 6
            return "jpg", encode(crop.transpose(Image.Transpose.ROTATE_90), exif=exif)
        case "text" | "clock" | "hubble_deep_field", 6:
            return "png", encode(crop, "PNG")
        case "coffee" | "rocket" | "coins" | "retina", 8:
            return "webp", encode(crop, "WEBP")
    return "jpg", encode(crop)


def good_samples(per_class: int, rng: np.random.Generator) -> list[Sample]:
    """Make ``per_class`` readable samples of every class."""
    samples = []
    for index, name in enumerate(PICTURES):
        for number in range(per_class):
            crop, box = random_crop(name, rng)
            field, data = encode_crop(crop, name, number)
            about = json.dumps({"source": name, "box": box})
            key = f"{name}_{number:04d}"
            samples.append({"__key__": key, field: data, "cls": b"%d" % index, "json": about.encode()})
    return samples


def broken_samples(rng: np.random.Generator) -> list[Sample]:
    """Make the samples that a pipeline has to report and survive."""
    name = "coffee"
    crop, box = random_crop(name, rng)
    jpeg, png = encode(crop), bytearray(encode(crop, "PNG"))
    middle = len(png) // 2
    png[middle : middle + 64] = bytes(64)
    size_at = jpeg.index(b"\xff\xc0") + 5  # start of frame: marker, length, precision, then height and width
    huge = jpeg[:size_at] + (65000).to_bytes(2, "big") * 2 + jpeg[size_at + 4 :]
    page = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>Not Found</body></html>\n"
    images = {
        "truncated": {"jpg": jpeg[: len(jpeg) // 2]},
        "text": {"jpg": b"This is not a photograph.\n"},
        "empty": {"jpg": b""},
        "missing": {},
        "damaged_png": {"png": bytes(png)},
        "html": {"jpg": page},
        "huge": {"jpg": huge},
    }
    label, about = list(PICTURES).index(name), json.dumps({"source": name, "box": box})
    rest = {"cls": b"%d" % label, "json": about.encode()}
    return [{"__key__": f"broken_{what}", **image, **rest} for what, image in images.items()]


def main() -> None:
    """Write the shards and the list of classes."""
    parser = argparse.ArgumentParser(description="Make the sample shards from scikit-image's photographs.")
    parser.add_argument("--out", type=Path, default=HERE / "data", help="default: examples/data")
    parser.add_argument("--per-class", type=int, default=17, help="samples per class (default: %(default)s)")
    parser.add_argument("--shards", type=int, default=3, help="number of tar files (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    args = parser.parse_args()

    rng = np.random.default_rng(args.seed)
    good, broken = good_samples(args.per_class, rng), broken_samples(rng)
    samples = good + broken
    order = rng.permutation(len(samples))
    args.out.mkdir(parents=True, exist_ok=True)
    for shard in range(args.shards):
        path = args.out / f"shard-{shard:03d}.tar"
        owner = {"user": "shardlabel", "group": "shardlabel", "mode": 0o644, "mtime": 0}
        with wds.TarWriter(str(path), encoder=False, **owner) as writer:
            for position in order[shard :: args.shards]:
                writer.write(samples[position])
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")
    (args.out / "classes.txt").write_text("".join(f"{name}\n" for name in PICTURES))
    print(f"{len(good)} readable and {len(broken)} broken samples of {len(PICTURES)} classes in {args.out}")


if __name__ == "__main__":
    main()
