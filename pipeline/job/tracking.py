"""How far a job is, from the receipts of its units."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.records import UNWRITABLE, Receipt, Unit


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a job at one moment.

    Attributes:
        images: Samples done in this run, with those of parts that are not published yet.
        total: Samples to be done in this run, or None while nothing is known.
        exact: Whether the total is known rather than estimated.
        quarantined: Samples quarantined in this run, by reason.
        units_done, units_total: Of this run.
        failed_units: Units that could not be read.
        seconds: Since the first read.
        published: Of the images, those in published parts: what counts if the run is stopped now.
        final: Whether the run has ended: then all images are published.
    """

    images: int
    total: int | None
    exact: bool
    quarantined: Mapping[str, int]
    units_done: int
    units_total: int
    failed_units: int
    seconds: float
    published: int = 0
    final: bool = False

    @property
    def images_per_s(self) -> float:
        """Mean rate of this run."""
        return self.images / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds left at the mean rate; None while it is not known."""
        if self.total is None or not self.images:
            return None
        return max(0, self.total - self.images) / self.images_per_s


class Tracker:
    """Adds receipts up as they come; each costs the same, however many units there are.

    Args:
        pending: The units of this run, by id, with the samples each still has where that is known.

    Attributes:
        receipts: The latest receipt of each unit.
        images: Samples done in this run.
        published: Of these, in published parts.
        quarantined: Of the images, quarantined, by reason.
        failed_units: Units that could not be read.
        unwritable: The message of a labeler that could not write OUT.
    """

    def __init__(self, pending: Mapping[str, tuple[Unit, int | None]]) -> None:
        self._pending = pending
        self.receipts: dict[str, Receipt] = {}
        self.images = self.published = 0
        self.quarantined: Counter[str] = Counter()
        self.unwritable: str | None = None
        self.failed_units = 0
        self._units_done = 0
        self._started_at: float | None = None
        # what the total is estimated from: samples that are known, and bytes of which only some are seen
        self._known_samples = self._unknown_bytes = self._seen_samples = self._seen_bytes = 0
        for unit_id in pending:
            self._weigh(unit_id, None, +1)

    def take(self, receipt: Receipt) -> None:
        """Note the latest receipt of a unit. One that a restarted worker repeats, or that is late, changes nothing."""
        older = self.receipts.get(receipt.unit_id)
        if older is not None:
            ended = older.finished or older.failure is not None
            if not (receipt.finished or receipt.failure) and (ended or receipt.num_samples < older.num_samples):
                return
            receipt.parts = {**older.parts, **receipt.parts}
            receipt.started_at = min(older.started_at, receipt.started_at)
            receipt.committed_at = max(older.committed_at, receipt.committed_at)
        self._replace(older, receipt)
        if receipt.failure == UNWRITABLE:
            self.unwritable = receipt.message
        if self._started_at is None or receipt.started_at < self._started_at:
            self._started_at = receipt.started_at

    def settle(self, receipt: Receipt) -> None:
        """Put a receipt in the place of the one that came for a unit: what is on disk counts, not what was reported."""
        self._replace(self.receipts.get(receipt.unit_id), receipt)

    def _replace(self, older: Receipt | None, receipt: Receipt) -> None:
        if older is not None:
            self._count(older, -1)
        self._weigh(receipt.unit_id, older, -1)
        self._weigh(receipt.unit_id, receipt, +1)
        self._count(receipt, +1)
        self.receipts[receipt.unit_id] = receipt

    def _count(self, receipt: Receipt, sign: int) -> None:
        self.images += sign * receipt.num_samples
        self.published += sign * receipt.num_published
        self._units_done += sign * receipt.finished
        self.failed_units += sign * (receipt.failure is not None)
        for reason, count in receipt.num_quarantined.items():
            self.quarantined[reason] += sign * count

    def _weigh(self, unit_id: str, receipt: Receipt | None, sign: int) -> None:
        """Count a unit in or out of the estimate of the total."""
        unit, num_samples = self._pending[unit_id]
        num_bytes = max(0, unit.size_bytes)
        if receipt is not None and (receipt.finished or receipt.failure):
            num_samples = receipt.num_samples
        if num_samples is not None:
            self._known_samples += sign * num_samples
            self._seen_samples += sign * num_samples
            self._seen_bytes += sign * num_bytes
        else:
            self._unknown_bytes += sign * num_bytes
            if receipt is not None:
                self._seen_samples += sign * receipt.num_samples
                self._seen_bytes += sign * receipt.num_bytes

    @property
    def bad_rate(self) -> float:
        """Share of quarantined samples, 0-1."""
        return self.quarantined.total() / self.images if self.images else 0.0

    def snapshot(self, *, final: bool = False) -> Snapshot:
        """Where things stand, or stood when the run ended."""
        exact = self._unknown_bytes == 0
        total: int | None = self._known_samples
        if not exact:
            unknown = self._unknown_bytes * self._seen_samples
            total = self._known_samples + round(unknown / self._seen_bytes) if self._seen_bytes else None
        return Snapshot(
            images=self.images,
            total=total,
            exact=exact,
            quarantined=+self.quarantined,
            units_done=self._units_done,
            units_total=len(self._pending),
            failed_units=self.failed_units,
            seconds=0.0 if self._started_at is None else max(0.0, time.time() - self._started_at),
            published=self.published,
            final=final,
        )
