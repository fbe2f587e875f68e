"""Published parts, written again in place: without rows that were let go of, or under the new URI of their shard.

A part keeps its name and its footer. Each file is replaced whole or not at all, and doing it again changes nothing, so
a process that dies in between leaves work for the next one and no harm.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import ObjectMissing
from pipeline.output.ledger import PREDICTIONS, PROBABILITIES, QUARANTINE, Ledger
from pipeline.output.parts import METADATA_KEY, PartName, unit_of
from pipeline.storage import Storage

_FILES_AT_ONCE = 8


def encode_part(table: pa.Table, *, dictionary: bool = True) -> bytes:
    """Make the bytes of a part's file, metadata included.

    Args:
        table: Its rows, and its metadata as that of the schema.
        dictionary: Whether columns may be encoded by dictionaries.
    """
    # In memory first: a writer that an error leaves publishes what it has (findings/parquet-writer-publishes).
    buffer = io.BytesIO()
    with pq.ParquetWriter(
        buffer, table.schema, compression="zstd", write_page_checksum=True, use_dictionary=dictionary
    ) as writer:
        if table.num_rows:  # a row group of no rows would end datasets' load (findings/datasets-empty-row-group)
            writer.write_table(table)
    return buffer.getvalue()


class PartRewriter:
    """Rewrites the parts of an output.

    Args:
        ledger: The output.
        storage: How to reach it.
        kept: Aliases of the members whose probabilities are stored.
    """

    def __init__(self, ledger: Ledger, storage: Storage, kept: Sequence[str] = ()) -> None:
        self._ledger = ledger
        self._storage = storage
        self._probabilities = tuple(f"{PROBABILITIES}/{alias}" for alias in kept)

    def remove_rows(self, indices: Mapping[str, Sequence[int]]) -> None:
        """Remove the rows of some samples: from predictions, quarantine and probabilities.

        Args:
            indices: Of the samples, by the id of their unit.

        Raises:
            StorageError: A file cannot be read or written.
        """
        gone = {unit_id: pa.array(sorted(own), pa.int64()) for unit_id, own in indices.items() if own}
        if gone:
            self._rewrite_all(
                (PREDICTIONS, QUARANTINE, *self._probabilities),
                lambda unit_id, table: table.filter(pc.invert(pc.is_in(table["index"], gone[unit_id]))),
                gone.keys(),
            )

    def rename_shards(self, uris: Mapping[str, str]) -> None:
        """Put other URIs into the column ``shard``, where they are not there already.

        Args:
            uris: By the id of their unit.

        Raises:
            StorageError: A file cannot be read or written.
        """
        self._rewrite_all((PREDICTIONS, QUARANTINE), lambda unit_id, table: _with_shard(table, uris[unit_id]), uris)

    def remove_uncommitted(self, unit_ids: Collection[str]) -> None:
        """Remove what was published of parts of some units whose commit did not follow.

        Raises:
            StorageError: A file cannot be removed.
        """
        if not unit_ids:
            return
        committed = set(self._ledger.names(PREDICTIONS))
        for folder in (QUARANTINE, *self._probabilities):
            for name in self._ledger.names(folder):
                if unit_of(name) in unit_ids and name not in committed:
                    self._storage.delete(self._ledger.uri(folder, name))

    def copy_rows(self, part: PartName, unit_id: str, indices: Sequence[int]) -> None:
        """Publish the rows of some samples of a part as the part of another unit.

        Raises:
            StorageError: A file of it cannot be read or written.
        """
        wanted = pa.array(sorted(indices), pa.int64())
        name = str(dataclasses.replace(part, unit_id=unit_id))
        for folder in (QUARANTINE, *self._probabilities, PREDICTIONS):  # the commit last
            try:
                table = self._ledger.read_part(folder, str(part))
            except ObjectMissing:
                if folder == QUARANTINE:
                    continue
                raise
            about = json.loads((table.schema.metadata or {})[METADATA_KEY]) | {"unit": unit_id}
            table = table.filter(pc.is_in(table["index"], wanted))
            if folder == QUARANTINE and not table.num_rows:
                continue
            table = table.replace_schema_metadata({METADATA_KEY: json.dumps(about, sort_keys=True)})
            self._storage.publish(
                self._ledger.uri(folder, name), encode_part(table, dictionary=folder not in self._probabilities)
            )

    def _rewrite_all(
        self, folders: Sequence[str], change: Callable[[str, pa.Table], pa.Table], unit_ids: Collection[str]
    ) -> None:
        """Rewrite all files of some units in some folders."""
        for folder in folders:
            own = ((unit_of(name), name) for name in self._ledger.names(folder))
            wanted = [(unit_id, name) for unit_id, name in own if unit_id is not None and unit_id in unit_ids]

            def rewrite(item: tuple[str, str], folder: str = folder) -> None:
                self._rewrite(folder, item[1], lambda table: change(item[0], table))

            with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
                list(pool.map(rewrite, wanted))

    def _rewrite(self, folder: str, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
        try:
            table = self._ledger.read_part(folder, name)
        except ObjectMissing:
            return
        changed = change(table)
        if folder == QUARANTINE and not changed.num_rows:
            self._storage.delete(self._ledger.uri(folder, name))
        elif changed is not table and not changed.equals(table):
            data = encode_part(changed, dictionary=folder not in self._probabilities)
            self._storage.replace(self._ledger.uri(folder, name), data)


def constant_text(text: str, num_rows: int) -> pa.DictionaryArray:
    """A column that holds one text in every row."""
    codes = pa.array(np.zeros(num_rows, np.int32))
    return pa.DictionaryArray.from_arrays(codes, pa.array([text] if num_rows else [], pa.string()))


def _with_shard(table: pa.Table, uri: str) -> pa.Table:
    at = table.schema.get_field_index("shard")
    if set(pc.unique(table["shard"].cast(pa.string())).to_pylist()) <= {uri}:
        return table
    return table.set_column(at, table.schema.field(at), constant_text(uri, len(table)))
