"""The loose images of a slice: whether they are as planned, and their hashes."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

from pipeline.errors import StorageError
from pipeline.inputs.presence import find_present
from pipeline.records import Unit
from pipeline.stages.grouping import MAX_IMAGE_BYTES
from pipeline.stages.read import LET_GO, slice_entries
from pipeline.storage import Entry, Storage
from pipeline.text import fmt
from pipeline.verifying.messages import PRUNE, RERUN, SampleNames

_PARALLEL_READS = 32


def check_loose_images(unit: Unit, storage: Storage, *, deep: bool) -> tuple[list[str], dict[int, str] | None]:
    """Find the images of a slice that are not as planned, and hash the others.

    Args:
        unit: The slice.
        storage: How to reach it.
        deep: Whether to hash.

    Returns:
        Discrepancies, one line each; and SHA-256 by index, None if not deep or where the images cannot be checked.
    """
    assert unit.keys_uri is not None
    try:
        planned = slice_entries(unit, storage.read(unit.keys_uri))
    except StorageError:
        return [], None  # reading the slice fails as well, and reports it
    try:
        present = find_present([entry for _, entry in planned if entry.size_bytes != LET_GO], unit.uri, storage)
    except StorageError as error:
        return [f"{unit.uri}: its images cannot be checked: {error}; verify again"], None
    changed, missing = SampleNames(), SampleNames()
    unchanged: dict[int, Entry] = {}
    for index, (key, entry) in enumerate(planned):
        if entry.size_bytes == LET_GO:
            continue
        now = present.get(entry.uri)
        if entry.size_bytes < 0:  # it could not be read when it was planned: its row says so, as long as it is so
            if now is not None and _is_readable(entry.uri, storage):
                changed.add(index, key)
        elif now is None:
            missing.add(index, key)
        elif (now.size_bytes, now.etag) != (entry.size_bytes, entry.etag):
            changed.add(index, key)
        elif 0 < entry.size_bytes <= MAX_IMAGE_BYTES:  # others are not read for labelling either
            unchanged[index] = entry
    discrepancies = []
    if changed.count:
        discrepancies.append(
            f"{unit.uri}: {fmt.plural(changed.count, 'image')} changed since they were planned: {changed}; {RERUN}"
        )
    if missing.count:
        discrepancies.append(
            f"{unit.uri}: {fmt.plural(missing.count, 'image is', 'images are')} missing: {missing}; put them back, "
            f"or {PRUNE}"
        )
    return discrepancies, _hash_all(unchanged, storage) if deep else None


def _hash_all(entries: dict[int, Entry], storage: Storage) -> dict[int, str]:
    """SHA-256 of the images that can be read, by index."""

    def read(entry: Entry) -> str | None:
        try:
            image = storage.fetch(entry)
        except StorageError:
            return None
        return hashlib.sha256(image).hexdigest()

    with ThreadPoolExecutor(_PARALLEL_READS) as pool:
        hashes = zip(entries, pool.map(read, entries.values()), strict=True)
        return {index: sha256 for index, sha256 in hashes if sha256 is not None}


def _is_readable(uri: str, storage: Storage) -> bool:
    try:
        storage.check_readable(uri)
    except StorageError:
        return False
    return True
