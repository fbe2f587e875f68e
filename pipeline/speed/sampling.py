"""Sampling: how many images some inputs hold, and a bounded handful of them in memory.

Counting is exact where that is cheap: loose images are listed anyway, and tars on a local disk are
counted header by header. Otherwise the number is a ratio estimate from a few shards: images per byte
there, times all bytes.
Source of the estimate and its error: Cochran, "Sampling Techniques", 3rd ed., 1977, section 6.3.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.errors import InputError, StorageError
from pipeline.inputs.find import Inputs
from pipeline.inputs.plan import SLICE_KEYS, Plan
from pipeline.inputs.units import count_samples, tar_unit
from pipeline.output.ledger import Ledger
from pipeline.records import Sample, Unit
from pipeline.stages.read import UnitReader
from pipeline.storage import Entry, Storage

_MAX_COUNTED_SHARDS = 4096
_SHARDS_LOOKED_INTO = 8
_SEED = 0


@dataclass(frozen=True, slots=True)
class Cluster:
    """A stretch of a shard whose samples were counted."""

    num_samples: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number of images.

    Attributes:
        images: The number.
        standard_error: Of the number, in images: 0 where it was counted, None where a single shard was
            looked into, which says nothing of the others.
    """

    images: int
    standard_error: float | None = 0.0

    @property
    def exact(self) -> bool:
        """Whether it was counted."""
        return self.standard_error == 0.0

    def plus(self, counted: int) -> Estimate:
        """The same with images that were counted elsewhere."""
        return Estimate(self.images + counted, self.standard_error)


@dataclass(slots=True)
class Drawn:
    """A handful of samples, and where they came from.

    Attributes:
        tars: Shards looked into, with the encoded images at their beginning; None for a sample without one.
        clusters: What was counted on the way.
        loose: Prefixes of loose images, with some of their entries and these images.
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
        """Units of the first samples that were drawn, so that a labeler can be run over them.

        Args:
            num_samples: How many, shared among the places they came from.
            multiple_of: Each unit holds a multiple of this many, where there are as many.
            scratch: A directory for the key lists of loose images.
            storage: How to write there.
        """
        share = _whole(num_samples // (len(self.tars) + len(self.loose)), multiple_of)
        units = [tar_unit(entry, _cut(len(images), share, multiple_of)) for entry, images in self.tars if images]
        plan = Plan(Ledger(scratch, storage), storage)
        cut = [(prefix, entries[: _cut(len(entries), share, multiple_of)]) for prefix, entries, _ in self.loose]
        plan.add(Inputs(loose=list(cut)))
        return units + plan.units


def _whole(number: int, multiple_of: int) -> int:
    return max(1, number // multiple_of) * multiple_of


def _cut(held: int, share: int, multiple_of: int) -> int:
    """As many as the share says, or all that there are in whole multiples, or all."""
    return min(share, _whole(held, multiple_of), held)


@dataclass(slots=True)
class LooseCount:
    """Loose images, counted in one pass over their listings.

    Attributes:
        num_images, num_bytes, num_slices: In all.
        some: A few entries of each prefix, in order, drawn at random.
    """

    num_images: int = 0
    num_bytes: int = 0
    num_slices: int = 0
    some: list[tuple[str, list[Entry]]] = field(default_factory=list)


def count_loose(inputs: Inputs, keep: int) -> LooseCount:
    """Count the loose images of some inputs and remember a few of each prefix.

    Raises:
        InputError: They cannot be listed.
    """
    count = LooseCount()
    chance = random.Random(_SEED)  # noqa: S311 - a sample that is the same each time, no secret
    for prefix, listing in inputs.loose:
        kept: list[Entry] = []
        number = 0
        try:
            for number, entry in enumerate(listing, start=1):
                count.num_bytes += entry.size_bytes
                if len(kept) < keep:
                    kept.append(entry)
                elif (place := chance.randrange(number)) < keep:  # reservoir sampling: each is as likely
                    kept[place] = entry
        except StorageError as error:
            raise InputError(f"the inputs cannot be listed: {error}") from error
        count.num_images += number
        count.num_slices += -(-number // SLICE_KEYS)
        count.some.append((prefix, sorted(kept, key=lambda entry: entry.uri)))
    return count


def draw(tars: Sequence[Entry], loose: LooseCount, storage: Storage, max_images: int, max_bytes: int) -> Drawn:
    """Read some samples into memory: the first of a few shards, and loose images from everywhere.

    Args:
        tars: Shards.
        loose: Loose images.
        storage: How to reach them.
        max_images: Samples at most.
        max_bytes: Bytes of encoded images, about.

    Raises:
        InputError: Nothing could be read.
    """
    drawn = Drawn()
    chosen = _spread([entry for entry in tars if entry.size_bytes > 0])
    num_places = len(chosen) + len(loose.some)
    share, share_bytes = max(1, max_images // max(1, num_places)), max_bytes // max(1, num_places)
    problem = ""
    for entry in chosen:
        unit = tar_unit(entry, share)
        try:
            images, cluster = _first_samples(UnitReader(unit, storage), share_bytes)
        except StorageError as error:
            problem = str(error)
            continue
        whole = len(images) < share and cluster.num_bytes < share_bytes
        drawn.tars.append((entry, images))
        drawn.clusters.append(Cluster(len(images), entry.size_bytes) if whole else cluster)
    for prefix, entries in loose.some:
        some, content = _loose_samples(entries[:: max(1, len(entries) // share)][:share], storage, share_bytes)
        drawn.loose.append((prefix, some, content))
    if not drawn.images:
        raise InputError(f"no image could be read from the inputs{': ' if problem else ''}{problem}")
    return drawn


def _spread(entries: Sequence[Entry]) -> list[Entry]:
    """A few entries from all over a list."""
    number = min(len(entries), _SHARDS_LOOKED_INTO)
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
    entries: Sequence[Entry], storage: Storage, max_bytes: int
) -> tuple[list[Entry], list[bytes | None]]:
    some: list[Entry] = []
    images: list[bytes | None] = []
    for entry in entries:
        try:
            images.append(storage.fetch(entry) or None)
        except StorageError:
            images.append(None)
        some.append(entry)
        if sum(len(image or b"") for image in images) >= max_bytes:
            break
    return some, images


def count_tars(tars: Sequence[Entry], clusters: Sequence[Cluster], storage: Storage, budget_s: float) -> Estimate:
    """How many samples some shards hold: counted where that is cheap, otherwise estimated.

    Args:
        tars: The shards; those of unknown size count as empty.
        clusters: What is known from looking into some of them.
        storage: How to reach them.
        budget_s: Counting stops after so many seconds.
    """
    readable = [entry for entry in tars if entry.size_bytes > 0]
    chosen = random.Random(_SEED).sample(readable, min(len(readable), _MAX_COUNTED_SHARDS))  # noqa: S311 - likewise
    units = [tar_unit(entry) for entry in chosen]
    counts = count_samples(units, storage, budget_s)
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
        clusters: What was counted.
        total_bytes: B.
        num_shards: N; a single shard that was looked into to its end is exact.
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
    # a sample that happens to show no spread still leaves something open: at least one image
    return Estimate(round(ratio * total_bytes), max(1.0, total_bytes * math.sqrt(variance)))
