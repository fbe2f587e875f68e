"""Predictions that are not finite: the image is quarantined, because softmax of NaN would call it class 0."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from pipeline.models.ensemble import Predictions
from pipeline.records import Reason
from pipeline.stages.write import Picture, QuarantineRow


def split_not_finite(
    pictures: Sequence[Picture], predictions: Predictions, aliases: Sequence[str]
) -> tuple[list[Picture], Predictions | None, list[QuarantineRow]]:
    """Take the images out that a member has no finite logits for, in fp32 too.

    Args:
        pictures: The images.
        predictions: Of these.
        aliases: Of the members.

    Returns:
        The other images, their predictions (None if there are none), and the quarantine rows of those taken out.
    """
    finite_B = predictions.is_finite
    if finite_B.all():
        return list(pictures), predictions, []
    rows = []
    for place in np.flatnonzero(~finite_B):
        energies = zip(aliases, predictions.members, strict=True)
        names = [alias for alias, member in energies if not np.isfinite(member.energy_B[place])]
        message = f"{', '.join(names)}: logits that are not finite"
        rows.append(QuarantineRow.picture(pictures[int(place)], Reason.NOT_FINITE, message))
    kept = [picture for picture, finite in zip(pictures, finite_B, strict=True) if finite]
    return kept, predictions.take(finite_B) if kept else None, rows


def is_of_another_member(reason: str, message: str, aliases: Collection[str]) -> bool:
    """Whether a quarantined image may be labelled by these members: numbers of other ones are not finite for it.

    Args:
        reason: Of its row.
        message: Of its row, as :func:`split_not_finite` writes it.
        aliases: Of the members, as they were called there.
    """
    return reason == Reason.NOT_FINITE and not {*message.partition(": ")[0].split(", ")} & {*aliases}


def insert_in_order(rows: list[QuarantineRow], more: Sequence[QuarantineRow]) -> None:
    """Insert rows of samples where their indices belong; damage to the shard keeps its place among the others."""
    at = 0
    for row in more:
        while at < len(rows) and ((index := rows[at].index) is None or index < (row.index or 0)):
            at += 1
        rows.insert(at, row)
