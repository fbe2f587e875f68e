"""A published part, patched: samples that were in quarantine are tried again, and its other rows stay as they are.

The files are replaced one after the other, quarantine last. So a process that dies in between leaves the samples in
quarantine, where the next run finds them, and to patch the part again gives the same.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.columns import QUARANTINE_SCHEMA
from pipeline.errors import ObjectMissing
from pipeline.labels import NO_CLASS
from pipeline.output.ledger import PREDICTIONS, PROBABILITIES, QUARANTINE
from pipeline.output.parts import METADATA_KEY, PartName
from pipeline.output.rewriting import constant_text, encode_part
from pipeline.records import Counted, Unit
from pipeline.stages.write import Part, Writer
from pipeline.storage import Storage


class PartPatcher:
    """Patches parts of a job.

    Args:
        writer: Of the job; it makes the tables.
        storage: How to reach the output.
    """

    def __init__(self, writer: Writer, storage: Storage) -> None:
        self._writer = writer
        self._ledger = writer.ledger
        self._storage = storage

    def quarantined(self, name: PartName, indices: Collection[int]) -> set[int]:
        """Which of some samples are in a part's quarantine now.

        Raises:
            StorageError: It cannot be read.
        """
        try:
            found = self._ledger.read_part(QUARANTINE, str(name), ["index"])["index"].to_pylist()
        except ObjectMissing:
            return set()
        return set(found) & set(indices)

    def patch(self, unit: Unit, name: PartName, part: Part) -> None:
        """Put what came of some samples into a part.

        Args:
            unit: The unit.
            name: Of the part.
            part: The samples that were tried again: labelled now, or rejected again.

        Raises:
            ObjectChanged: Another job has taken OUT over.
            StorageError: A file of the part cannot be read or written.
        """
        self._ledger.check_owner(self._writer.fingerprint)
        tried = {picture.index for picture in part.pictures} | {row.index for row in part.rejected}
        for alias, new in self._writer.probabilities(part):
            folder = f"{PROBABILITIES}/{alias}"
            self._replace(folder, name, _merged(self._ledger.read_part(folder, str(name)), new, tried))
        older = self._ledger.read_part(PREDICTIONS, str(name))
        table = _merged(older, self._writer.predictions_table(unit, part), tried)
        table = table.set_column(
            table.schema.get_field_index("class_name"),
            table.schema.field("class_name"),
            self._writer.name_classes(table["label"].to_numpy()),
        )
        if not (set(older["index"].to_pylist()) & tried):  # else it was counted by a run that died
            no_class = sum(picture.truth == NO_CLASS for picture in part.pictures)
            table = _with_truths(table, part.truths_not_understood, no_class)
        self._replace(PREDICTIONS, name, table)
        self._patch_quarantine(unit, name, part, tried)

    def _patch_quarantine(self, unit: Unit, name: PartName, part: Part, tried: Collection[int | None]) -> None:
        try:
            older = self._ledger.read_part(QUARANTINE, str(name))
        except ObjectMissing:
            return  # another run of the job has just done the same
        again = {row["index"]: row for row in self._writer.quarantine_table(unit, part.rejected).to_pylist()}
        rows: list[dict[str, Any]] = []
        for row in older.to_pylist():
            if row["index"] is None or row["index"] not in tried:
                rows.append(row)
            elif row["index"] in again:
                rows.append(again[row["index"]])
        if not rows:
            self._storage.delete(self._ledger.uri(QUARANTINE, str(name)))
            return
        columns = [
            pa.array([row[key] for row in rows], QUARANTINE_SCHEMA.field(key).type) for key in older.column_names
        ]
        self._replace(QUARANTINE, name, pa.table(columns, schema=older.schema))

    def _replace(self, folder: str, name: PartName, table: pa.Table) -> None:
        data = encode_part(table, dictionary=not folder.startswith(PROBABILITIES))
        self._storage.replace(self._ledger.uri(folder, str(name)), data)


def _merged(older: pa.Table, new: pa.Table, tried: Collection[int | None]) -> pa.Table:
    """The rows of a part without those of some samples, and new ones in their place, by index."""
    kept = older.filter(
        pc.invert(pc.is_in(older["index"], pa.array(sorted(i for i in tried if i is not None), pa.int64())))
    )
    plain = pa.concat_tables([_plain(kept), _plain(new.select(older.column_names))]).sort_by("index").combine_chunks()
    for at, field in enumerate(older.schema):
        if not pa.types.is_dictionary(field.type):
            continue
        column = plain.column(at).combine_chunks()
        encoded = column.dictionary_encode()
        if field.name == "shard" and plain.num_rows:
            encoded = constant_text(column[0].as_py(), plain.num_rows)
        plain = plain.set_column(at, field, encoded)
    return plain.cast(older.schema)


def _plain(table: pa.Table) -> pa.Table:
    """A table without dictionaries, which differ from file to file."""
    for at, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(at, pa.field(field.name, pa.string()), table.column(at).cast(pa.string()))
    return table.replace_schema_metadata(None)


def _with_truths(table: pa.Table, truths: Counted, no_class: int) -> pa.Table:
    """A table whose metadata count more truths that are not understood, and that say that no class fits."""
    if not truths.count and not no_class:
        return table
    about = json.loads((table.schema.metadata or {})[METADATA_KEY])
    counted = Counted.from_dict(about.get("truths_not_understood", {}))
    counted.merge(truths)
    about["truths_not_understood"] = counted.to_dict()
    if no_class:
        about["truths_no_class"] = about.get("truths_no_class", 0) + no_class
    return table.replace_schema_metadata({METADATA_KEY: json.dumps(about, sort_keys=True)})
