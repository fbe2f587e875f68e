"""What a run has published of units that it did not finish: their parts tell, not what labelers last reported.

A labeler reports samples as it goes, and those of the part that it was at are lost when it stops or dies.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from pipeline.job.pending import PendingWork
from pipeline.job.tracking import Tracker
from pipeline.output.counting import count_part
from pipeline.output.ledger import Ledger
from pipeline.output.parts import Progress
from pipeline.records import Receipt

_PARALLEL_READS = 32


def settle_unfinished(
    tracker: Tracker, work: PendingWork, ledger: Ledger, fingerprint: str, progress: Mapping[str, Progress]
) -> None:
    """Count the units that were begun and not finished by their published parts.

    Args:
        tracker: The receipts of the run; those of such units are replaced.
        work: What was pending when the run began.
        ledger: Of the output.
        fingerprint: Of the job.
        progress: What is published of each unit now.

    Raises:
        StorageError: A part cannot be read.
    """

    def settle(reported: Receipt) -> Receipt:
        counted = Receipt(
            reported.unit_id,
            num_bytes=reported.num_bytes,
            failure=reported.failure,
            message=reported.message,
            stage_s=reported.stage_s,
            wait_s=reported.wait_s,
            started_at=reported.started_at,
            committed_at=reported.committed_at,
            num_decoded_on_gpu=reported.num_decoded_on_gpu,
        )
        published = progress.get(reported.unit_id, Progress())
        before = work.parts_done.get(reported.unit_id, 0)
        for part in list(published.parts(fingerprint, reported.unit_id))[before:]:
            count_part(ledger, part, counted)
        if counted.parts.keys() - reported.parts.keys():  # published by a labeler that died before it could say so
            counted.committed_at = time.time()
        return counted

    # of samples that were tried again only those are reported whose part is patched
    unfinished = [item for item in tracker.receipts.values() if not item.finished and item.unit_id not in work.patched]
    with ThreadPoolExecutor(_PARALLEL_READS) as pool:
        for receipt in pool.map(settle, unfinished):
            tracker.settle(receipt)
