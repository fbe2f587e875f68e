"""The destination of an export: its files, which export owns it, and which parts are done.

::

    TO/
      README.md                    dataset card
      classes.txt                  names of all classes, one a line, by index
      data/...                     the dataset
      export.json                  options, source, and counts of the selection
      plan/part-*.parquet          selected images of each part of the source; plan/parts.json is written last
      metadata/part-*.parquet      for loose files: the rows of a part
      commits/part-*.json          the commit of a part: its files, and the images left out
      _SUCCESS                     JSON: files with row counts; written last

Names are a function of the export's fingerprint and the part of the source.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ObjectChanged, ObjectDamaged, ObjectMissing, OutputError, StorageError
from pipeline.output.ledger import SUCCESS, Ledger, to_json
from pipeline.output.parts import PARSE_ERRORS, PartName
from pipeline.storage import Entry, Storage
from pipeline.storage.arrow_memory import arrow_reader

EXPORT, CARD, CLASSES, PARTS = "export.json", "README.md", "classes.txt", "plan/parts.json"
DATA, PLAN, COMMITS, METADATA = "data", "plan", "commits", "metadata"
_PARALLEL = 32
_CLAIM_ATTEMPTS = 3


class Target:
    """One export at one place.

    Args:
        to: Directory or prefix.
        storage: How to reach it.
        fingerprint: Of the export.
    """

    def __init__(self, to: str, storage: Storage, fingerprint: str) -> None:
        self.ledger = Ledger(to, storage)
        self.fingerprint = fingerprint
        self._storage = storage

    # -- owner ----------------------------------------------------------------------------------------

    def check(self, request: Mapping[str, Any], *, overwrite: bool) -> bool:
        """Whether this export owns the place already; if not, check that it may take it.

        Raises:
            OutputError: Something else is there.
        """
        owner = self.ledger.read_json(EXPORT)
        place = self.ledger.out
        if owner is None:
            if self._is_occupied():
                raise OutputError(f"--to {place} holds something else (no {EXPORT}); choose an empty place")
            return False
        if owner.get("fingerprint") == self.fingerprint:
            return True
        if not overwrite:
            differing = ", ".join(_differences(owner.get("asked", {}), request)) or "what it was made of"
            raise OutputError(
                f"--to {place} holds another export; it differs in {differing}. Choose another --to, or pass "
                "--overwrite to replace it"
            )
        return False

    def _is_occupied(self) -> bool:
        try:
            return next(iter(self._storage.list(self.ledger.out + "/", any_order=True)), None) is not None
        except ObjectMissing:
            return False
        except StorageError as error:
            raise OutputError(f"--to {error}") from error

    def claim(self, content: Mapping[str, Any], *, overwrite: bool) -> None:
        """Take ownership of the place. Of several exports that try at once, one succeeds.

        Raises:
            OutputError: Another export owns it, or it cannot be written.
        """
        for _ in range(_CLAIM_ATTEMPTS):
            version, owner = self.ledger.version(EXPORT), self.ledger.read_json(EXPORT)
            is_own = owner is not None and owner.get("fingerprint") == self.fingerprint
            replaces = owner is not None and (owner.get("replaces", False) if is_own else True)
            if is_own or (
                (owner is None or overwrite)
                and self._swap_description(to_json({**content, "replaces": replaces}), version)
            ):
                break
        else:
            raise OutputError(f"--to {self.ledger.out}: another export has just begun there; choose another --to")
        if replaces:  # also again, if the export that took the place was killed while it cleared
            self._clear()

    def _swap_description(self, data: bytes, older: Entry | None) -> bool:
        """Write ``export.json`` if it still has the given version; whether that was so."""
        uri = self.ledger.uri(EXPORT)
        try:
            return (
                self._storage.publish(uri, data)
                if older is None
                else self._storage.replace_if_unchanged(uri, data, older)
            )
        except StorageError as error:
            raise OutputError(f"--to cannot be written: {error}") from error

    def read_description(self) -> dict[str, Any]:
        """Read ``export.json``.

        Raises:
            OutputError: It cannot be read.
        """
        found = self.ledger.read_json(EXPORT)
        if found is None or found.get("fingerprint") != self.fingerprint:
            raise OutputError(f"--to {self.ledger.out}: another export has taken it over; choose another --to")
        return found

    def _clear(self) -> None:
        """Remove the files of another export, commits first."""
        self.remove_success()
        for folder in (COMMITS, PLAN, METADATA, DATA):
            for name in self.ledger.names(folder):
                self._delete(folder, name)
            self.prune(folder)
        for name in (CARD, CLASSES):
            self._delete(name)

    def prune(self, folder: str) -> None:
        """Remove empty folders: torchvision's ``ImageFolder`` refuses a class without images."""
        self._storage.prune(self.ledger.uri(folder))

    def _delete(self, *names: str) -> None:
        try:
            self._storage.delete(self.ledger.uri(*names))
        except StorageError as error:
            raise OutputError(f"--to cannot be written: {error}") from error

    def check_owner(self) -> None:
        """Check that this export still owns the place.

        Raises:
            ObjectChanged: Another export has taken it over.
            StorageError: ``export.json`` cannot be read.
        """
        uri = self.ledger.uri(EXPORT)
        try:
            owner = json.loads(self._storage.read(uri))["fingerprint"]
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            raise ObjectDamaged(f"{uri}: damaged: {error!r}") from error
        if owner != self.fingerprint:
            raise ObjectChanged(f"{uri}: another export has taken this place over (--overwrite)")

    def sweep(self, class_folders: Iterable[str]) -> None:
        """Remove temporary files of killed writers.

        Args:
            class_folders: Names of folders in ``data``.
        """
        for folder in ("", PLAN, COMMITS, METADATA, DATA, *(f"{DATA}/{name}" for name in class_folders)):
            self._storage.sweep(self.ledger.uri(folder))

    def read_success(self) -> dict[str, Any] | None:
        """``_SUCCESS`` of this export; None while there is none."""
        found = self.ledger.read_json(SUCCESS)
        return found if found and found.get("fingerprint") == self.fingerprint else None

    def remove_success(self) -> None:
        """Remove ``_SUCCESS``."""
        self.ledger.remove_success()

    # -- plan -----------------------------------------------------------------------------------------

    def name(self, part: PartName) -> str:
        """The name of files for a part of the source, without extension."""
        return str(PartName(self.fingerprint, part.unit_id, part.part, last=False)).removesuffix(".parquet")

    def write_plan(self, selections: Iterable[tuple[PartName, pa.Table]]) -> dict[str, int]:
        """Publish the selected images of each part, and last the list of parts.

        Returns:
            Number of images by name of the part.

        Raises:
            OutputError: The place cannot be written.
        """
        counts: dict[str, int] = {}

        def put(item: tuple[PartName, pa.Table]) -> tuple[str, int]:
            name = self.name(item[0])
            buffer = io.BytesIO()
            pq.write_table(item[1], buffer, compression="zstd", write_page_checksum=True)
            self._storage.replace(self.ledger.uri(PLAN, f"{name}.parquet"), buffer.getvalue())
            return name, item[1].num_rows

        try:
            with ThreadPoolExecutor(_PARALLEL) as pool:
                for some in _batched(selections, _PARALLEL):
                    counts.update(pool.map(put, some))
            self.put(PARTS, to_json({"fingerprint": self.fingerprint, "parts": counts}, None))
        except StorageError as error:
            raise OutputError(f"--to cannot be written: {error}") from error
        return counts

    def read_plan(self) -> dict[str, int] | None:
        """Number of selected images of each part, by name; None until the selection is complete."""
        found = self.ledger.read_json(PARTS)
        return found["parts"] if found and found.get("fingerprint") == self.fingerprint else None

    def read_selection(self, name: str) -> pa.Table:
        """Read the selected images of a part: ``index``, ``copies``, ``shared``.

        Raises:
            StorageError: The plan cannot be read.
        """
        uri = self.ledger.uri(PLAN, f"{name}.parquet")
        data = arrow_reader(self._storage.read(uri))
        try:
            return pq.ParquetFile(data, page_checksum_verification=True).read()
        except PARSE_ERRORS as error:
            raise ObjectDamaged(f"{uri}: damaged: {error}") from error

    # -- data, commits --------------------------------------------------------------------------------

    def put(self, path: str, data: bytes) -> None:
        """Write a file of the dataset, whole or not at all.

        Raises:
            StorageError: It cannot be written.
        """
        self._storage.replace(self.ledger.uri(path), data)

    def remove(self, path: str) -> None:
        """Remove a file of the dataset.

        Raises:
            StorageError: It cannot be removed.
        """
        self._storage.delete(self.ledger.uri(path))

    def commit(self, name: str, record: Mapping[str, Any]) -> None:
        """Record that a part is exported.

        Raises:
            ObjectChanged: Another export has taken the place over.
            StorageError: It cannot be written.
        """
        self.check_owner()
        self._storage.publish(self.ledger.uri(COMMITS, f"{name}.json"), to_json(dict(record), None))

    def committed_parts(self) -> set[str]:
        """Names of the exported parts, from one listing; no file is opened."""
        start = f"part-{self.fingerprint[:8]}-"
        names = self.ledger.names(COMMITS)
        return {name.removesuffix(".json") for name in names if name.startswith(start) and name.endswith(".json")}

    def read_commits(self, names: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Read the commits of these parts, in order.

        Raises:
            OutputError: A commit cannot be read.
        """

        def read(name: str) -> dict[str, Any]:
            found = self.ledger.read_json(f"{COMMITS}/{name}.json")
            if found is None:
                raise OutputError(f"{self.ledger.uri(COMMITS, name)}.json: gone; run the same command again")
            return found

        with ThreadPoolExecutor(_PARALLEL) as pool:
            for some in _batched(names, _PARALLEL):
                yield from pool.map(read, some)


def _batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    held: list[Any] = []
    for item in items:
        held.append(item)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held


_IN_WORDS = {
    "source": "the output that it is made of",
    "truth_sha256": "the truth",
    "classes_sha256": "--classes",
    "groups_from": "where groups come from",
}


def _differences(older: Mapping[str, Any], newer: Mapping[str, Any]) -> list[str]:
    """The options that differ between two exports, with both values where these are short."""
    found = []
    for name in dict.fromkeys([*newer, *older]):
        then, now = older.get(name), newer.get(name)
        if then == now:
            continue
        option = f"--{name.replace('_', '-')}"
        if name in _IN_WORDS:
            found.append(_IN_WORDS[name])
        else:
            found.append(f"{option} ({_format_value(then)} then, {_format_value(now)} now)")
    return found


def _format_value(value: object) -> str:
    return "none" if value is None else str(value)
