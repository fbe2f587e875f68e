"""The keys of a shard's samples before a cursor, from the parts that are published.

A run that goes on inside a shard does not read what comes before. So it is told these keys, and counts what comes again
like a run that was never interrupted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pipeline.errors import ObjectDamaged, ObjectMissing
from pipeline.output.ledger import PREDICTIONS, QUARANTINE, Ledger
from pipeline.output.parts import PartName
from pipeline.records import Cursor, Unit


def keys_before(cursor: Cursor, unit: Unit, fingerprint: str, ledger: Ledger) -> Iterator[str]:
    """Yield the keys of the samples that come before the members with which a cursor begins.

    A part that is damaged is left out: that is what ``verify`` is for.

    Raises while iterating:
        StorageError: A part cannot be read.
    """
    stop = cursor.index - cursor.skip  # the others are read again, and passed on no more
    for number in range(cursor.part):
        name = str(PartName(fingerprint, unit.id, number, last=False))
        for folder in (PREDICTIONS, QUARANTINE):
            with contextlib.suppress(ObjectMissing, ObjectDamaged):
                rows = ledger.read_part(folder, name, ["index", "key"])
                keys = zip(rows["index"].to_pylist(), rows["key"].to_pylist(), strict=True)
                yield from (key for index, key in keys if key is not None and index < stop)
