"""The groups of images of an output, by level: from its own columns, or from what it stores of the distribution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.columns import GROUP_SCORE_SUFFIX
from pipeline.output.ledger import Ledger
from pipeline.output.parts import PartName
from pipeline.storage import Storage
from pipeline.taxonomy.choosing import GroupColumn, cpu_chooser, group_columns
from pipeline.taxonomy.stored import stored_groups_hash
from pipeline.taxonomy.tree import NO_GROUP, Taxonomy
from pipeline.trust.distributions import Distributions

Array = np.ndarray


class GroupReader:
    """Reads groups. Safe to call from several threads.

    Args:
        ledger: Of the output.
        job: Its ``job.json``.
        storage: Reads the output that it was combined from.
        taxonomy: Whose groups.

    Attributes:
        taxonomy: The tree.
        group_columns: What is read, L columns, the finest first.
        source: ``columns`` where the output was labelled with the same groups; else that of
            :class:`pipeline.trust.distributions.Distributions`.
        columns: Columns of the predictions that :meth:`read` needs.
    """

    def __init__(self, ledger: Ledger, job: Mapping[str, Any], storage: Storage, taxonomy: Taxonomy) -> None:
        self.group_columns = group_columns(taxonomy)
        self.source: Literal["columns", "probabilities", "top-k"] = "columns"
        self.taxonomy = taxonomy
        self._distributions: Distributions | None = None
        if stored_groups_hash(job) == taxonomy.groups_hash:
            names = [column.name for column in self.group_columns]
            self.columns = (*names, *(name + GROUP_SCORE_SUFFIX for name in names))
        else:
            self._distributions = Distributions(ledger, job, storage)
            self.source, self.columns = self._distributions.source, self._distributions.columns

    def read(self, name: PartName, table: pa.Table) -> tuple[Array, Array]:
        """The groups of some rows of a part.

        Args:
            name: Of the predictions part.
            table: Rows of it with :attr:`columns`.

        Returns:
            int32, (L, B), places among the groups of each column, :data:`NO_GROUP` for none; and float32, (L, B), their
            sums of probabilities, 0-1, 0 for none.

        Raises:
            StorageError: Probabilities cannot be read.
        """
        if self._distributions is None:
            pairs = [_read_columns(column, table) for column in self.group_columns]
            return np.stack([groups for groups, _ in pairs]), np.stack([scores for _, scores in pairs])
        import torch  # only now: it takes seconds to load

        shape = (len(self.group_columns), 0)
        groups, scores = [np.zeros(shape, np.int32)], [np.zeros(shape, np.float32)]
        chooser = cpu_chooser(self.taxonomy)
        for probs_BK in self._distributions.read(name, table) if len(table) else ():
            chosen = chooser.choose(torch.from_numpy(probs_BK))
            groups.append(np.stack([own.groups_B.to(torch.int32).numpy() for own in chosen]))
            scores.append(np.stack([own.scores_B.numpy() for own in chosen]))
        return np.concatenate(groups, axis=1), np.concatenate(scores, axis=1)


def _read_columns(column: GroupColumn, table: pa.Table) -> tuple[Array, Array]:
    names = table[column.name].cast(pa.string()).combine_chunks()
    groups = pc.index_in(names, value_set=pa.array(column.groups, pa.string())).fill_null(NO_GROUP)
    scores = table[column.name + GROUP_SCORE_SUFFIX].fill_null(0)
    return groups.to_numpy().astype(np.int32), scores.to_numpy()
