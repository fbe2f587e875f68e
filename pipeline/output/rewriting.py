"""Published parts, written again in place: without rows that were let go of, or under the new URI of their shard.

A part keeps its name and its footer. Each file is replaced whole or not at all, and doing it again changes nothing, so
a process that dies in between leaves work for the next one and no harm.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import ObjectMissing
from pipeline.output.ledger import PREDICTIONS, PROBABILITIES, QUARANTINE, Ledger
from pipeline.output.parts import PartName, unreadable_name
from pipeline.storage import Storage


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
        fingerprint: Fingerprint of its job.
        kept: Aliases of the members whose probabilities are stored.
    """

    def __init__(self, ledger: Ledger, storage: Storage, fingerprint: str, kept: Sequence[str] = ()) -> None:
        self._ledger = ledger
        self._storage = storage
        self._fingerprint = fingerprint
        self._kept = tuple(kept)

    def remove_rows(self, part: PartName, indices: Sequence[int]) -> None:
        """Remove the rows of some samples from a part: predictions, quarantine and probabilities.

        Raises:
            StorageError: A file of it cannot be read or written.
        """
        gone = pa.array(sorted(indices), pa.int64())

        def remove(table: pa.Table) -> pa.Table:
            return table.filter(pc.invert(pc.is_in(table["index"], gone)))

        self._rewrite(PREDICTIONS, str(part), remove)
        self._rewrite(QUARANTINE, str(part), remove)
        for alias in self._kept:
            self._rewrite(f"{PROBABILITIES}/{alias}", str(part), remove, dictionary=False)

    def rename_shard(self, part: PartName, uri: str) -> None:
        """Put another URI into the column ``shard`` of a part, where it is not there already.

        Raises:
            StorageError: A file of it cannot be read or written.
        """
        for folder in (PREDICTIONS, QUARANTINE):
            self._rewrite(folder, str(part), lambda table: _with_shard(table, uri))

    def rename_unreadable(self, unit_id: str, uri: str) -> None:
        """Likewise in the quarantine part of a unit that could not be read."""
        self._rewrite(QUARANTINE, unreadable_name(self._fingerprint, unit_id), lambda table: _with_shard(table, uri))

    def _rewrite(
        self, folder: str, name: str, change: Callable[[pa.Table], pa.Table], *, dictionary: bool = True
    ) -> None:
        try:
            table = self._ledger.read_part(folder, name)
        except ObjectMissing:
            return
        changed = change(table)
        if changed is not table and not changed.equals(table):
            self._storage.replace(self._ledger.uri(folder, name), encode_part(changed, dictionary=dictionary))


def constant_text(text: str, num_rows: int) -> pa.DictionaryArray:
    """A column that holds one text in every row."""
    codes = pa.array(np.zeros(num_rows, np.int32))
    return pa.DictionaryArray.from_arrays(codes, pa.array([text] if num_rows else [], pa.string()))


def _with_shard(table: pa.Table, uri: str) -> pa.Table:
    at = table.schema.get_field_index("shard")
    if set(pc.unique(table["shard"].cast(pa.string())).to_pylist()) <= {uri}:
        return table
    return table.set_column(at, table.schema.field(at), constant_text(uri, len(table)))
