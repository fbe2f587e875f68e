"""Samples of published parts that are in quarantine, tried again: read, decoded and predicted like new ones."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.config.option_types import Images
from pipeline.labeler.chunks import PartEnd, SampleReader, cut_chunks
from pipeline.labeler.executor import Executor
from pipeline.labeler.patching import PartPatcher
from pipeline.labeler.tasks import Steps
from pipeline.output.ledger import PREDICTIONS, Ledger, translate_out_errors
from pipeline.output.parts import PartName
from pipeline.output.starts import part_start
from pipeline.records import Cursor, Item, Receipt, Sample, Unit
from pipeline.stages.read import UnitReader
from pipeline.stages.write import Part
from pipeline.storage import Storage

_ALL = 1 << 62

Retried = Mapping[str, Sequence[int]]  # indices of samples by the name of their part


@dataclass(frozen=True, slots=True)
class PartRetry:
    """What it takes to try samples again.

    Attributes:
        ledger: Of the output.
        storage: How to reach the unit.
        patcher: Writes what came of them.
        executor: Runs the chunks.
        keep: Fields that are copied.
        images: Which images of a sample are labelled.
    """

    ledger: Ledger
    storage: Storage
    patcher: PartPatcher
    executor: Executor
    keep: tuple[str, ...]
    images: Images

    def run(self, unit: Unit, name: str, indices: Sequence[int], steps: Steps, receipt: Receipt) -> None:
        """Try samples of one part again, patch the part, and count them.

        Raises:
            PublishError: OUT cannot be read or written.
            StorageError: The unit cannot be read.
        """
        part_name = PartName.parse(name)
        assert part_name is not None
        with translate_out_errors():
            wanted = self.patcher.quarantined(part_name, indices)
            footer = self.ledger.footer(PREDICTIONS, name)
            cursor = part_start(self.ledger, part_name.fingerprint, unit.id, part_name.part)
        if not wanted:
            return
        reader = UnitReader(unit, self.storage, cursor, self.keep, images=self.images, only=wanted)
        part = Part(footer.part, footer.first_index)
        tried = Receipt(unit.id)
        chunks = cut_chunks(_Chosen(reader, wanted), cursor, _ALL, self.executor.chunk_images)
        with self.executor.stream(chunks, steps) as results:
            for result in results:
                if not isinstance(result, PartEnd):
                    result.gather(part, tried, steps.aliases)
        with translate_out_errors():
            self.patcher.patch(unit, part_name, part)
        _count(tried, receipt)


class _Chosen:
    """Some samples of a unit, and nothing of what lies between them.

    Args:
        reader: Of the unit.
        indices: Of the samples.
    """

    def __init__(self, reader: UnitReader, indices: Collection[int]) -> None:
        self._reader: SampleReader = reader
        self._indices = indices

    @property
    def unsorted(self) -> bool | None:
        """As of the reader."""
        return self._reader.unsorted

    def cursor_at(self, part: int, sample: Sample) -> Cursor:
        """Where a part would begin with this sample."""
        return self._reader.cursor_at(part, sample)

    def __iter__(self) -> Iterator[Item]:
        last = max(self._indices)
        for item in self._reader:
            if isinstance(item, Sample):
                if item.index in self._indices:
                    yield item
                if item.index >= last:
                    return


def _count(tried: Receipt, receipt: Receipt) -> None:
    """Count samples that were tried again, and whose part is patched."""
    receipt.num_samples += tried.num_samples
    receipt.num_published += tried.num_samples
    receipt.num_labelled += tried.num_labelled
    for reason, count in tried.num_quarantined.items():
        receipt.num_quarantined[reason] = receipt.num_quarantined.get(reason, 0) + count
    for stage, seconds in tried.stage_s.items():
        receipt.stage_s[stage] = receipt.stage_s.get(stage, 0.0) + seconds
    receipt.truths_not_understood.merge(tried.truths_not_understood)
    receipt.committed_at = time.time()
