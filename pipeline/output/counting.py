"""Counting what is published: of a part, from its own files."""

from __future__ import annotations

import contextlib

from pipeline.errors import ObjectMissing
from pipeline.output.ledger import PREDICTIONS, QUARANTINE, Ledger
from pipeline.output.parts import PartName
from pipeline.records import Receipt


def count_part(ledger: Ledger, part: PartName, receipt: Receipt) -> None:
    """Add a published part to a receipt, as the labeler that published it counted it.

    Raises:
        StorageError: The part cannot be read.
    """
    name = str(part)
    footer = ledger.footer(PREDICTIONS, name)
    rejected: list[dict[str, str]] = []
    with contextlib.suppress(ObjectMissing):
        rejected = ledger.read_part(QUARANTINE, name, ["key", "reason"]).to_pylist()
    num_samples = footer.num_rows + sum(row["key"] is not None for row in rejected)
    receipt.parts[name] = [footer.num_rows, len(rejected)]
    receipt.num_labelled += footer.num_rows
    receipt.num_samples += num_samples
    receipt.num_published += num_samples
    receipt.truths_not_understood.merge(footer.truths_not_understood)
    receipt.omitted.add(footer.omitted)
    for row in rejected:
        counts = receipt.num_quarantined if row["key"] is not None else receipt.num_events
        counts[row["reason"]] = counts.get(row["reason"], 0) + 1
