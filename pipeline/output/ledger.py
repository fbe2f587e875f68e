"""What is on disk: the layout of OUT, and which units are done.

The published part files are the only truth about what is done. Their names are a pure function of the
fingerprint, the unit and the part number, so a listing of names, without opening any, tells what is left::

    predictions/part-FFFFFFFF-UUUUUUUUUUUUUUUU-00003.parquet        part 3 of a unit, more to come
    predictions/part-FFFFFFFF-UUUUUUUUUUUUUUUU-00004-last.parquet   its last part: the unit is complete

Each part's Parquet footer records where the next one starts, so a restart goes on inside the shard.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.settings import StorageConfig
from pipeline.errors import ObjectChanged, ObjectDamaged, ObjectMissing, OutputError, PublishError, StorageError
from pipeline.output.parts import (
    DAMAGE,
    PART_NAME,
    UNREADABLE_NAME,
    PartFooter,
    PartName,
    Progress,
    progress_of,
    read_footer,
    unit_of,
)
from pipeline.output.shapes import JobShape, OwnerShape, SuccessShape, check_columns, check_shape
from pipeline.records import Cursor, Unit
from pipeline.storage import Entry, Storage, absolute_uri, join

JOB, SUCCESS, UNITS = "job.json", "_SUCCESS", "plan/units.parquet"
PREDICTIONS, QUARANTINE, PROBABILITIES = "predictions", "quarantine", "probabilities"
_PUBLISHED = (PREDICTIONS, QUARANTINE, PROBABILITIES)  # commits first, when they are taken back
ATTEMPTS = "attempts"
_TAIL_BYTES = 64 << 10
_PARALLEL_READS = 32


class Ledger:
    """The output of one job at one place.

    Raises:
        OutputError: The place has a scheme that is not known.
    """

    def __init__(self, out: str, storage: Storage) -> None:
        try:
            self.out = absolute_uri(out).rstrip("/") or "/"
        except StorageError as error:
            raise OutputError(f"OUT {error}") from error
        self._storage = storage

    def uri(self, *names: str) -> str:
        """A place inside OUT."""
        return join(self.out, *names)

    # -- job.json, _SUCCESS ---------------------------------------------------------------------------

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON object of OUT; None when there is none.

        Raises:
            OutputError: It cannot be read, or is no JSON object.
        """
        try:
            loaded = json.loads(self._storage.read(self.uri(name)))
        except ObjectMissing:
            return None
        except StorageError as error:
            raise OutputError(str(error)) from error
        except (ValueError, RecursionError) as error:
            raise OutputError(f"{self.uri(name)}: not JSON: {error}") from error
        if not isinstance(loaded, dict):
            raise OutputError(f"{self.uri(name)}: not a JSON object")
        return loaded

    def success(self) -> dict[str, Any] | None:
        """What ``_SUCCESS`` holds; None while the job is not finished.

        Raises:
            OutputError: It cannot be read, or lists no parts.
        """
        found = self.read_json(SUCCESS)
        if found is not None:
            check_shape(SuccessShape, self.uri(SUCCESS), found)
        return found

    def owner(self) -> dict[str, Any] | None:
        """What ``job.json`` holds, for a job that wants to write here; None where there is none.

        Raises:
            OutputError: It cannot be read, or describes no job.
        """
        found = self.read_json(JOB)
        if found is not None:
            check_shape(OwnerShape, self.uri(JOB), found)
        return found

    def job(self) -> dict[str, Any]:
        """The job that OUT belongs to.

        Raises:
            OutputError: OUT is not the output of a job.
        """
        job = self.read_json(JOB)
        if job is None or "fingerprint" not in job:
            raise OutputError(f"{self.out}: not an output of shardlabel (no {JOB} in it)")
        check_shape(JobShape, self.uri(JOB), job)
        return job

    def check_owner(self, fingerprint: str) -> None:
        """Make sure that OUT still belongs to a job.

        Raises:
            ObjectChanged: Another job has taken it over.
            StorageError: That cannot be told.
        """
        uri = self.uri(JOB)
        try:
            owner = json.loads(self._storage.read(uri))["fingerprint"]
        except ObjectMissing:
            return
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            raise ObjectDamaged(f"{uri}: damaged: {error!r}") from error
        if owner != fingerprint:
            raise ObjectChanged(f"{uri}: another job has taken this output over (--overwrite)")

    def version(self, name: str) -> Entry | None:
        """The version of a file of OUT; None when there is none.

        Raises:
            OutputError: That cannot be told.
        """
        try:
            return self._storage.stat(self.uri(name))
        except ObjectMissing:
            return None
        except StorageError as error:
            raise OutputError(str(error)) from error

    def write_over(self, name: str, data: bytes, older: Entry | None) -> bool:
        """Write a file of OUT unless somebody else has, since it had the given version (None: was not there).

        Raises:
            OutputError: OUT cannot be written.
        """
        uri = self.uri(name)
        try:
            return self._storage.publish(uri, data) if older is None else self._storage.swap(uri, data, older)
        except StorageError as error:
            raise OutputError(f"OUT cannot be written: {error}") from error

    def write_json(self, name: str, content: dict[str, Any], *, indent: int | None = 2) -> None:
        """Write a JSON object, whole or not at all; on one line without an indent, which is ten times as fast.

        Raises:
            OutputError: OUT cannot be written.
        """
        try:
            self._storage.replace(self.uri(name), to_json(content, indent))
        except StorageError as error:
            raise OutputError(f"OUT cannot be written: {error}") from error

    def clear(self) -> None:
        """Remove everything that jobs wrote but for ``job.json``, the commits first.

        Raises:
            OutputError: OUT cannot be written.
        """
        self.withdraw_success()
        for folder in (*_PUBLISHED, "plan", ATTEMPTS):
            for name in self.names(folder):
                self._delete(folder, name)
        self._delete("report.html")

    def sweep(self) -> None:
        """Remove what killed writers have left half-written."""
        results = (self.owner() or {}).get("results") or {}
        aliases = [member["alias"] for member in results.get("members", ())]
        for folder in ("", "plan", PREDICTIONS, QUARANTINE, *(f"{PROBABILITIES}/{alias}" for alias in aliases)):
            self._storage.sweep(self.uri(folder))

    def withdraw_success(self) -> None:
        """Remove ``_SUCCESS``: there is work to do again.

        Raises:
            OutputError: OUT cannot be written.
        """
        self._delete(SUCCESS)

    def _delete(self, *names: str) -> None:
        try:
            self._storage.delete(self.uri(*names))
        except StorageError as error:
            raise OutputError(f"OUT cannot be written: {error}") from error

    # -- parts ----------------------------------------------------------------------------------------

    def listing(self, folder: str) -> list[tuple[str, Entry]]:
        """Names in a folder of OUT, whatever they are, and their entries; none where there is no folder."""
        return list(self._listed(folder))

    def _listed(self, folder: str) -> Iterator[tuple[str, Entry]]:
        start = len(self.uri(folder)) + 1
        try:
            for entry in self._storage.list(self.uri(folder) + "/"):
                yield entry.uri[start:], entry
        except ObjectMissing:
            return
        except StorageError as error:
            raise OutputError(str(error)) from error

    def names(self, folder: str) -> list[str]:
        """Names in a folder of OUT, whatever they are."""
        return [name for name, _ in self._listed(folder)]

    def read_part(self, folder: str, name: str, columns: list[str] | None = None) -> pa.Table:
        """Columns of a part, all if none are named, page checksums verified.

        Raises:
            StorageError: It cannot be read.
            ObjectDamaged: It is not what was published.
        """
        uri = self.uri(folder, name)
        data = pa.BufferReader(self._storage.read(uri))
        try:
            table = pq.ParquetFile(data, page_checksum_verification=True).read(columns)
        except DAMAGE as error:
            raise ObjectDamaged(f"{uri}: damaged: {error}") from error
        if columns is not None and folder in {PREDICTIONS, QUARANTINE}:
            check_columns(uri, table, columns)
        return table

    def progress(self, fingerprint: str) -> dict[str, Progress]:
        """How far a job has come with each unit, by unit id: one listing, nothing is opened.

        A unit's parts follow each other in a listing, so that only one unit's are held at a time.
        """
        matches = (PART_NAME.fullmatch(name) for name, _ in self._listed(PREDICTIONS))
        own = (match for match in matches if match and match[1] == fingerprint[:8])
        progress: dict[str, Progress] = {}
        seen: dict[Progress, Progress] = {}
        for unit_id, parts in itertools.groupby(own, key=lambda match: match[2]):
            found = progress_of({int(match[3]): match[4] is not None for match in parts})
            progress[unit_id] = seen.setdefault(found, found)  # a million finished units share one object
        return progress

    def advance(self, unit: Unit, fingerprint: str, parts_done: int) -> tuple[Cursor, bool]:
        """Where to go on with a unit, past all parts that are published by now.

        Args:
            unit: The unit.
            fingerprint: Of the job.
            parts_done: How many parts are known to be published.

        Returns:
            The cursor, and whether the unit is complete.
        """
        cursor = Cursor()
        if parts_done:
            name = PartName(fingerprint, unit.id, parts_done - 1, last=False)
            cursor = self.footer(PREDICTIONS, str(name)).next
        while True:
            last = PartName(fingerprint, unit.id, cursor.part, last=True)
            if self._storage.exists(self.uri(PREDICTIONS, str(last))):
                return cursor, True
            name = PartName(fingerprint, unit.id, cursor.part, last=False)
            try:
                cursor = self.footer(PREDICTIONS, str(name)).next
            except ObjectMissing:
                return cursor, False

    def footer(self, folder: str, name: str) -> PartFooter:
        """Read what a part says of itself, from its end only.

        Raises:
            StorageError: It cannot be read.
            ObjectDamaged: It is no part.
        """
        uri = self.uri(folder, name)
        entry = self._storage.stat(uri)
        tail = self._tail(entry, _TAIL_BYTES)
        wanted = min(int.from_bytes(tail[-8:-4], "little") + 8, entry.size_bytes)
        if wanted > len(tail):
            tail = self._tail(entry, wanted)
        return read_footer(tail, uri)

    def _tail(self, entry: Entry, num_bytes: int) -> bytes:
        stream = self._storage.open(entry, max(0, entry.size_bytes - num_bytes))
        try:
            return stream.read(num_bytes)
        finally:
            stream.close()

    def row_counts(self, folder: str, names: Iterable[str]) -> dict[str, int]:
        """Row counts of parts, from their footers."""
        wanted = list(names)
        with ThreadPoolExecutor(_PARALLEL_READS) as pool:
            return dict(zip(wanted, pool.map(lambda name: self.footer(folder, name).num_rows, wanted), strict=True))

    def remove_units(self, unit_ids: set[str]) -> None:
        """Remove the parts of units that were replaced: predictions first, which takes their commit back."""
        for folder in _PUBLISHED:
            for name in self.names(folder):
                if unit_of(_base(name)) in unit_ids:
                    self._delete(folder, name)

    def remove_part(self, name: str) -> None:
        """Remove one part, its commit first."""
        for folder in (PREDICTIONS, QUARANTINE):
            self._delete(folder, name)
        for path in self.names(PROBABILITIES):
            if _base(path) == name:
                self._delete(PROBABILITIES, path)

    def remove_jobs(self, fingerprints: Iterable[str]) -> None:
        """Remove the parts of jobs that OUT was taken from: their labelers may have published one since."""
        marks = tuple(f"part-{fingerprint[:8]}-" for fingerprint in fingerprints)
        for folder in _PUBLISHED if marks else ():
            for name in self.names(folder):
                if _base(name).startswith(marks):
                    self._delete(folder, name)

    def remove_attempts(self) -> None:
        """Remove the marks of attempts at units: a run has come to an end by itself, and whoever died is replaced."""
        for name in self.names(ATTEMPTS):
            self._storage.delete(self.uri(ATTEMPTS, name))

    def remove_unreadable(self, unit_ids: set[str]) -> None:
        """Remove the notes of failed reads of units that have been read since."""
        for name in self.names(QUARANTINE):
            match = UNREADABLE_NAME.fullmatch(name)
            if match and match[2] in unit_ids:
                self._delete(QUARANTINE, name)


@contextlib.contextmanager
def about_out() -> Iterator[None]:
    """What fails in here is OUT, not the unit."""
    try:
        yield
    except StorageError as error:
        raise PublishError(f"OUT cannot be used: {error}") from error


def _base(name: str) -> str:
    """A part's name without the folder of a member."""
    return name.rpartition("/")[2]


def open_output(
    out: str | os.PathLike[str], s3_endpoint: str | None, *, no_sign_request: bool
) -> tuple[Ledger, Storage]:
    """The ledger of an existing output, and the storage that it is read through.

    Raises:
        OutputError: It is not the output of a job, or cannot be read.
    """
    storage = Storage(StorageConfig(s3_endpoint=s3_endpoint, no_sign_request=no_sign_request))
    ledger = Ledger(os.fspath(out), storage)
    ledger.job()
    return ledger, storage


def to_json(content: dict[str, Any], indent: int | None = 2) -> bytes:
    """A JSON object as it is written to OUT."""
    return json.dumps(content, indent=indent, ensure_ascii=False).encode() + b"\n"
