"""The comparison of samples with their rows, and of images with the hashes in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from pipeline.records import UNREAD_REASONS, Sample, Unit
from pipeline.text import fmt
from pipeline.verifying.messages import SampleNames, name_sample, relabel

_MAX_ALTERED = 100


class SampleRow(NamedTuple):
    """The columns of a row that identify its sample; ``reason`` is None in predictions."""

    key: str
    sha256: str | None
    reason: str | None


class Comparison:
    """Compares the samples of a unit with their rows.

    Args:
        unit: The unit.
        hashes: SHA-256 of loose images as they are now, by index; None where samples come with their images.
        deep: Whether images are compared as well.

    Attributes:
        altered: One line for each image that is not the one that was labelled, up to a limit.
    """

    def __init__(self, unit: Unit, hashes: Mapping[int, str] | None, *, deep: bool) -> None:
        self._unit = unit
        self._hashes = hashes
        self._deep = deep
        self._missing, self._unexpected, self._doubled = SampleNames(), SampleNames(), SampleNames()
        self.altered: list[str] = []

    def add(self, sample: Sample, rows: Iterable[SampleRow]) -> None:
        """Compare a sample with the rows that have its index."""
        own = []
        for row in rows:
            if row.key == sample.key:
                own.append(row)
            else:
                self._unexpected.add(sample.index, row.key)
        if not own:
            self._missing.add(sample.index, sample.key)
        elif len(own) > 1:
            self._doubled.add(sample.index, sample.key)
        if own and self._deep:
            self._compare_images(sample, own[0])

    def _compare_images(self, sample: Sample, row: SampleRow) -> None:
        if self._hashes is not None:
            now = self._hashes.get(sample.index)
        else:
            now = None if sample.image is None else hashlib.sha256(sample.image).hexdigest()
        if row.sha256 == now or row.reason in UNREAD_REASONS or len(self.altered) > _MAX_ALTERED:
            return
        if len(self.altered) == _MAX_ALTERED:
            self.altered.append(f"{self._unit.uri}: and more images that are not those that were labelled")
            return
        hashes = f"sha256 {now or 'of nothing that can be read'}, not {row.sha256 or 'of nothing'}"
        self.altered.append(
            f"{self._unit.uri}: {name_sample(sample.index, sample.key)} is not the image that was labelled: {hashes}; "
            f"restore it, or {relabel(self._unit)}"
        )

    def add_unmatched(self, rows: Mapping[int, Iterable[SampleRow]]) -> None:
        """Note the rows of a part, by index, for which there was no sample."""
        for index in sorted(rows):
            for row in rows[index]:
                self._unexpected.add(index, row.key)

    def discrepancies(self, unnoted: Mapping[str, int]) -> Iterator[str]:
        """One line for each discrepancy.

        Args:
            unnoted: Damage to the shard that quarantine does not note, by reason.
        """
        uri, advice = self._unit.uri, relabel(self._unit)
        for what, samples in (
            ("in the input, but not in the output", self._missing),
            ("in the output, but not in the input", self._unexpected),
            ("more than once in the output", self._doubled),
        ):
            if samples.count:
                yield f"{uri}: {fmt.plural(samples.count, 'sample')} {what}: {samples}; {advice}"
        for reason, count in unnoted.items():
            yield f"{uri}: {count} x {reason} in the shard that quarantine does not note; {advice}"
