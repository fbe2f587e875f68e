"""The images of a list that do not lie beside it: found in the output by shard and key, read from its inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.annotation_page.answer_table import ListedRow
from pipeline.inputs.originals import Wanted, fetch_originals
from pipeline.output.ledger import PREDICTIONS, Ledger
from pipeline.storage import Storage

_COLUMNS = ["shard", "key", "index", "sha256", "labels", "scores"]


@dataclass(frozen=True, slots=True)
class Located:
    """An image of the list in the output.

    Attributes:
        wanted: Its row.
        labels, scores: The stored top k of the consensus, best first.
    """

    wanted: Wanted
    labels: tuple[int, ...]
    scores: tuple[float, ...]


class OutputImages:
    """The images of a list in the output that it was drawn from.

    Args:
        ledger: Of the output.
        storage: How to reach it and its inputs.
    """

    def __init__(self, ledger: Ledger, storage: Storage) -> None:
        self._ledger = ledger
        self._storage = storage

    def locate(self, rows: Sequence[ListedRow]) -> dict[int, Located]:
        """Find the images; the result has the number of each row that is in the output just once.

        Raises:
            StorageError: The output cannot be read.
        """
        keys = pa.array(sorted({row.key for row in rows}), pa.string())
        numbers: dict[str, list[int]] = {}
        for number, row in enumerate(rows):
            numbers.setdefault(row.key, []).append(number)
        found: dict[int, list[Located]] = {}
        fingerprint = str(self._ledger.job()["fingerprint"])
        for part in self._ledger.prediction_parts(fingerprint):
            table = self._ledger.read_part(PREDICTIONS, str(part), _COLUMNS)
            table = table.filter(pc.is_in(table["key"], value_set=keys))
            for values in table.to_pylist():
                for number in numbers[values["key"]]:
                    if _is_same(rows[number], values):
                        wanted = Wanted(part.unit_id, part.part, values["index"], values["key"], values["sha256"])
                        located = Located(wanted, tuple(values["labels"]), tuple(values["scores"]))
                        found.setdefault(number, []).append(located)
        return {number: several[0] for number, several in found.items() if len(several) == 1}

    def fetch(self, located: Sequence[Located]) -> Iterator[tuple[Wanted, bytes | None, str]]:
        """Read images: the row, the image, and why there is none.

        Raises:
            OutputError: The plan of the output cannot be read.
        """
        for original in fetch_originals([one.wanted for one in located], self._ledger, self._storage):
            yield original.wanted, original.image, original.problem


def _is_same(row: ListedRow, values: dict[str, object]) -> bool:
    """Whether a row of the list, which may lack columns, is this row of the output."""
    return (
        (not row.shard or row.shard == values["shard"])
        and (not row.index or row.index == str(values["index"]))
        and (not row.sha256 or values["sha256"] is None or row.sha256 == values["sha256"])
    )
