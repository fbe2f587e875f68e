"""The loose images of a slice: whether they are as planned, and their hashes."""

from __future__ import annotations

import contextlib
import hashlib
from concurrent.futures import ThreadPoolExecutor

from pipeline.errors import ListingUnordered, ObjectMissing, StorageError
from pipeline.records import Unit
from pipeline.stages.read import MAX_IMAGE_BYTES, slice_entries
from pipeline.storage import Entry, Storage
from pipeline.verifying.messages import RERUN, SampleNames

_PARALLEL_READS = 32
_LISTING_SLACK = 4  # a listing may pass so many times the keys of a slice before each key is looked up alone


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
        present = find_present([entry for _, entry in planned], unit.uri, storage)
    except StorageError as error:
        return [f"{unit.uri}: its images cannot be checked: {error}; verify again"], None
    changed, missing = SampleNames(), SampleNames()
    unchanged: dict[int, Entry] = {}
    for index, (key, entry) in enumerate(planned):
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
        discrepancies.append(f"{unit.uri}: {changed.count} images changed since they were planned: {changed}; {RERUN}")
    if missing.count:
        discrepancies.append(
            f"{unit.uri}: {missing.count} images are missing: {missing}; put them back, or {RERUN} on what is there"
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


def find_present(planned: list[Entry], prefix: str, storage: Storage) -> dict[str, Entry]:
    """The planned objects that are there, as they are now, by URI.

    Args:
        planned: Objects of a slice.
        prefix: Of all of them.
        storage: How to reach them.

    Raises:
        StorageError: They cannot be listed or looked at.
    """
    uris = sorted(entry.uri for entry in planned)
    found: dict[str, Entry] = {}
    if prefix.startswith("s3://") and planned:
        with contextlib.suppress(ListingUnordered):  # then each is looked up alone
            if _find_in_listing(uris, prefix, storage, found):
                return found
    left = [uri for uri in uris if uri not in found]
    with ThreadPoolExecutor(_PARALLEL_READS) as pool:
        entries = pool.map(lambda uri: _stat(uri, storage), left)
        return found | {entry.uri: entry for entry in entries if entry is not None}


def _find_in_listing(uris: list[str], prefix: str, storage: Storage, found: dict[str, Entry]) -> bool:
    """Find sorted URIs in the listing of a prefix; False if that was given up, because they are far apart."""
    wanted = frozenset(uris)
    found |= {entry.uri: entry for entry in [_stat(uris[0], storage)] if entry is not None}
    for number, entry in enumerate(storage.list(prefix, uris[0])):
        if entry.uri > uris[-1]:
            return True
        if number > _LISTING_SLACK * len(uris):
            return False
        if entry.uri in wanted:
            found[entry.uri] = entry
    return True


def _is_readable(uri: str, storage: Storage) -> bool:
    try:
        storage.check_readable(uri)
    except StorageError:
        return False
    return True


def _stat(uri: str, storage: Storage) -> Entry | None:
    try:
        return storage.stat(uri)
    except ObjectMissing:
        return None
