"""Write: from results to one part, published whole.

The quarantine file of a part is published first, then its members' probabilities where they are kept, and last its
predictions file, which is the commit. Rows are in sample order, and the bytes are a pure function of the rows. So two
writers of one part publish the same bytes, whoever comes first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipeline.columns import GROUP_SCORE_SUFFIX, QUARANTINE_SCHEMA, predictions_schema
from pipeline.errors import ObjectChanged
from pipeline.labels import NO_CLASS
from pipeline.models.ensemble import GroupPredictions, MemberPredictions, Predictions
from pipeline.output.ledger import PREDICTIONS, PROBABILITIES, QUARANTINE, Ledger
from pipeline.output.parts import METADATA_KEY, PartName, unreadable_name
from pipeline.output.probabilities import probabilities_table
from pipeline.output.rewriting import constant_text, encode_part
from pipeline.records import Counted, Cursor, Omitted, Reason, Sample, ShardEvent, Stage, Unit
from pipeline.storage import Storage
from pipeline.taxonomy.choosing import GroupColumn
from pipeline.taxonomy.tree import NO_GROUP


@dataclass(frozen=True, slots=True)
class Picture:
    """The columns of a labelled sample, except its labels.

    Attributes:
        index, key, truth, kept: As in the sample.
        sha256: Hash of the encoded image, hex.
        width, height: Size as stored, pixels.
        image_field: Field of the sample that it is; None where it is none.
        offset, num_bytes: Where its sample lies in the shard, for the quarantine; unknown where only its row is read.
    """

    index: int
    key: str
    sha256: str
    width: int
    height: int
    truth: int | None
    kept: dict[str, str]
    image_field: str | None = None
    offset: int | None = None
    num_bytes: int = 0


@dataclass(frozen=True, slots=True)
class QuarantineRow:
    """A quarantine row."""

    key: str | None
    index: int | None
    offset: int | None
    num_bytes: int
    sha256: str | None
    stage: Stage
    reason: str
    message: str

    @classmethod
    def sample(
        cls, sample: Sample, stage: Stage, reason: str, message: str, sha256: str | None = None
    ) -> QuarantineRow:
        """Make the row of a sample that cannot be labelled."""
        return cls(sample.key, sample.index, sample.offset, sample.num_bytes, sha256, stage, reason, message)

    @classmethod
    def picture(cls, picture: Picture, reason: str, message: str) -> QuarantineRow:
        """Make the row of a decoded image that cannot be classified."""
        place = (picture.key, picture.index, picture.offset, picture.num_bytes, picture.sha256)
        return cls(*place, Stage.CLASSIFY, reason, message)

    @classmethod
    def event(cls, event: ShardEvent) -> QuarantineRow:
        """Make the row of damage to the shard itself."""
        return cls(None, None, event.offset, event.num_bytes, None, Stage.READ, event.reason, event.message)


@dataclass(slots=True)
class Part:
    """The rows of one part as they come in.

    Attributes:
        number: Number of the part in its unit.
        first_index: Index of its first sample.
        pictures, predictions: Labelled samples, in order, batch by batch.
        rejected: Quarantine rows, in order.
        truths_not_understood: Those of its labelled samples whose ``.cls`` names no class.
        omitted: What lies among its samples in the input and has no row.
    """

    number: int
    first_index: int
    pictures: list[Picture] = field(default_factory=list)
    predictions: list[Predictions] = field(default_factory=list)
    rejected: list[QuarantineRow] = field(default_factory=list)
    truths_not_understood: Counted = field(default_factory=Counted)
    omitted: Omitted = field(default_factory=Omitted)

    @property
    def num_samples(self) -> int:
        """Number of samples in it, labelled or quarantined."""
        return len(self.pictures) + sum(row.key is not None for row in self.rejected)


class Writer:
    """Publishes the parts of a job's units.

    Args:
        out: Directory or ``s3://`` prefix of the output.
        storage: How to reach it.
        fingerprint: Fingerprint of the job.
        members: Aliases of the members, in order.
        class_names: Names of the classes.
        keep: Names of the sample fields that ``--keep`` copies.
        keep_probs: Whether to publish the members' full probabilities, too.
        with_field: Whether there is the column ``field``.
        groups: Columns of groups.
    """

    def __init__(
        self,
        out: str,
        storage: Storage,
        fingerprint: str,
        members: Sequence[str],
        class_names: Sequence[str],
        keep: Sequence[str],
        *,
        keep_probs: bool = False,
        with_field: bool = True,
        groups: Sequence[GroupColumn] = (),
    ) -> None:
        self._ledger = Ledger(out, storage)
        self._storage = storage
        self._fingerprint = fingerprint
        self._members = tuple(members)
        self._class_names = pa.array(class_names, pa.string())
        self._keep = tuple(keep)
        self._keep_probs = keep_probs
        self._groups = tuple(groups)
        levels = [column.name for column in groups]
        self._schema = predictions_schema(members, keep, with_field=with_field, levels=levels)

    @property
    def ledger(self) -> Ledger:
        """Ledger of the output."""
        return self._ledger

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the job."""
        return self._fingerprint

    def publish(self, unit: Unit, part: Part, following: Cursor, *, last: bool) -> PartName:
        """Publish a part: quarantine first, then probabilities, and last the predictions that commit it.

        Raises:
            ObjectChanged: Another job has taken OUT over.
            StorageError: OUT cannot be written.
        """
        self._ledger.check_owner(self._fingerprint)
        name = PartName(self._fingerprint, unit.id, part.number, last)
        metadata: dict[str, object] = {
            "unit": unit.id,
            "fingerprint": self._fingerprint,
            "part": part.number,
            "last": last,
            "first_index": part.first_index,
            "next": following.to_dict(),
        }
        if part.truths_not_understood.count:
            metadata["truths_not_understood"] = part.truths_not_understood.to_dict()
        if no_class := sum(picture.truth == NO_CLASS for picture in part.pictures):
            metadata["truths_no_class"] = no_class
        if part.omitted:
            metadata["omitted"] = part.omitted.to_dict()
        if part.rejected:
            self._put(QUARANTINE, str(name), self.quarantine_table(unit, part.rejected), metadata)
        for alias, table in self.probabilities(part):
            member = {**metadata, "member": alias}
            self._put(f"{PROBABILITIES}/{alias}", str(name), table, member, dictionary=False)
        self._put(PREDICTIONS, str(name), self.predictions_table(unit, part), metadata)
        try:
            self._ledger.check_owner(self._fingerprint)
        except ObjectChanged:
            self._ledger.remove_part(str(name))  # OUT was taken over while it was written
            raise
        return name

    def note_unreadable(self, unit: Unit, reason: Reason, message: str) -> None:
        """Publish the quarantine part of an unreadable unit. It commits nothing: the next run tries it again."""
        self._ledger.check_owner(self._fingerprint)
        row = QuarantineRow(None, None, None, max(0, unit.size_bytes), None, Stage.READ, reason, message)
        metadata = {"unit": unit.id, "fingerprint": self._fingerprint}
        name = unreadable_name(self._fingerprint, unit.id)
        self._put(QUARANTINE, name, self.quarantine_table(unit, [row]), metadata)

    def probabilities(self, part: Part) -> Iterator[tuple[str, pa.Table]]:
        """The probabilities of each member by its alias, without metadata; none where they are not kept."""
        index_N = np.array([picture.index for picture in part.pictures], np.int64)
        for place, alias in enumerate(self._members if self._keep_probs else ()):
            found = [batch.probs_MBK[place] for batch in part.predictions if batch.probs_MBK is not None]
            probs_NK = np.concatenate([np.zeros((0, len(self._class_names)), np.float16), *found])
            yield alias, probabilities_table(index_N, probs_NK)

    def _put(
        self, folder: str, name: str, table: pa.Table, metadata: Mapping[str, object], *, dictionary: bool = True
    ) -> None:
        table = table.replace_schema_metadata({METADATA_KEY: json.dumps(metadata, sort_keys=True)})
        self._storage.publish(self._ledger.uri(folder, name), encode_part(table, dictionary=dictionary))

    def predictions_table(self, unit: Unit, part: Part) -> pa.Table:
        """The rows of predictions of a part, without metadata."""
        pictures, batches = part.pictures, part.predictions
        labels = _column([batch.labels_Bk[:, 0] for batch in batches], np.int32)
        members = [
            _member_column([batch.members[position] for batch in batches]) for position in range(len(self._members))
        ]
        member_type = self._schema.field("members").type
        columns: dict[str, pa.Array] = {
            "shard": constant_text(unit.uri, len(pictures)),
            "key": pa.array([picture.key for picture in pictures], pa.string()),
            "index": pa.array([picture.index for picture in pictures], pa.int64()),
            "sha256": pa.array([picture.sha256 for picture in pictures], pa.string()),
            "width": pa.array([picture.width for picture in pictures], pa.int32()),
            "height": pa.array([picture.height for picture in pictures], pa.int32()),
            "label": pa.array(labels),
            "class_name": self.name_classes(labels),
            "score": pa.array(_column([batch.scores_Bk[:, 0] for batch in batches], np.float32)),
            "labels": _lists([batch.labels_Bk for batch in batches], np.int32),
            "scores": _lists([batch.scores_Bk for batch in batches], np.float32),
            "agreement": pa.array(_column([batch.agreement_B for batch in batches], np.float32)),
            "entropy": pa.array(_column([batch.entropy_B for batch in batches], np.float32)),
            "disagreement": pa.array(_column([batch.disagreement_B for batch in batches], np.float32)),
            "members": pa.StructArray.from_arrays(members, fields=list(member_type)),
            "truth": pa.array([picture.truth for picture in pictures], pa.int32()),
        }
        if "field" in self._schema.names:
            columns["field"] = pa.array([picture.image_field for picture in pictures], pa.string()).dictionary_encode()
        for place, column in enumerate(self._groups):
            columns |= _group_columns(column, [batch.groups[place] for batch in batches])
        for name in self._keep:
            columns[name] = pa.array([picture.kept.get(name) for picture in pictures], pa.string())
        return pa.table(columns, schema=self._schema)

    def name_classes(self, labels: np.ndarray) -> pa.DictionaryArray:
        """Class names of labels; the dictionary holds only the names that occur."""
        used, codes = np.unique(labels, return_inverse=True)
        return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), self._class_names.take(pa.array(used)))

    @staticmethod
    def quarantine_table(unit: Unit, rows: Sequence[QuarantineRow]) -> pa.Table:
        """Quarantine rows of a part, without metadata."""
        columns = {
            name: pa.array([getattr(row, name) for row in rows], QUARANTINE_SCHEMA.field(name).type)
            for name in QUARANTINE_SCHEMA.names[1:]
        }
        return pa.table({"shard": constant_text(unit.uri, len(rows)), **columns}, schema=QUARANTINE_SCHEMA)


def _column(batches: Sequence[np.ndarray], dtype: type[np.generic]) -> np.ndarray:
    return np.concatenate(batches).astype(dtype, copy=False) if batches else np.zeros(0, dtype)


def _lists(batches: Sequence[np.ndarray], dtype: type[np.generic]) -> pa.ListArray:
    """Join (B, k) arrays to one list column."""
    rows = np.concatenate(batches).astype(dtype, copy=False) if batches else np.zeros((0, 1), dtype)
    offsets = np.arange(0, rows.size + 1, rows.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(rows.reshape(-1)))


def _group_columns(column: GroupColumn, batches: Sequence[GroupPredictions]) -> dict[str, pa.Array]:
    """The names of groups and their scores, null where there is none; the dictionary holds only names that occur."""
    groups_N = _column([batch.groups_B for batch in batches], np.int32)
    is_none_N = groups_N == NO_GROUP
    places = pa.array(groups_N, pa.int32(), mask=is_none_N)
    scores = pa.array(_column([batch.scores_B for batch in batches], np.float32), mask=is_none_N)
    # in the order of rows, as where rows of a part are replaced
    names = pa.array(column.groups, pa.string()).take(places).dictionary_encode()
    return {column.name: names, column.name + GROUP_SCORE_SUFFIX: scores}


def _member_column(batches: Sequence[MemberPredictions]) -> pa.StructArray:
    fields = {
        "labels": _lists([batch.labels_Bk for batch in batches], np.int32),
        "scores": _lists([batch.scores_Bk for batch in batches], np.float32),
        "energy": pa.array(_column([batch.energy_B for batch in batches], np.float32)),
    }
    return pa.StructArray.from_arrays(list(fields.values()), names=list(fields))
