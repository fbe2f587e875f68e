"""The files of OUT: their layout, and which units are done.

The published parts alone decide what is done. Their names are a pure function of the fingerprint, the unit and the part
number. So a listing of names, without opening any file, shows what is left::

    predictions/part-FFFFFFFF-UUUUUUUUUUUUUUUU-00003.parquet        part 3 of a unit, more to come
    predictions/part-FFFFFFFF-UUUUUUUUUUUUUUUU-00004-last.parquet   its last part: the unit is complete

Each part's Parquet footer records where the next part starts, so a restart goes on inside the shard.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ObjectChanged, ObjectDamaged, ObjectMissing, OutputError, PublishError, StorageError
from pipeline.output.parts import (
    PARSE_ERRORS,
    UNREADABLE_NAME,
    PartFooter,
    PartName,
    Progress,
    parts_by_unit,
    progress_of,
    read_footer,
    unit_of,
)
from pipeline.output.schemas import JobShape, OwnerShape, SuccessShape, check_columns, check_labels, check_shape
from pipeline.records import Cursor, Unit
from pipeline.storage import Entry, Storage, absolute_uri, join
from pipeline.storage.arrow_memory import arrow_reader

JOB, SUCCESS, UNITS, RETRY = "job.json", "_SUCCESS", "plan/units.parquet", "plan/retry.json"
PREDICTIONS, QUARANTINE, PROBABILITIES = "predictions", "quarantine", "probabilities"
_PUBLISHED = (PREDICTIONS, QUARANTINE, PROBABILITIES)  # in the order of removal: commits first
ATTEMPTS = "attempts"
_TAIL_BYTES = 64 << 10
_PARALLEL_READS = 32


class Ledger:
    """The files of one OUT.

    Args:
        out: Directory or ``s3://`` prefix.
        storage: How to reach it.

    Raises:
        OutputError: ``out`` has an unknown scheme.
    """

    def __init__(self, out: str, storage: Storage) -> None:
        try:
            self.out = absolute_uri(out).rstrip("/") or "/"
        except StorageError as error:
            raise OutputError(f"OUT {error}") from error
        self._storage = storage

    def uri(self, *names: str) -> str:
        """URI of a file or folder inside OUT."""
        return join(self.out, *names)

    # -- job.json, _SUCCESS ---------------------------------------------------------------------------

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Read a JSON object of OUT; None if there is no such file.

        Raises:
            OutputError: The file cannot be read, or holds no JSON object.
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
        """Read ``job.json``: the job that OUT belongs to.

        Raises:
            OutputError: OUT is not the output of a job.
        """
        job = self.read_json(JOB)
        if job is None or "fingerprint" not in job:
            raise OutputError(f"{self.out}: not an output of shardlabel (no {JOB} in it)")
        check_shape(JobShape, self.uri(JOB), job)
        return job

    def check_owner(self, fingerprint: str) -> None:
        """Check that OUT still belongs to a job.

        Raises:
            ObjectChanged: Another job has taken it over.
            StorageError: ``job.json`` cannot be read.
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
        """Read the version of a file of OUT; None if there is no such file.

        Raises:
            OutputError: It cannot be read.
        """
        try:
            return self._storage.stat(self.uri(name))
        except ObjectMissing:
            return None
        except StorageError as error:
            raise OutputError(str(error)) from error

    def write_if_unchanged(self, name: str, data: bytes, older: Entry | None) -> bool:
        """Write a file of OUT if it still has a version (None: does not exist); False if somebody else wrote it.

        Raises:
            OutputError: OUT cannot be written.
        """
        uri = self.uri(name)
        try:
            if older is None:
                return self._storage.publish(uri, data)
            return self._storage.replace_if_unchanged(uri, data, older)
        except StorageError as error:
            raise OutputError(f"OUT cannot be written: {error}") from error

    def write_json(self, name: str, content: dict[str, Any], *, indent: int | None = 2) -> None:
        """Write a JSON object, whole or not at all. Without an indent it is one line, which is ten times as fast.

        Raises:
            OutputError: OUT cannot be written.
        """
        try:
            self._storage.replace(self.uri(name), to_json(content, indent))
        except StorageError as error:
            raise OutputError(f"OUT cannot be written: {error}") from error

    def clear(self) -> None:
        """Remove everything that jobs wrote except ``job.json``, commits first.

        Raises:
            OutputError: OUT cannot be written.
        """
        self.remove_success()
        for folder in (*_PUBLISHED, "plan", ATTEMPTS):
            for name in self.names(folder):
                self._delete(folder, name)
        self._delete("report.html")

    def withdraw(self) -> None:
        """Remove what a job has written that could not even be planned."""
        self.clear()
        self._delete(JOB)

    def sweep(self) -> None:
        """Remove temporary files of writers that were killed."""
        job = self.read_json(JOB) or {}
        aliases = [member["alias"] for member in job.get("results", {}).get("members", ())]
        for folder in ("", "plan", PREDICTIONS, QUARANTINE, *(f"{PROBABILITIES}/{alias}" for alias in aliases)):
            self._storage.sweep(self.uri(folder))

    def remove_success(self) -> None:
        """Remove ``_SUCCESS``, because there is work to do again.

        Raises:
            OutputError: OUT cannot be written.
        """
        self._delete(SUCCESS)

    def remove_retry(self) -> None:
        """Remove the note of what is tried again.

        Raises:
            OutputError: OUT cannot be written.
        """
        self._delete(RETRY)

    def _delete(self, *names: str) -> None:
        try:
            self._storage.delete(self.uri(*names))
        except StorageError as error:
            raise OutputError(f"OUT cannot be written: {error}") from error

    # -- parts ----------------------------------------------------------------------------------------

    def listing(self, folder: str) -> list[tuple[str, Entry]]:
        """List all files in a folder of OUT, as (name, entry), by name; empty if there is no such folder."""
        return sorted(self._listed(folder), key=lambda item: item[0])

    def _listed(self, folder: str) -> Iterator[tuple[str, Entry]]:
        start = len(self.uri(folder)) + 1
        try:
            for entry in self._storage.list(self.uri(folder) + "/", any_order=True):
                yield entry.uri[start:], entry
        except ObjectMissing:
            return
        except StorageError as error:
            raise OutputError(str(error)) from error

    def names(self, folder: str) -> list[str]:
        """List the names of all files in a folder of OUT, sorted."""
        return sorted(name for name, _ in self._listed(folder))

    def prediction_parts(self, fingerprint: str) -> list[PartName]:
        """The predictions parts of a job, sorted by name: one listing, nothing is opened."""
        parsed = (PartName.parse(name) for name in self.names(PREDICTIONS))
        return [part for part in parsed if part is not None and part.fingerprint == fingerprint[:8]]

    def read_part(self, folder: str, name: str, columns: list[str] | None = None) -> pa.Table:
        """Read columns of a part (None: all) and verify its page checksums.

        Raises:
            StorageError: The part cannot be read.
            ObjectDamaged: It is not what was published.
        """
        uri = self.uri(folder, name)
        data = arrow_reader(self._storage.read(uri))
        try:
            table = pq.ParquetFile(data, page_checksum_verification=True).read(columns)
        except PARSE_ERRORS as error:
            raise ObjectDamaged(f"{uri}: damaged: {error}") from error
        if columns is not None and folder in {PREDICTIONS, QUARANTINE}:
            check_columns(uri, table, columns, gaps=folder == QUARANTINE)
        if folder == PREDICTIONS and self._num_classes:
            check_labels(uri, table, self._num_classes)
        return table

    @functools.cached_property
    def _num_classes(self) -> int:
        """Number of classes, K; 0 where ``job.json`` does not tell."""
        with contextlib.suppress(OutputError):
            return len(self.job()["class_names"])
        return 0

    def progress(self, fingerprint: str) -> dict[str, Progress]:
        """Find how far a job has come with each unit, by unit id, from one listing of names.

        Parts of a unit are neighbours in an ordered listing, so only one unit's parts are in memory at a time. Where
        they are not, the names are sorted first.
        """
        progress: dict[str, Progress] = {}
        seen: dict[Progress, Progress] = {}
        for unit_id, parts in parts_by_unit((name for name, _ in self._listed(PREDICTIONS)), fingerprint):
            if unit_id in progress:
                sorted_parts = parts_by_unit(self.names(PREDICTIONS), fingerprint)
                return {unit_id: progress_of(parts) for unit_id, parts in sorted_parts}
            found = progress_of(parts)
            progress[unit_id] = seen.setdefault(found, found)  # a million finished units share one object
        return progress

    def find_cursor(self, unit: Unit, fingerprint: str, parts_done: int) -> tuple[Cursor, bool]:
        """Find where to go on with a unit, behind all parts that are published by now.

        Args:
            unit: The unit.
            fingerprint: Of the job.
            parts_done: Number of parts that are known to be published.

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
        """Read the footer of a part, from the end of its file only.

        Raises:
            StorageError: The part cannot be read.
            ObjectDamaged: It is no part of shardlabel.
        """
        uri = self.uri(folder, name)
        entry = self._storage.stat(uri)
        tail = self._tail(entry, _TAIL_BYTES)
        wanted = min(int.from_bytes(tail[-8:-4], "little") + 8, entry.size_bytes)
        if wanted > len(tail):
            tail = self._tail(entry, wanted)
        return read_footer(tail, uri)

    def _tail(self, entry: Entry, num_bytes: int) -> bytes:
        with contextlib.closing(self._storage.open(entry, max(0, entry.size_bytes - num_bytes))) as stream:
            return stream.read(num_bytes)

    def footers(self, folder: str, names: Iterable[str]) -> dict[str, PartFooter]:
        """Read the footers of parts, by name."""
        wanted = list(names)
        with ThreadPoolExecutor(_PARALLEL_READS) as pool:
            return dict(zip(wanted, pool.map(lambda name: self.footer(folder, name), wanted), strict=True))

    def remove_units(self, unit_ids: set[str]) -> None:
        """Remove the parts of units that were replaced, commits (predictions) first."""
        for folder in _PUBLISHED:
            for name in self.names(folder):
                if unit_of(_file_name(name)) in unit_ids:
                    self._delete(folder, name)

    def remove_part(self, name: str) -> None:
        """Remove one part, its commit first."""
        for folder in (PREDICTIONS, QUARANTINE):
            self._delete(folder, name)
        for path in self.names(PROBABILITIES):
            if _file_name(path) == name:
                self._delete(PROBABILITIES, path)

    def remove_jobs(self, fingerprints: Iterable[str]) -> None:
        """Remove the parts of jobs that owned OUT before: their labelers may have published since."""
        prefixes = tuple(f"part-{fingerprint[:8]}-" for fingerprint in fingerprints)
        for folder in _PUBLISHED if prefixes else ():
            for name in self.names(folder):
                if _file_name(name).startswith(prefixes):
                    self._delete(folder, name)

    def remove_attempts(self) -> None:
        """Remove the records of attempts at units, when a run has ended by itself."""
        for name in self.names(ATTEMPTS):
            self._storage.delete(self.uri(ATTEMPTS, name))

    def remove_unreadable(self, unit_ids: set[str]) -> None:
        """Remove the quarantine parts of units that could not be read before and have been read since."""
        for name in self.names(QUARANTINE):
            match = UNREADABLE_NAME.fullmatch(name)
            if match and match[2] in unit_ids:
                self._delete(QUARANTINE, name)


@contextlib.contextmanager
def translate_out_errors() -> Iterator[None]:
    """Turn storage errors of this block into :class:`PublishError`: OUT failed, not the unit."""
    try:
        yield
    except StorageError as error:
        raise PublishError(f"OUT cannot be used: {error}") from error


def _file_name(name: str) -> str:
    """Name of a part without the folder of a member."""
    return name.rpartition("/")[2]


def to_json(content: dict[str, Any], indent: int | None = 2) -> bytes:
    """Encode a JSON object as it is written to OUT."""
    return json.dumps(content, indent=indent, ensure_ascii=False).encode() + b"\n"
