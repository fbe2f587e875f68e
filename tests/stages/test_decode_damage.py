"""Images of every format, damaged: pixels or a reason, never anything else, in memory that stays bounded.

In a process of its own, so that a decoder that crashes is a failed test, and the peak of its memory is known::

    python tests/stages/test_decode_damage.py 20 1    # twenty changes to each image, seed 1
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import struct
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest
from PIL import Image

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from fuzz.damage import damaged, with_png_checksums
from fuzz.properties import image_is_shown_or_refused
from fuzz.seeds import images, photo

from pipeline.errors import ImageError
from pipeline.records import Reason
from pipeline.stages.decode import decode
from pipeline.stages.limits import large_image_lock

REPOSITORY = Path(__file__).parents[2]
HEADER_BYTES = 200  # where damage does most
FAST_TO_PX = 8
MAX_GROWTH_MB = 1_200  # 179 megapixels, the most that is allowed: up to 4 bytes each as decoded, 3 as RGB


def outcome(data: bytes, fast_to_px: int | None) -> str:
    found = image_is_shown_or_refused(data, fast_to_px)
    return found.reason if isinstance(found, ImageError) else "shown"


def attack(times: int, seed: int) -> None:
    """Damage and decode each image so many times; prints what became of them as a JSON line."""
    outcomes: Counter[str] = Counter()
    formats = images()
    for data in formats.values():
        outcomes[outcome(data, None)] += 1
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, data in formats.items():
        rng = random.Random(f"{name} {seed}")
        for number in range(times):
            changed = damaged(data, rng, within=HEADER_BYTES if number % 2 else None)
            changed = with_png_checksums(changed) if number % 3 else changed
            outcomes[outcome(changed, FAST_TO_PX if number % 4 == 3 else None)] += 1
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    print(json.dumps({"images": len(formats), "outcomes": outcomes, "grown_mb": grown}))


def attacked(times: int, seed: int) -> dict:
    command = [sys.executable, __file__, str(times), str(seed)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=3600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    return found


def check(found: dict, times: int) -> None:
    outcomes = found["outcomes"]
    assert sum(outcomes.values()) == found["images"] * (times + 1)
    assert outcomes["shown"] > found["images"]
    assert min(outcomes[reason] for reason in ("corrupt_image", "truncated_image", "not_an_image")) > 0
    assert found["grown_mb"] < MAX_GROWTH_MB


def test_damaged_images_give_pixels_or_a_reason():
    check(attacked(5, seed=1), 5)


@pytest.mark.slow
def test_damaged_images_give_pixels_or_a_reason_at_length():
    check(attacked(200, seed=2), 200)


# -- found by attack -----------------------------------------------------------------------------------


def icon(size: tuple[int, int], image: Image.Image) -> bytes:
    """An icon with another size in its directory than that of its picture."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    head = b"\0\0\1\0\1\0" + bytes([size[0] % 256, size[1] % 256]) + b"\0\0\1\0\x20\0"
    return head + len(buffer.getvalue()).to_bytes(4, "little") + (22).to_bytes(4, "little") + buffer.getvalue()


def test_the_size_is_the_pictures_even_if_the_icon_declares_another():
    decoded = image_is_shown_or_refused(icon((16, 16), photo(300, 200)))
    assert (decoded.width, decoded.height) == (300, 200)


def test_the_size_is_that_of_the_picture_even_where_a_heif_file_declares_a_larger_one(shared):
    data = (shared / "data" / "nasty" / "heic_heif-RGB-8-128x128.heif").read_bytes()
    extent = b"\0\0\0\x14ispe\0\0\0\0" + struct.pack(">II", 300, 200)
    decoded = image_is_shown_or_refused(data + extent)
    assert (decoded.width, decoded.height) == (128, 128)


@pytest.mark.parametrize("name", ["ico", "icns"])
def test_icons_wait_for_each_other_as_large_pictures_do(name):
    """What they hold may be as large as a picture may be, and shows only when it is decoded."""
    data = images()[name]
    with ThreadPoolExecutor(1) as pool:
        with large_image_lock.acquire(nullcontext):
            waiting = pool.submit(decode, data)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.5)
        assert waiting.result().pixels_CHW.shape[0] == 3


def test_a_giant_in_an_icon_is_too_large():
    error = image_is_shown_or_refused(icon((16, 16), Image.new("1", (20_000, 20_000))))
    assert error.reason == Reason.TOO_LARGE


if __name__ == "__main__":
    attack(*map(int, sys.argv[1:]))
