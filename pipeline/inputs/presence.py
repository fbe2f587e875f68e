"""Which planned inputs are there, and as which version."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.errors import ListingUnordered, ObjectMissing, StorageError
from pipeline.inputs.units import held_entries
from pipeline.records import Unit, UnitKind
from pipeline.storage import LISTED, Entry, Storage, look_at

_PARALLEL_READS = 32
_LISTING_SLACK = 4  # a listing may pass so many times the keys of a slice before each key is looked up alone


@dataclass(frozen=True, slots=True)
class Gone:
    """Inputs of a unit that are no longer there.

    Attributes:
        unit: The unit.
        indices: Of the loose images that are gone; 0 for a tar.
        whole: Whether nothing of the unit is left.
        unread: Of the indices, those of links that led nowhere, or of what nobody may open.
    """

    unit: Unit
    indices: tuple[int, ...]
    whole: bool
    unread: tuple[int, ...] = ()

    def split(self) -> tuple[Gone | None, Gone | None]:
        """What never could be read, and the rest; None for nothing."""
        rest = tuple(index for index in self.indices if index not in self.unread)
        lost = Gone(self.unit, self.unread, self.whole and not rest) if self.unread else None
        return lost, Gone(self.unit, rest, self.whole and lost is None) if rest else None


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
        for unit, gone in zip(tars, pool.map(lambda unit: _is_gone(unit, storage), tars), strict=True):
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
            unread = tuple(index for index, entry in held if index in missing and entry.etag == LISTED)
            yield Gone(unit, missing, whole=len(missing) == len(held), unread=unread)


def find_present(planned: list[Entry], prefix: str, storage: Storage) -> dict[str, Entry]:
    """The planned objects that are there, as they are now, by URI; links that lead nowhere and the like with size -1.

    Args:
        planned: Objects of a slice.
        prefix: Of all of them.
        storage: How to reach them.

    Raises:
        StorageError: They cannot be listed or looked at.
    """
    by_uri = {entry.uri: entry for entry in sorted(planned, key=lambda entry: entry.uri)}
    found: dict[str, Entry] = {}
    if prefix.startswith("s3://") and planned:
        with contextlib.suppress(ListingUnordered):  # then each is looked up alone
            if _find_in_listing(list(by_uri), prefix, storage, found):
                return found
    left = [entry for uri, entry in by_uri.items() if uri not in found]
    with ThreadPoolExecutor(_PARALLEL_READS) as pool:
        entries = pool.map(lambda entry: _look_up(entry, storage), left)
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


def _look_up(entry: Entry, storage: Storage) -> Entry | None:
    """An object as it is now; None if it is gone."""
    return look_at(entry.uri) if entry.etag == LISTED else _stat(entry.uri, storage)


def _is_gone(unit: Unit, storage: Storage) -> bool:
    try:
        return _look_up(Entry(unit.uri, unit.size_bytes, unit.etag), storage) is None
    except StorageError:
        return False


def _stat(uri: str, storage: Storage) -> Entry | None:
    try:
        return storage.stat(uri)
    except ObjectMissing:
        return None
