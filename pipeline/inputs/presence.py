"""Which planned inputs are there, and as which version."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.errors import ObjectMissing, StorageError
from pipeline.inputs.units import held_entries
from pipeline.records import Unit, UnitKind
from pipeline.storage import Entry, Storage

_PARALLEL_READS = 32
_LISTING_SLACK = 4  # a listing may pass so many times the keys of a slice before each key is looked up alone


@dataclass(frozen=True, slots=True)
class Gone:
    """Inputs of a unit that are no longer there.

    Attributes:
        unit: The unit.
        indices: Of the loose images that are gone; 0 for a tar.
        whole: Whether nothing of the unit is left.
    """

    unit: Unit
    indices: tuple[int, ...]
    whole: bool


def find_gone(units: Sequence[Unit], storage: Storage, most: int | None = None) -> Iterator[Gone]:
    """Look up units, and yield those of which something is gone. What cannot be looked up is not known to be gone.

    Args:
        units: The units.
        storage: How to reach them.
        most: Number of objects that are looked up at most; None for all.
    """
    left = len(units) if most is None else most
    tars = [unit for unit in units if unit.kind == UnitKind.TAR][:left]
    left -= len(tars)
    with ThreadPoolExecutor(_PARALLEL_READS) as pool:
        for unit, gone in zip(tars, pool.map(lambda unit: _is_gone(unit.uri, storage), tars), strict=True):
            if gone:
                yield Gone(unit, (0,), whole=True)
    for unit in itertools.filterfalse(lambda unit: unit.kind == UnitKind.TAR, units):
        left -= unit.num_samples or 0
        if most is not None and left < 0:
            return
        try:
            held = held_entries(unit, storage)
            present = find_present([entry for _, entry in held], unit.uri, storage)
        except StorageError:
            continue
        if missing := tuple(index for index, entry in held if entry.uri not in present):
            yield Gone(unit, missing, whole=len(missing) == len(held))


def find_present(planned: list[Entry], prefix: str, storage: Storage) -> dict[str, Entry]:
    """The planned objects that are there, as they are now, by URI.

    Args:
        planned: Sorted by URI.
        prefix: Of all of them.
        storage: How to reach them.

    Raises:
        StorageError: They cannot be listed or looked at.
    """
    uris = {entry.uri for entry in planned}
    found: dict[str, Entry] = {}
    if prefix.startswith("s3://") and planned:
        found |= {entry.uri: entry for entry in [_stat(planned[0].uri, storage)] if entry is not None}
        listing = storage.list(prefix, planned[0].uri)
        for number, entry in enumerate(listing):
            if entry.uri > planned[-1].uri:
                return found
            if number > _LISTING_SLACK * len(planned):
                break  # the keys are far apart
            if entry.uri in uris:
                found[entry.uri] = entry
        else:
            return found
    left = [entry.uri for entry in planned if entry.uri not in found]
    with ThreadPoolExecutor(_PARALLEL_READS) as pool:
        entries = pool.map(lambda uri: _stat(uri, storage), left)
        return found | {entry.uri: entry for entry in entries if entry is not None}


def _is_gone(uri: str, storage: Storage) -> bool:
    try:
        return _stat(uri, storage) is None
    except StorageError:
        return False


def _stat(uri: str, storage: Storage) -> Entry | None:
    try:
        return storage.stat(uri)
    except ObjectMissing:
        return None
