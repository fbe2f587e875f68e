"""Sampling of inputs: the number of images, and a bounded sample of them in memory.

Counting is exact where that is cheap: loose images are listed anyway, and tars on a local disk are counted header by
header. Otherwise the number is a ratio estimate from a few shards: their images per byte, times all bytes.

Source: Cochran, "Sampling Techniques", 3rd ed., 1977, section 6.3, for the estimate and its error.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.config.option_types import Images
from pipeline.errors import InputError, StorageError
from pipeline.inputs.find import Inputs
from pipeline.inputs.plan import SLICE_KEYS, Plan
from pipeline.inputs.units import count_samples, tar_unit
from pipeline.output.ledger import Ledger
from pipeline.records import Omitted, Sample, Unit
from pipeline.stages.read import UnitReader
from pipeline.storage import Entry, Storage

_MAX_COUNTED_SHARDS = 4096
_MAX_SAMPLED_SHARDS = 8
_SEED = 0


@dataclass(frozen=True, slots=True)
class Cluster:
    """A part of a shard whose samples were counted, as in cluster sampling."""

    num_samples: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number of images, counted or estimated.

    Attributes:
        images: The number.
        standard_error: In images; 0 where they were counted, None where only one shard was sampled.
    """

    images: int
    standard_error: float | None = 0.0

    @property
    def exact(self) -> bool:
        """Whether the images were counted."""
        return self.standard_error == 0.0

    def plus(self, counted: int) -> Estimate:
        """The estimate plus a counted number of images."""
        return Estimate(self.images + counted, self.standard_error)


@dataclass(slots=True)
class InputSample:
    """Samples in memory, and where they came from.

    Attributes:
        tars: Sampled shards, each with the encoded images at its start; None for a sample without image.
        clusters: The counted part of each sampled shard.
        loose: Prefixes of loose images, each with sampled entries and their encoded images.
    """

    tars: list[tuple[Entry, list[bytes | None]]] = field(default_factory=list)
    clusters: list[Cluster] = field(default_factory=list)
    loose: list[tuple[str, list[Entry], list[bytes | None]]] = field(default_factory=list)

    @property
    def images(self) -> list[bytes]:
        """The encoded images, in order."""
        found = [*(images for _, images in self.tars), *(images for _, _, images in self.loose)]
        return [image for images in found for image in images if image is not None]

    def units(self, num_samples: int, multiple_of: int, scratch: str, storage: Storage) -> list[Unit]:
        """Units of the first samples, for a labeler to run over.

        Args:
            num_samples: Samples in all, in equal shares from the shards and prefixes.
            multiple_of: Each unit holds a multiple of this number, where it has that many samples.
            scratch: Directory for the key lists of loose images.
            storage: How to write there.
        """
        share = _round_down(num_samples // (len(self.tars) + len(self.loose)), multiple_of)
        units = [
            tar_unit(entry, _cut_to_share(len(images), share, multiple_of)) for entry, images in self.tars if images
        ]
        plan = Plan(Ledger(scratch, storage), storage)
        cut = [
            (prefix, entries[: _cut_to_share(len(entries), share, multiple_of)]) for prefix, entries, _ in self.loose
        ]
        plan.add(Inputs(loose=list(cut)))
        return units + plan.units


def _round_down(number: int, multiple_of: int) -> int:
    return max(1, number // multiple_of) * multiple_of


def _cut_to_share(held: int, share: int, multiple_of: int) -> int:
    """The share, or the largest multiple that is there, or all."""
    return min(share, _round_down(held, multiple_of), held)


@dataclass(slots=True)
class LooseCount:
    """Loose images, counted in one pass over their listings.

    Attributes:
        num_images, num_bytes, num_slices: Totals.
        num_unreadable: Images that are missing or forbidden, not among these.
        entries: Each prefix with a random sample of its entries, sorted.
    """

    num_images: int = 0
    num_bytes: int = 0
    num_slices: int = 0
    num_unreadable: int = 0
    entries: list[tuple[str, list[Entry]]] = field(default_factory=list)


def count_loose(inputs: Inputs, keep: int) -> LooseCount:
    """Count the loose images of some inputs, and sample some entries of each prefix.

    Args:
        inputs: The inputs.
        keep: Entries to sample per prefix.

    Raises:
        InputError: The inputs cannot be listed.
    """
    count = LooseCount()
    chance = random.Random(_SEED)  # noqa: S311 - a sample that is the same each time, no secret
    for prefix, listing in inputs.loose:
        kept: list[Entry] = []
        number = 0
        try:
            for entry in listing:
                if entry.size_bytes < 0:
                    count.num_unreadable += 1
                    continue
                number += 1
                count.num_bytes += entry.size_bytes
                if len(kept) < keep:
                    kept.append(entry)
                elif (place := chance.randrange(number)) < keep:  # reservoir sampling: each is as likely
                    kept[place] = entry
        except StorageError as error:
            raise InputError(f"the inputs cannot be listed: {error}") from error
        count.num_images += number
        count.num_slices += -(-number // SLICE_KEYS)
        count.entries.append((prefix, sorted(kept, key=lambda entry: entry.uri)))
    return count


def draw_sample(
    tars: Sequence[Entry],
    loose: LooseCount,
    storage: Storage,
    max_images: int,
    max_bytes: int,
    which: Images = "auto",
) -> InputSample:
    """Read samples into memory: the first ones of a few shards, and loose images of every prefix.

    Args:
        tars: Shards.
        loose: Loose images.
        storage: How to reach them.
        max_images: Samples at most.
        max_bytes: Bytes of encoded images, about.
        which: Which images of a sample count: the first, or all.

    Raises:
        InputError: Nothing could be read.
    """
    sample = InputSample()
    chosen = _pick_evenly([entry for entry in tars if entry.size_bytes > 0])
    num_places = len(chosen) + len(loose.entries)
    share, share_bytes = max(1, max_images // max(1, num_places)), max_bytes // max(1, num_places)
    problem = ""
    for entry in chosen:
        unit = tar_unit(entry, share)
        try:
            images, cluster = _first_samples(UnitReader(unit, storage, images=which), share_bytes)
        except StorageError as error:
            problem = str(error)
            continue
        whole = len(images) < share and cluster.num_bytes < share_bytes
        sample.tars.append((entry, images))
        sample.clusters.append(Cluster(len(images), entry.size_bytes) if whole else cluster)
    for prefix, entries in loose.entries:
        taken, content, problem = _loose_samples(
            entries[:: max(1, len(entries) // share)][:share], storage, share_bytes, problem
        )
        sample.loose.append((prefix, taken, content))
    if not sample.images:
        raise InputError(f"no image could be read from the inputs{': ' if problem else ''}{problem}")
    return sample


def _pick_evenly(entries: Sequence[Entry]) -> list[Entry]:
    """A few entries at even distances."""
    number = min(len(entries), _MAX_SAMPLED_SHARDS)
    return [entries[(2 * place + 1) * len(entries) // (2 * number)] for place in range(number)]


def _first_samples(reader: UnitReader, max_bytes: int) -> tuple[list[bytes | None], Cluster]:
    images: list[bytes | None] = []
    num_bytes = 0
    items: Iterator[object] = iter(reader)
    for item in items:
        if isinstance(item, Sample):
            images.append(item.image)
            num_bytes += len(item.image or b"")
            if num_bytes >= max_bytes:
                break
    return images, Cluster(len(images), max(1, reader.bytes_done))


def _loose_samples(
    entries: Sequence[Entry], storage: Storage, max_bytes: int, problem: str
) -> tuple[list[Entry], list[bytes | None], str]:
    """Sampled entries, their images, and the last problem there was."""
    taken: list[Entry] = []
    images: list[bytes | None] = []
    for entry in entries:
        try:
            images.append(storage.fetch(entry) or None)
        except StorageError as error:
            images.append(None)
            problem = str(error)
        taken.append(entry)
        if sum(len(image or b"") for image in images) >= max_bytes:
            break
    return taken, images, problem


def count_tars(
    tars: Sequence[Entry],
    clusters: Sequence[Cluster],
    storage: Storage,
    budget_s: float,
    images: Images = "auto",
    omitted: Omitted | None = None,
) -> Estimate:
    """The number of samples in some shards: counted where that is cheap, otherwise estimated.

    Args:
        tars: The shards; those of unknown size count as empty.
        clusters: Counted parts of sampled shards.
        storage: How to reach them.
        budget_s: Counting stops after so many seconds.
        images: Which images of a sample count: the first, or all.
        omitted: Where to count what is seen on the way and has no row.
    """
    readable = [entry for entry in tars if entry.size_bytes > 0]
    chosen = random.Random(_SEED).sample(readable, min(len(readable), _MAX_COUNTED_SHARDS))  # noqa: S311 - likewise
    units = [tar_unit(entry) for entry in chosen]
    counts = count_samples(units, storage, budget_s, images, omitted)
    if len(counts) == len(readable):
        return Estimate(sum(counts.values()))
    counted = [Cluster(counts[unit.id], unit.size_bytes) for unit in units if unit.id in counts]
    return estimate(
        counted if len(counted) > 1 else [*counted, *clusters],
        sum(entry.size_bytes for entry in readable),
        len(readable),
    )


def estimate(clusters: Sequence[Cluster], total_bytes: int, num_shards: int) -> Estimate:
    """Ratio estimate of a total, with its standard error.

    With n_i samples in b_i bytes of k clusters, r = sum n / sum b, and N shards of B bytes in all:
    the total is r B; its variance is B^2 (1 - f) / (k mean(b)^2) * sum (n_i - r b_i)^2 / (k - 1), where
    f is the share of the bytes that was looked at.

    Args:
        clusters: Counted parts of shards.
        total_bytes: B.
        num_shards: N; the result is exact if all of them were read to their end.
    """
    seen_bytes = sum(cluster.num_bytes for cluster in clusters)
    seen = sum(cluster.num_samples for cluster in clusters)
    if not seen_bytes or not total_bytes:
        return Estimate(0, None if total_bytes else 0.0)
    if seen_bytes >= total_bytes and len(clusters) >= num_shards:
        return Estimate(seen)
    number = len(clusters)
    ratio = seen / seen_bytes
    if number < 2:
        return Estimate(round(ratio * total_bytes), None)
    squares = sum((cluster.num_samples - ratio * cluster.num_bytes) ** 2 for cluster in clusters) / (number - 1)
    unseen = max(0.0, 1 - seen_bytes / total_bytes)
    variance = unseen / number * squares / (seen_bytes / number) ** 2
    # a sample without variance is no proof: the error is at least one image
    return Estimate(round(ratio * total_bytes), max(1.0, total_bytes * math.sqrt(variance)))
