"""What is fuzzed: for each parser of bytes from outside what must hold, where to start, and what one input may take."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from unittest import mock

from fuzz import properties, seeds
from fuzz.damage import with_png_checksums, with_tar_checksums
from PIL import Image

from pipeline.stages import limits

_FAST_TO_PX = 8
_MOST_PIXELS = 1 << 22  # of the 179 million that are allowed: each of them costs time, and none is another case


@dataclass(frozen=True)
class Target:
    """One thing to attack.

    Attributes:
        holds: The property; raises where it is broken.
        seeds: The bytes to start from.
        mend: Puts checksums right, so that damage reaches what lies behind them.
        timeout_s: Longest that one input may take.
        rss_mb: Most memory that the process may have.
        max_bytes: Longest input; short ones are quick.
    """

    holds: Callable[[bytes], object]
    seeds: Callable[[], Iterable[bytes]]
    mend: Callable[[bytes], bytes] = bytes
    timeout_s: int = 20
    rss_mb: int = 3000
    max_bytes: int = 16 << 10


def _image(data: bytes) -> None:
    with (
        mock.patch.object(limits, "MAX_PIXELS", _MOST_PIXELS),
        mock.patch.object(Image, "MAX_IMAGE_PIXELS", _MOST_PIXELS // 2),  # Pillow refuses what has twice as many
    ):
        for fast_to_px in (None, _FAST_TO_PX):
            properties.image_is_shown_or_refused(data, fast_to_px)


TARGETS = {
    "tar": Target(properties.shard_is_accounted_for, seeds.tars, with_tar_checksums),
    "image": Target(_image, lambda: seeds.images().values(), with_png_checksums, timeout_s=60, max_bytes=40 << 10),
    "part": Target(properties.part_is_read_or_damaged, seeds.parts),
    "keys": Target(properties.key_list_is_read_or_damaged, seeds.key_lists),
    "listing": Target(properties.listing_is_read_or_refused, seeds.listings),
}
