"""The consensus' distribution over all classes, of the labelled images of an output: from what is stored.

The members' probabilities tell it whole: those of the output, or of the one that it was combined from. Without them
there is the top-k alone, and what is not in it counts for no class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ObjectDamaged, ShardlabelError
from pipeline.output.ledger import PREDICTIONS, Ledger
from pipeline.output.parts import PartName
from pipeline.output.probabilities import StoredProbs, read_stored_part, stored_aliases, to_matrix
from pipeline.storage import Storage

if TYPE_CHECKING:  # torch takes seconds to load, and the top-k alone does without
    from pipeline.models.consensus import Rule

TOP_K = "top-k"  # the source where no probabilities are stored
_BATCH_ROWS = 1_024

Array = np.ndarray


class Distributions:
    """Reads distributions. Safe to call from several threads.

    Args:
        ledger: Of the output.
        job: Its ``job.json``.
        storage: Reads the output that it was combined from.

    Attributes:
        source: ``probabilities``, or ``top-k`` where no probabilities are stored.
        columns: Columns of the predictions that :meth:`read` needs.
    """

    def __init__(self, ledger: Ledger, job: Mapping[str, Any], storage: Storage) -> None:
        results = job["results"]
        self._num_classes = len(job["class_names"])
        self._ledger, self._stored = _find_probabilities(ledger, job, storage)
        self.source: Literal["probabilities", "top-k"] = "top-k" if self._stored is None else "probabilities"
        self.columns: tuple[str, ...] = ("labels", "scores") if self._stored is None else ("index",)
        calibration = results.get("calibration") or {}
        self._factors = calibration.get("weights") or [member["factor"] for member in results["members"]]
        self._rule: Rule = results["combine"]
        self._temperature = float(calibration.get("temperature", 1.0))

    def read(self, name: PartName, table: pa.Table) -> Iterator[Array]:
        """The distributions of some rows of a part, in order.

        Args:
            name: Of the predictions part.
            table: Rows of it with :attr:`columns`.

        Yields:
            float32, (B, K), 0-1, for some rows at a time; rows of a top-k sum to less than 1.

        Raises:
            StorageError: The probabilities cannot be read, or are not those of these rows.
        """
        if self._stored is None:
            for start in range(0, len(table), _BATCH_ROWS):
                yield _spread_top_k(table.slice(start, _BATCH_ROWS), self._num_classes)
            return
        from pipeline.models.stored_probs import pool_stored

        older = PartName(self._stored.fingerprint, name.unit_id, name.part, name.last)
        part = read_stored_part(self._ledger, self._stored, older, self._num_classes)
        found = pc.index_in(table["index"], value_set=part.predictions["index"].combine_chunks())
        if found.null_count:
            uri = self._ledger.uri(PREDICTIONS, str(older))
            raise ObjectDamaged(f"{uri}: its rows are not those of {name}; combine it again")
        rows_N = found.to_numpy()
        for start in range(0, len(rows_N), _BATCH_ROWS):
            rows_B = rows_N[start : start + _BATCH_ROWS]
            members = [part.member_probs[alias].take(rows_B) for alias in self._stored.aliases]
            yield pool_stored(members, self._factors, self._rule, self._temperature).numpy()


def _find_probabilities(ledger: Ledger, job: Mapping[str, Any], storage: Storage) -> tuple[Ledger, StoredProbs | None]:
    """Where the members' probabilities are stored; None where they are nowhere."""
    if aliases := stored_aliases(job):
        return ledger, StoredProbs(ledger.out, str(job["fingerprint"]), aliases)
    older = job.get("combined_from")
    if not isinstance(older, dict) or "from_top_k" in (job["results"].get("calibration") or {}):
        return ledger, None
    source = Ledger(str(older.get("out")), storage)
    try:
        content = source.job()
    except ShardlabelError:  # gone, or elsewhere
        return ledger, None
    needed = tuple(member["alias"] for member in job["results"]["members"])
    if content.get("fingerprint") != older.get("fingerprint") or not {*needed} <= {*stored_aliases(content)}:
        return ledger, None
    return source, StoredProbs(source.out, str(content["fingerprint"]), needed)


def _spread_top_k(table: pa.Table, num_classes: int) -> Array:
    labels_Bk, scores_Bk = (to_matrix(table[name].combine_chunks(), len(table)) for name in ("labels", "scores"))
    probs_BK = np.zeros((len(table), num_classes), np.float32)
    np.put_along_axis(probs_BK, labels_Bk.astype(np.int64), scores_Bk, axis=1)
    return probs_BK
