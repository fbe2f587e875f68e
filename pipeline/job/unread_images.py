"""Loose images that could not be read: missing, forbidden, or in an archive class.

A shard of that kind is a unit that failed, and the next run tries it again. A loose image is one of 2,048 in a slice:
its row is in quarantine and the slice is complete. So the rows tell which images those are, and a later run labels a
slice again as soon as one of them can be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from pipeline.errors import OutputError, StorageError
from pipeline.inputs.plan import Plan
from pipeline.job.summary import FailedUnit
from pipeline.output.ledger import QUARANTINE, Ledger
from pipeline.output.parts import PartName
from pipeline.records import UNREAD_REASONS, Unit, UnitKind
from pipeline.stages.read import slice_entries
from pipeline.storage import Entry, Storage

_PARALLEL_READS = 32


def find_unread_images(
    units: Sequence[Unit], ledger: Ledger, fingerprint: str
) -> Iterator[tuple[Unit, list[FailedUnit]]]:
    """Find the loose images that could not be read, slice by slice; slices without any are left out.

    Only quarantine of slices is looked at, part by part.

    Args:
        units: The plan.
        ledger: Of the output.
        fingerprint: Of the job.
    """
    slices = {unit.id: unit for unit in units if unit.kind == UnitKind.SLICE}
    if not slices:
        return
    parts = [part for part in map(PartName.parse, ledger.names(QUARANTINE)) if part and part.unit_id in slices]
    own = [part for part in parts if part.fingerprint == fingerprint[:8]]

    def read(part: PartName) -> tuple[Unit, list[FailedUnit]]:
        unit = slices[part.unit_id]
        try:
            table = ledger.read_part(QUARANTINE, str(part), ["key", "reason", "message"])
        except StorageError:
            return unit, []  # which `verify` reports
        rows = zip(*(table[name].to_pylist() for name in ("key", "reason", "message")), strict=True)
        return unit, [FailedUnit(unit.uri + key, why, text) for key, why, text in rows if key and why in UNREAD_REASONS]

    with ThreadPoolExecutor(_PARALLEL_READS) as pool:
        yield from ((unit, images) for unit, images in pool.map(read, own) if images)


def retry_unread_images(plan: Plan, ledger: Ledger, storage: Storage, fingerprint: str) -> None:
    """Have slices labelled again of which an image can be read by now.

    Raises:
        OutputError: OUT cannot be read.
    """
    for unit, images in find_unread_images(plan.units, ledger, fingerprint):
        if unit.id in plan.replaced:
            continue
        assert unit.keys_uri is not None
        try:
            planned = {unit.uri + key: entry for key, entry in slice_entries(unit, storage.read(unit.keys_uri))}
        except StorageError as error:
            raise OutputError(f"the plan in OUT is damaged: {error}") from error
        # of those that could not be read when they were planned, the listing tells
        entries = [planned[image.uri] for image in images if image.uri in planned]
        with ThreadPoolExecutor(_PARALLEL_READS) as pool:
            if any(pool.map(lambda entry: entry.size_bytes >= 0 and _is_readable(entry, storage), entries)):
                plan.replaced.add(unit.id)


def _is_readable(entry: Entry, storage: Storage) -> bool:
    try:
        storage.fetch(entry)
    except StorageError:
        return False
    return True
