"""Selection: which images of an output are accepted, and how many each filter rejects.

All images pass the filters in one order and are counted at the first that rejects them: limits on single images (score,
agreement, entropy, disagreement, out-of-distribution score), a group of own classes, duplicates, the score for a
promised precision, and the number of images per class. Images within the limits go into a database on disk (DuckDB),
which sorts and groups more rows than memory holds; so memory does not grow with the output.
"""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.errors import OutputError
from pipeline.exporting.limits import TARGET_PRECISION
from pipeline.exporting.naming import BackOffNaming, ClassNaming, Naming
from pipeline.exporting.promising import give_names, promise_names, promise_scores, read_judged
from pipeline.exporting.row_filter import RowFilter
from pipeline.exporting.settings import ExportConfig
from pipeline.exporting.source import Source
from pipeline.labels import NO_CLASS
from pipeline.machine import available_memory_bytes, num_local_cpus
from pipeline.output.parts import PartName
from pipeline.taxonomy.nodes import carry_groups
from pipeline.taxonomy.stored import stored_classes
from pipeline.trust.draw import Population
from pipeline.trust.fitted import NOT_FITTED, NOTHING_FITTED, FittedTruths
from pipeline.trust.promise import PrecisionTest, Promise, certifying_mask
from pipeline.trust.strictness import check_truths
from pipeline.trust.truth import Truth, TruthCounts, TruthMatcher

DUPLICATE, MAX_PER_CLASS = "duplicate", "max_per_class"
_BATCH_ROWS = 100_000
_MEMORY_SHARE = 0.4  # of what is free; the rest is for what is read meanwhile
_MIN_MEMORY_BYTES = 256 << 20

Array = np.ndarray

# Order of images with equal scores.
_ORDER = "shard, key, idx, part"
# Which of the images with equal bytes is kept: the one that `shardlabel sample --unique` draws from. Otherwise truths
# about the others would be lost, and images with duplicates would be too rare among those that certify.
_FIRST_COPY = "part, idx"


@dataclass(frozen=True, slots=True)
class ClassCount:
    """Selected images of a class.

    Attributes:
        label: Index of the class.
        images: Selected images.
        copies: The same with repetitions.
    """

    label: int
    images: int
    copies: int


@dataclass(frozen=True, slots=True)
class PartSelection:
    """Selected images of one part.

    Attributes:
        name: Of the predictions part.
        rows: The columns ``index``, ascending; ``copies``; and ``shared``, whether another selected image of the class
            has the same key apart from case and the extensions of loose images. With own classes also ``label`` and
            ``score``.
    """

    name: PartName
    rows: pa.Table


class Selection:
    """Selects images of an output. A context manager; call read, promise, choose and parts in this order.

    Args:
        config: The filters.
        source: The output.
        truth: Of a file; None for the ``.cls`` of the samples.
        fitted: The truths that the calibration was fitted on; None if it does not tell.
        naming: What labels are; None for the classes.

    Attributes:
        rejected: Rejected images by filter, in the order of the filters.
        certifying_none: Of the truths that certify a promise, those that no class fits.
        certifying_groups: Of the truths that certify a promise, those that are groups.
        bits: What the finest names tell, a mean over the images that the other filters leave; None without such names.
    """

    def __init__(
        self,
        config: ExportConfig,
        source: Source,
        truth: Truth | None = None,
        fitted: FittedTruths | None = NOTHING_FITTED,
        naming: Naming | None = None,
    ) -> None:
        self._config = config
        self._source = source
        self._naming = naming or ClassNaming(source.labels)
        self.certifying_none = self.certifying_groups = 0
        self.bits: float | None = None
        self.rejected: Counter[str] = Counter()
        carried = carry_groups(stored_classes(source.job), self._naming.truth_classes)
        self._matcher = TruthMatcher(truth, len(source.job["class_names"]), strict=True, carried_groups=carried)
        self._fitted = fitted
        self._rows = RowFilter(config, source, self._naming, self._matcher, fitted)
        self._threshold: float | None = None

    @property
    def labelled(self) -> int:
        """Labelled images."""
        return self._rows.labelled

    @property
    def population(self) -> Population:
        """The same, as the lists of ``shardlabel sample`` name them; only for a promise."""
        return self._rows.population

    def __enter__(self) -> Self:
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="shardlabel-export-")
        except OSError as error:
            raise OutputError(f"no scratch folder to sort in; let TMPDIR name one with room: {error}") from error
        available = available_memory_bytes() or 0
        self._db = duckdb.connect(
            f"{self._folder.name}/rows.duckdb",
            config={
                "threads": num_local_cpus(),
                "memory_limit": f"{max(_MIN_MEMORY_BYTES, int(available * _MEMORY_SHARE)) >> 20}MiB",
                "temp_directory": f"{self._folder.name}/spilled",
                "preserve_insertion_order": "false",
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
            },
        )
        self._db.execute(
            "CREATE TABLE found (part INTEGER, shard INTEGER, key VARCHAR, idx BIGINT, sha256 BLOB, label INTEGER, "
            "score FLOAT, truth_row BIGINT, truth INTEGER, is_right BOOLEAN, fitted INTEGER, fitted_right BOOLEAN, "
            "name VARCHAR, names INTEGER[], sums FLOAT[])"
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._db.close()
        self._folder.cleanup()

    # -- one image at a time --------------------------------------------------------------------------

    def read(self) -> None:
        """Read every row once, and keep those within the limits on single images for the other filters.

        Raises:
            StorageError: A part cannot be read.
        """
        for batch in self._rows.read():
            if batch.num_rows:
                self._db.register("batch", batch)
                self._db.execute("INSERT INTO found SELECT * REPLACE (unhex(sha256) AS sha256) FROM batch")
                self._db.unregister("batch")
        self.rejected.update(self._rows.rejected)
        self._db.execute("CREATE TABLE kept AS SELECT * EXCLUDE (sha256) FROM found" + self._without_duplicates())
        self._db.execute("DROP TABLE found")
        if self._config.dedupe:
            before = self.labelled - self.rejected.total()
            self._count(DUPLICATE, before - self._query_number("SELECT count(*) FROM kept"))

    def _without_duplicates(self) -> str:
        if not self._config.dedupe:
            return ""
        return f" QUALIFY row_number() OVER (PARTITION BY sha256 ORDER BY {_FIRST_COPY}) = 1"

    def check_truths(self, *, count_unknown: bool) -> TruthCounts:
        """How much of the truth can be used for a promise, after :meth:`read`.

        Args:
            count_unknown: Whether truths that are not understood count as wrong.

        Raises:
            RequestError: There is none, or some is not understood.
        """
        names = list(self._source.job["class_names"])
        if self._naming.truth_classes is not None:
            names += [group.name for group in self._naming.truth_classes.groups]
        return check_truths(self._matcher, names, count_unknown=count_unknown)

    # -- all images at once ---------------------------------------------------------------------------

    def promise(self, test: PrecisionTest) -> Promise:
        """Find the lowest score for a promised precision, from the images with known truth that are left.

        Args:
            test: The precision, its risk, and whether the truth is known to be a random draw.
        """
        given = read_judged(self._db, self._matcher.unique_places(), _ORDER)
        certifying = given.filter(pa.array(self._certifying(given)))
        truth_n = certifying["truth"].to_numpy()
        self.certifying_none = int((truth_n == NO_CLASS).sum())
        self.certifying_groups = int((truth_n >= len(self._source.job["class_names"])).sum())
        if isinstance(self._naming, BackOffNaming):
            found, self.bits = promise_names(self._db, test, certifying, self._naming.nodes)
        else:
            found = promise_scores(self._db, test, certifying)
        self._threshold = found.threshold
        return dataclasses.replace(found, num_truths=len(given))

    def _certifying(self, given: pa.Table) -> Array:
        """Which of the images with known truth certify: those that nothing was fitted on, bool (N,)."""
        if self._fitted is not None:
            unfitted_N: Array = given["fitted"].to_numpy() == NOT_FITTED
            return unfitted_N
        uris = sorted({unit.uri for unit in self._source.units})
        return certifying_mask((uris[rank] for rank in given["shard"].to_pylist()), given["key"].to_pylist())

    def choose(self) -> tuple[ClassCount, ...]:
        """Apply the promised precision and the number per class, and compute the copies.

        Returns:
            Selected images of each class that has any, by index.
        """
        config = self._config
        left = self._query_number("SELECT count(*) FROM kept")
        if config.target_precision is not None:
            threshold = np.inf if self._threshold is None else self._threshold
            self._db.execute("DELETE FROM kept WHERE NOT score >= ?::FLOAT", [threshold])
            self._count(TARGET_PRECISION, left - (left := self._query_number("SELECT count(*) FROM kept")))
            if isinstance(self._naming, BackOffNaming):
                give_names(self._db, threshold)
        rank, limit = "1", ""
        if config.max_per_class is not None or config.repeat_to is not None:
            rank = f"row_number() OVER (PARTITION BY label ORDER BY score DESC, {_ORDER})"
        if config.max_per_class is not None:
            limit = f" QUALIFY rank <= {config.max_per_class}"
        self._db.execute(
            f"CREATE TABLE chosen AS SELECT part, idx, name, label, score, {rank} AS rank FROM kept{limit}"
        )
        self._db.execute("DROP TABLE kept")
        if config.max_per_class is not None:
            self._count(MAX_PER_CLASS, left - self._query_number("SELECT count(*) FROM chosen"))
        rows = self._db.sql(
            f"SELECT label, count(*), sum({self._copies()}) FROM {self._sized()} GROUP BY label ORDER BY label"
        ).fetchall()
        return tuple(ClassCount(int(label), int(images), int(copies)) for label, images, copies in rows)

    def _copies(self) -> str:
        """SQL for the copies of an image: all of a class have as many, and the best share the remainder."""
        total = self._config.repeat_to
        if total is None:
            return "1"
        return f"CASE WHEN size >= {total} THEN 1 ELSE {total} // size + (rank <= {total} % size)::INTEGER END"

    @staticmethod
    def _sized() -> str:
        return "(SELECT * FROM chosen JOIN (SELECT label, count(*) AS size FROM chosen GROUP BY label) USING (label))"

    def parts(self) -> Iterator[PartSelection]:
        """The selected images part by part; parts without any are left out."""
        shared = "false"
        if self._config.format == "imagefolder":
            shared = "count(*) OVER (PARTITION BY label, name) > 1"
        own = "" if self._naming.taxonomy is None else ", label, score"
        reader = self._db.sql(
            f"SELECT part, idx AS index, ({self._copies()})::INTEGER AS copies, {shared} AS shared{own} "
            f"FROM {self._sized()} ORDER BY part, idx"
        ).to_arrow_reader(_BATCH_ROWS)
        held: list[pa.Table] = []
        for batch in reader:
            table = pa.table(batch)
            numbers = table["part"].to_numpy()
            starts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist()] if len(numbers) else []
            for start, stop in itertools.pairwise([*starts, len(numbers)]):
                if held and held[0]["part"][0].as_py() != numbers[start]:
                    yield self._make_part(held)
                    held = []
                held.append(table.slice(start, stop - start))
        if held:
            yield self._make_part(held)

    def _make_part(self, tables: list[pa.Table]) -> PartSelection:
        table = pa.concat_tables(tables).combine_chunks()
        return PartSelection(self._rows.parts[table["part"][0].as_py()], table.drop_columns(["part"]))

    def _query_number(self, query: str) -> int:
        ((number,),) = self._db.sql(query).fetchall()
        return int(number)

    def _count(self, name: str, images: int) -> None:
        self.rejected[name] += images
