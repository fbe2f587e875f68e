"""Where the parts of a unit begin."""

from __future__ import annotations

import contextlib

from pipeline.errors import ObjectMissing
from pipeline.output.ledger import PREDICTIONS, Ledger
from pipeline.output.parts import PartName
from pipeline.records import Cursor


def part_start(ledger: Ledger, fingerprint: str, unit_id: str, part: int) -> Cursor:
    """Where a part starts in its unit, from the footer of the part before it; for the first, how the unit is read.

    Args:
        ledger: Of the output.
        fingerprint: Of its job.
        unit_id: The unit.
        part: Number of the part, from 0.

    Raises:
        StorageError: The footer cannot be read.
    """
    if part > 0:
        before = PartName(fingerprint, unit_id, part - 1, last=False)
        return ledger.footer(PREDICTIONS, str(before)).next
    for last in (True, False):
        with contextlib.suppress(ObjectMissing):
            footer = ledger.footer(PREDICTIONS, str(PartName(fingerprint, unit_id, 0, last=last)))
            return Cursor(unsorted=footer.next.unsorted)
    return Cursor()
