"""What a whole output holds, beside what one run added to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from pipeline.output.counting import count_part
from pipeline.output.ledger import Ledger
from pipeline.output.parts import PartName, Progress
from pipeline.records import Receipt, Unit

_MOST_READ = 1_000  # parts of earlier runs: a few seconds on S3
_PARALLEL_READS = 32


def count_output(
    ledger: Ledger,
    fingerprint: str,
    units: Sequence[Unit],
    progress: Mapping[str, Progress],
    receipts: Iterable[Receipt],
) -> tuple[int, int] | None:
    """Count the samples of an output that are labelled, and those in quarantine.

    Args:
        ledger: Of the output.
        fingerprint: Of the job.
        units: The plan.
        progress: What is published of each unit.
        receipts: Of this run; other parts are read.

    Returns:
        The two numbers; None where there are too many parts of earlier runs, which `status` counts.

    Raises:
        StorageError: A part cannot be read.
    """
    receipts = list(receipts)
    seen = {name for receipt in receipts for name in receipt.parts}
    others: list[PartName] = []
    for unit in units:
        parts = progress.get(unit.id, Progress()).parts(fingerprint, unit.id)
        others += [part for part in parts if str(part) not in seen]
        if len(others) > _MOST_READ:
            return None

    def count(part: PartName) -> Receipt:
        counted = Receipt(part.unit_id)
        count_part(ledger, part, counted)
        return counted

    with ThreadPoolExecutor(_PARALLEL_READS) as pool:
        receipts += pool.map(count, others)
    labelled = sum(receipt.num_labelled for receipt in receipts)
    return labelled, sum(receipt.num_samples for receipt in receipts) - labelled
