"""A unit read from its input, together with its rows in an older output that stores probabilities of some members.

Rows are matched by their sample's index, key and image hash, so that parts may be cut differently there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.errors import NotAsStored, StorageError
from pipeline.labeler.finite import is_of_another_member
from pipeline.output.ledger import PREDICTIONS, Ledger
from pipeline.output.parts import PartName
from pipeline.output.probabilities import StoredPart, StoredProbs, read_stored_part
from pipeline.records import Cursor, Item, Sample, Stage
from pipeline.stages.read import UnitReader


@dataclass(frozen=True, slots=True)
class StoredRow:
    """What an older output holds of one sample.

    Attributes:
        key: The sample's.
        sha256: Of the image, hex; None where it was not read.
        width, height: Of the image, pixels; 0 where it was not labelled.
        part: The part that it is in.
        row: Its row among the labelled samples of the part; None where it was not labelled.
        stage, reason, message: Where and why not.
    """

    key: str
    sha256: str | None
    width: int
    height: int
    part: StoredPart
    row: int | None
    stage: str = Stage.DECODE
    reason: str = ""
    message: str = ""


class StoredReader:
    """The samples of a unit, with what is stored of each. Iterate once.

    Args:
        reader: Of the unit, from some sample on.
        first_index: Of that sample.
        ledger: Of the older output.
        source: What is used of it.
        names: The unit's parts there, all of them.
        num_classes: K.

    Raises while iterating:
        NotAsStored: The older output cannot be read.
        StorageError: The unit cannot be read.
    """

    def __init__(
        self,
        reader: UnitReader,
        first_index: int,
        ledger: Ledger,
        source: StoredProbs,
        names: Sequence[PartName],
        num_classes: int,
    ) -> None:
        self._reader = reader
        self._first_index = first_index
        self._ledger = ledger
        self._source = source
        self._names = iter(names)
        self._num_classes = num_classes
        self._rows: dict[int, StoredRow] = {}
        self._known_to: float = -1  # index of the first sample that no part read so far covers

    @property
    def unsorted(self) -> bool | None:
        """Whether it is read with an index of its headers."""
        return self._reader.unsorted

    def cursor_at(self, part: int, sample: Sample) -> Cursor:
        """Where a part begins whose first sample is this one, which the reader has yielded."""
        return self._reader.cursor_at(part, sample)

    def __iter__(self) -> Iterator[Item]:
        for item in self._reader:
            if isinstance(item, Sample):
                while item.index >= self._known_to and self._load():
                    pass
                if item.image is None:  # it cannot be read now, so its row is not needed
                    self._rows.pop(item.index, None)
            yield item

    def take(self, sample: Sample, sha256: str) -> StoredRow:
        """The row of a sample, which is then dropped.

        Raises:
            NotAsStored: Nothing, or it is about another image.
        """
        row = self._rows.pop(sample.index, None)
        if row is None or (row.key, row.sha256) != (sample.key, sha256):
            raise NotAsStored(f"{self._source.out} holds another image than {sample.key!r} (index {sample.index})")
        return row

    def _load(self) -> bool:
        """Read the next part; False when there is none."""
        name = next(self._names, None)
        if name is None:
            return False
        try:
            footer = self._ledger.footer(PREDICTIONS, str(name))
            self._known_to = math.inf if name.last else footer.next.index
            if self._known_to > self._first_index:
                self._take_in(read_stored_part(self._ledger, self._source, name, self._num_classes))
        except StorageError as error:
            raise NotAsStored(str(error)) from error
        return True

    def _take_in(self, part: StoredPart) -> None:
        names = ["index", "key", "sha256", "width", "height"]
        for number, row in enumerate(part.predictions.select(names).to_pylist()):
            index = row.pop("index")
            if index >= self._first_index:
                self._rows[index] = StoredRow(**row, part=part, row=number)
        if part.rejected is None:
            return
        for row in part.rejected.select(["index", "key", "sha256", "stage", "reason", "message"]).to_pylist():
            index = row.pop("index")
            if index is not None and index >= self._first_index:
                if is_of_another_member(row["reason"], row["message"], self._source.aliases):
                    raise NotAsStored(f"{self._source.out} has no probabilities for {row['key']!r}: {row['message']}")
                self._rows[index] = StoredRow(**row, width=0, height=0, part=part, row=None)
