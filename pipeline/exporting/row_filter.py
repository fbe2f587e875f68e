"""Reads every row of an output once, names it, and keeps those within the limits on single images."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from pipeline.exporting.limits import rejected_by_limits
from pipeline.exporting.names import same_on_disk, without_extension
from pipeline.exporting.naming import NAMES, SUMS, Naming
from pipeline.exporting.settings import ExportConfig
from pipeline.exporting.source import Source
from pipeline.output.ledger import PREDICTIONS
from pipeline.output.parts import PartName
from pipeline.records import UnitKind
from pipeline.trust.draw import Population, hash_images
from pipeline.trust.fitted import NOT_FITTED, NOTHING_FITTED, FittedTruths
from pipeline.trust.truth import NOT_KNOWN, TruthMatcher

NO_GROUP = "no_group"  # the filter that rejects images without a group
_LISTS = ((NAMES, pa.list_(pa.int32())), (SUMS, pa.list_(pa.float32())))
_READ_AHEAD = 8

Array = np.ndarray


class RowFilter:
    """Reads the rows of an output.

    Args:
        config: The limits.
        source: The output.
        naming: What labels are.
        matcher: Finds the truth of images.
        fitted: The truths that the calibration was fitted on; None if it does not tell.

    Attributes:
        parts: Names of the predictions parts, in the order in which they are read.
        labelled: Labelled images so far.
        population: The same, as the lists of ``shardlabel sample`` name them; only for a promise.
        rejected: Images that a limit rejected so far, by filter.
    """

    def __init__(
        self,
        config: ExportConfig,
        source: Source,
        naming: Naming,
        matcher: TruthMatcher,
        fitted: FittedTruths | None,
    ) -> None:
        self.parts = sorted((name for _, name in source.parts()), key=str)
        self.labelled = 0
        self.population = Population()
        self.rejected: Counter[str] = Counter()
        self._config = config
        self._source = source
        self._naming = naming
        self._matcher = matcher
        self._fitted = fitted
        self._promises = config.target_precision is not None
        self._loose = {unit.id for unit in source.units if unit.kind == UnitKind.SLICE}

    def read(self) -> Iterator[pa.Table]:
        """The rows within the limits, part by part.

        Yields:
            ``part`` and ``shard`` (ranks of their names), ``key``, ``idx``, ``sha256``, ``label``, ``score``,
            ``truth_row`` and ``truth`` as the matcher has them, ``is_right``, ``fitted``, the class of an image that
            the calibration was fitted on, ``fitted_right``, ``name`` (:meth:`_file_names`), and the lists of the names
            that an image may get, null unless they are chosen among.

        Raises:
            StorageError: A part cannot be read.
        """
        uris = {unit.id: unit.uri for unit in self._source.units}
        shards = {uri: rank for rank, uri in enumerate(sorted(set(uris.values())))}
        for number, table in enumerate(self._read_tables()):
            yield self._filter_rows(number, shards[uris[self.parts[number].unit_id]], table)

    def _read_tables(self) -> Iterator[pa.Table]:
        """The parts in order, some of them read ahead."""
        columns = ["shard", "key", "index", "sha256", "label", "score", "agreement", "entropy", "disagreement"]
        columns += [f"members.{alias}.energy" for alias in self._source.aliases]
        columns += self._naming.columns
        columns += self._matcher.columns if self._promises else ()
        columns = list(dict.fromkeys(columns))
        waiting = iter(self.parts)
        ahead: deque[Future[pa.Table]] = deque()
        with ThreadPoolExecutor(_READ_AHEAD) as pool:
            try:
                while True:
                    for name in itertools.islice(waiting, _READ_AHEAD - len(ahead)):
                        ahead.append(pool.submit(self._read_table, name, columns))
                    if not ahead:
                        return
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def _read_table(self, name: PartName, columns: list[str]) -> pa.Table:
        """A part with the labels and scores of the export."""
        return self._naming.rename(name, self._source.ledger.read_part(PREDICTIONS, str(name), columns))

    def _filter_rows(self, number: int, shard: int, table: pa.Table) -> pa.Table:
        """The rows of a part within the limits on single images."""
        passes_B = np.ones(len(table), bool)
        labels_B = table["label"].to_numpy()
        limits = rejected_by_limits(self._config, table, self._source.aliases)
        own = [] if self._naming.taxonomy is None else [(NO_GROUP, labels_B < 0)]
        for name, rejects_B in itertools.chain(own, limits):  # what is in no group has no score that could be too low
            self.rejected[name] += int((passes_B & rejects_B).sum())
            passes_B &= ~rejects_B
        self.labelled += len(table)
        truth_B, rows_B = self._truths(table)
        fitted_B = self._fitted_labels(table)
        columns = {
            "part": np.full(len(table), number, np.int32),
            "shard": np.full(len(table), shard, np.int32),
            "key": table["key"],
            "idx": table["index"],
            "sha256": table["sha256"],
            "label": table["label"],
            "score": table["score"],
            "truth_row": rows_B,
            "truth": truth_B,
            "is_right": self._naming.is_right(truth_B, labels_B),
            "fitted": fitted_B,
            "fitted_right": self._naming.is_right(fitted_B, labels_B),
            "name": self._file_names(number, table),
        }
        for name, kind in _LISTS:
            columns[name] = table[name] if name in table.column_names else pa.nulls(len(table), kind)
        return pa.table(columns).filter(pa.array(passes_B))

    def _file_names(self, number: int, table: pa.Table) -> pa.Array:
        """The name that decides ``shared``, as a file system sees it; null for formats without a file per image."""
        if self._config.format != "imagefolder":
            return pa.nulls(len(table), pa.string())
        keys = table["key"].to_pylist()
        if self.parts[number].unit_id in self._loose:
            keys = [without_extension(key) for key in keys]
        return pa.array([same_on_disk(key) for key in keys], pa.string())

    def _truths(self, table: pa.Table) -> tuple[Array, Array]:
        """True class of each image and the place where it was found, int (B,) each, as the matcher has them."""
        if not self._promises:
            unknown_B = np.full(len(table), NOT_KNOWN, np.int32)
            return unknown_B, unknown_B
        return self._matcher.match(table)

    def _fitted_labels(self, table: pa.Table) -> Array:
        """The class of each image that the calibration was fitted on: int32 (B,), NOT_FITTED for the others."""
        if not self._promises:
            return np.full(len(table), NOT_FITTED, np.int32)
        hashes_B = hash_images(table)
        self.population.add(hashes_B)
        return (self._fitted or NOTHING_FITTED).find(hashes_B)
