"""Units: their ids, ``plan/units.parquet`` that lists them, and how many samples they hold."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.option_types import DEFAULT_ROWS_PER_PART, Images
from pipeline.errors import MembersApart, ObjectMissing, OutputError, StorageError
from pipeline.output.ledger import UNITS, Ledger
from pipeline.records import Cursor, Omitted, Sample, Unit, UnitKind
from pipeline.stages.read import LET_GO, UnitReader, slice_entries
from pipeline.storage import Entry, Storage
from pipeline.storage.arrow_memory import arrow_reader

T = TypeVar("T")

_FINGERPRINT, _LEFT_OUT = b"fingerprint", b"left_out"
LeftOut = Mapping[str, Mapping[str, int]]
_UNITS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("kind", pa.string()),
        ("uri", pa.string()),
        ("size_bytes", pa.int64()),
        ("etag", pa.string()),
        ("keys_uri", pa.string()),
        ("num_samples", pa.int64()),
        ("max_samples", pa.int64()),
        ("rows_per_part", pa.int64()),
    ]
)


def unit_id(*fields: object) -> str:
    """Id of a unit: 16 hex digits of a hash of its fields."""
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:16]


def tar_unit(entry: Entry, max_samples: int | None = None) -> Unit:
    """Make the unit of one tar."""
    own_id = unit_id("tar", entry.uri, entry.size_bytes, entry.etag, max_samples)
    return Unit(own_id, UnitKind.TAR, entry.uri, entry.size_bytes, entry.etag, max_samples=max_samples)


def write_units(units: Sequence[Unit], fingerprint: str, left_out_of: LeftOut | None = None) -> bytes:
    """Make ``plan/units.parquet``.

    Args:
        units: The units of the plan.
        fingerprint: Fingerprint of the job that planned them.
        left_out_of: Number of files that each INPUT leaves out, by extension.
    """
    columns = {
        name: pa.array([getattr(unit, name) for unit in units], _UNITS_SCHEMA.field(name).type)
        for name in _UNITS_SCHEMA.names
    }
    left_out = json.dumps({name: counts for name, counts in (left_out_of or {}).items() if counts})
    schema = _UNITS_SCHEMA.with_metadata({_FINGERPRINT: fingerprint, _LEFT_OUT: left_out})
    return to_parquet(pa.table(columns, schema=schema))


def to_parquet(table: pa.Table) -> bytes:
    """Encode a table of a plan."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def read_units(ledger: Ledger, storage: Storage, fingerprint: str = "") -> list[Unit]:
    """Read the planned units of an output: see :func:`read_plan`."""
    return read_plan(ledger, storage, fingerprint)[0]


def read_plan(ledger: Ledger, storage: Storage, fingerprint: str = "") -> tuple[list[Unit], dict[str, dict[str, int]]]:
    """Read the planned units of an output, and what its inputs leave out; both empty if there is no plan yet.

    Args:
        ledger: The output.
        storage: How to reach it.
        fingerprint: Fingerprint of a job: the plan of another job counts as none. Empty for any job's plan.

    Returns:
        The units; and of each INPUT the number of files that are left out, by extension.

    Raises:
        OutputError: The plan cannot be read.
    """
    try:
        data = storage.read(ledger.uri(UNITS))
    except ObjectMissing:
        return [], {}
    except StorageError as error:
        raise OutputError(str(error)) from error
    names = {item.name for item in dataclasses.fields(Unit)}
    units: list[Unit] = []
    try:
        file = pq.ParquetFile(arrow_reader(data))
        metadata = file.schema_arrow.metadata or {}
        planned_by = metadata.get(_FINGERPRINT, b"").decode()
        if planned_by and fingerprint and planned_by != fingerprint:
            return [], {}
        left_out = json.loads(metadata.get(_LEFT_OUT, b"{}"))
        _check_counts(left_out)
        # batch by batch, because rows as dicts take several times the memory of units
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                known = {name: value for name, value in row.items() if name in names}
                known["kind"] = UnitKind(row["kind"])  # one string for all units
                if row["keys_uri"] is not None:  # OUT may have been moved since
                    known["keys_uri"] = ledger.uri("plan", row["keys_uri"].rpartition("/")[2])
                units.append(Unit(**known))
    except (TypeError, KeyError, ValueError, OSError) as error:
        raise OutputError(f"{ledger.uri(UNITS)}: damaged: {error}") from error
    return units, left_out


def _check_counts(left_out: object) -> None:
    """Check that this is a number by extension by INPUT.

    Raises:
        TypeError: It is not.
    """
    inputs = left_out.values() if isinstance(left_out, dict) else [None]
    if not all(isinstance(counts, dict) and all(isinstance(n, int) for n in counts.values()) for counts in inputs):
        raise TypeError("what is left out is not counted by extension")


def held_entries(unit: Unit, storage: Storage) -> list[tuple[int, Entry]]:
    """Read the entries that a slice holds from its key list, each with its index.

    Raises:
        StorageError: The key list cannot be read.
    """
    assert unit.keys_uri is not None
    entries = slice_entries(unit, storage.read(unit.keys_uri))
    return [(index, entry) for index, (_, entry) in enumerate(entries) if entry.size_bytes != LET_GO]


def change_entries(
    unit: Unit, storage: Storage, changes: Mapping[int, Entry | None], keys_uri: str | None = None
) -> Unit:
    """Change entries of a slice's key list.

    Args:
        unit: The slice.
        storage: How to reach it.
        changes: Another version of entries by index; None to let go of them.
        keys_uri: Where to write the key list; under its own name if None.

    Returns:
        The slice with that key list, and the sizes of what it holds then.

    Raises:
        StorageError: The key list cannot be read or written.
    """
    assert unit.keys_uri is not None
    table = pq.read_table(arrow_reader(storage.read(unit.keys_uri)))
    sizes, etags = table["size_bytes"].to_pylist(), table["etag"].to_pylist()
    for index, entry in changes.items():
        sizes[index], etags[index] = (LET_GO, "") if entry is None else (entry.size_bytes, entry.etag)
    for name, values in (("size_bytes", sizes), ("etag", etags)):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))
    keys_uri = keys_uri or unit.keys_uri
    storage.replace(keys_uri, to_parquet(table))
    held = [size for size in sizes if size != LET_GO]
    return dataclasses.replace(
        unit, size_bytes=sum(max(0, size) for size in held), keys_uri=keys_uri, num_samples=len(held)
    )


def let_go_entries(unit: Unit, storage: Storage) -> list[int]:
    """Read which indices a slice has let go of from its key list.

    Raises:
        StorageError: The key list cannot be read.
    """
    assert unit.keys_uri is not None
    entries = slice_entries(unit, storage.read(unit.keys_uri))
    return [index for index, (_, entry) in enumerate(entries) if entry.size_bytes == LET_GO]


def count_samples(
    units: Sequence[Unit],
    storage: Storage,
    budget_s: float,
    images: Images = "auto",
    omitted: Omitted | None = None,
    apart: set[str] | None = None,
) -> dict[str, int]:
    """Count the samples of units, where that is known or quickly found: local tars are counted header by header.

    Args:
        units: The units.
        storage: How to reach them.
        budget_s: Counting stops after this time, seconds.
        images: Which images of a sample are labelled: the first, or all.
        omitted: Where to count what is seen on the way and has no row.
        apart: Takes the ids of shards that are found to be unsorted on the way.

    Returns:
        Number of samples by unit id.
    """
    counts = {unit.id: unit.num_samples for unit in units if unit.num_samples is not None}
    deadline = time.monotonic() + budget_s
    for unit in units:
        if time.monotonic() > deadline:
            break
        if unit.id in counts or unit.uri.startswith("s3://") or unit.size_bytes < 0:
            continue
        number = read_as_labelled(
            unit,
            storage,
            images,
            lambda reader: _count_until(reader, deadline, omitted),
            None if apart is None else functools.partial(apart.add, unit.id),
        )
        if number is None:
            break
        counts[unit.id] = number
    return counts


def read_as_labelled(
    unit: Unit,
    storage: Storage,
    images: Images,
    read: Callable[[UnitReader], T],
    on_apart: Callable[[], None] | None = None,
) -> T:
    """Read the samples of a unit without their contents, as ``label`` with its usual parts does.

    Args:
        unit: The unit.
        storage: How to reach it.
        images: Which images of a sample are labelled: the first, or all.
        read: What iterates the reader; called twice if the shard is found to be unsorted on the way.
        on_apart: Called if that is so.
    """
    try:
        first_part = unit.rows_per_part or DEFAULT_ROWS_PER_PART
        return read(UnitReader(unit, storage, images=images, payloads=False, begin_again_before=first_part))
    except MembersApart:
        if on_apart is not None:
            on_apart()
        return read(UnitReader(unit, storage, Cursor(unsorted=True), images=images, payloads=False))


def _count_until(reader: UnitReader, deadline: float, omitted: Omitted | None) -> int | None:
    """Count the samples of a unit; None if time runs out, 0 if it cannot be read."""
    number, found = 0, Omitted()
    try:
        for item in reader:
            number += isinstance(item, Sample)
            if isinstance(item, Omitted):
                found.add(item)
            if time.monotonic() > deadline:
                return None
    except StorageError:
        return 0
    except MembersApart:
        found = Omitted()  # the shard is read again
        raise
    finally:
        if omitted is not None:
            omitted.add(found)
    return number
