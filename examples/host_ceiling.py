"""Measure what the host side of one labeler can carry, with as many cores as you like, on the few that are here.

    python examples/host_ceiling.py --threads 16 --decode-ms 1.6 --resize-ms 0.43 --json

Decoding and resizing are replaced by sleeps of that length, which hold neither a core nor the interpreter's lock, and
the device costs nothing. All else is a labeler's own: tars, reader, hashing, queues, Parquet. ``possible`` is the rate
of the sleeps alone; ``share`` is how much of it comes through. A share well below 1 means that a device behind so many
cores waits for the rest: for Python, or, where few cores stand in for many, for these.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # an uninstalled checkout

from pipeline.config.option_types import above_zero
from pipeline.config.settings import StorageConfig
from pipeline.errors import ShardlabelError
from pipeline.inputs.find import find_inputs
from pipeline.labeler.config import LabelerConfig
from pipeline.models.preprocessing import Geometry, Recipe
from pipeline.models.weights import MemberSpec
from pipeline.speed.host_ceiling import measure_host_ceiling
from pipeline.speed.input_sample import LooseCount, draw_sample
from pipeline.storage import Storage

NUM_CLASSES = 1000


def main() -> None:
    """Measure, and print."""
    options = parse_options()
    with tempfile.TemporaryDirectory(prefix="shardlabel-") as name:
        scratch = Path(name)
        folder = options.images or make_tars(scratch / "tars", options.num_images, options.num_tars, options.kilobytes)
        storage = Storage(StorageConfig())
        tars = list(find_inputs((str(folder),), storage).tars.values())
        sample = draw_sample(tars, LooseCount(), storage, options.num_images, 1 << 30)
        found = measure_host_ceiling(
            labeler_config(str(scratch / "out"), options.threads),
            sample,
            decode_s=options.decode_ms / 1000,
            resize_s=options.resize_ms / 1000,
            seconds=options.seconds,
        )
    if options.json:
        print(json.dumps(dataclasses.asdict(found)))
        return
    print(f"threads    {found.num_threads}")
    print(f"labelled   {found.images_per_s:,.0f} images/s")
    print(f"possible   {found.possible_per_s:,.0f} images/s, if only the sleeps took time")
    print(f"share      {found.share:.2f}")
    print(f"CPU        {found.cpu_us_per_image:,.0f} us an image, beside decoding and resizing")


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = {
        "threads": (int, 16, "threads that decode"),
        "decode-ms": (float, 1.6, "a sleep instead of decoding"),
        "resize-ms": (float, 0.43, "a sleep instead of resizing"),
        "seconds": (float, 5.0, "about how long to measure"),
        "num-images": (int, 4096, "photographs in the tars that are made"),
        "num-tars": (int, 8, "how many tars are made"),
        "kilobytes": (int, 100, "size of each photograph"),
    }
    for name, (kind, default, what) in numbers.items():
        parser.add_argument(f"--{name}", type=above_zero(kind), default=default, help=f"{what} (default: {default})")
    parser.add_argument("--images", help="a directory of tars; default: photographs are made")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def make_tars(folder: Path, num_images: int, num_tars: int, kilobytes: int) -> Path:
    """Tars of a small photograph, made as heavy as one of ImageNet's: what follows its end is not looked at."""
    folder.mkdir()
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG")
    each = -(-num_images // num_tars)
    for number in range(num_tars):
        with tarfile.open(folder / f"photographs-{number:03d}.tar", "w") as tar:
            for place in range(each):
                data = buffer.getvalue() + place.to_bytes(4, "big") * (256 * kilobytes)
                member = tarfile.TarInfo(f"{place:06d}.jpg")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return folder


def labeler_config(out: str, num_threads: int) -> LabelerConfig:
    """A labeler with one member that takes ImageNet's usual crops."""
    recipe = Recipe(Geometry(256, 224, "bilinear"), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    member = MemberSpec("emulated", "resnet50", 1.0, NUM_CLASSES, recipe, "0" * 64, "none")
    return LabelerConfig(
        out=out,
        fingerprint="0" * 64,
        run="trial",
        members=(member,),
        class_names=tuple(f"class {number}" for number in range(NUM_CLASSES)),
        rule="mean",
        top_k=5,
        precision="fp32",
        compiled=False,
        device="cpu",
        batch_size=None,
        may_tune=False,
        decode="exact",
        rows_per_part=10_000,
        keep=(),
        num_threads=num_threads,
        storage=StorageConfig(),
    )


if __name__ == "__main__":
    try:
        main()
    except ShardlabelError as error:
        sys.exit(f"host_ceiling.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
