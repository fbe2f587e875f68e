"""The promise of an export, from the images that the other filters leave."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.taxonomy.name_paths import NO_NAME, NamePaths
from pipeline.taxonomy.nodes import Nodes
from pipeline.trust.back_off import BackOffLevels, JudgedNames
from pipeline.trust.fitted import NOT_FITTED
from pipeline.trust.promise import Judged, PrecisionTest, Promise, certify_or_estimate, choose_and_certify
from pipeline.trust.truth import NOT_KNOWN

_BATCH_ROWS = 100_000
# Columns of the rows with known truth, and of those that a calibration was fitted on.
_JUDGED = "shard, key, score, is_right, truth, fitted, names, sums"
_FITTED = "score, fitted_right AS is_right, fitted AS truth, names, sums"

Array = np.ndarray
Certifying = Callable[[pa.Table], pa.Table]


def read_judged(db: duckdb.DuckDBPyConnection, unique_places: Array, order: str) -> pa.Table:
    """The images with known truth, in order.

    Args:
        db: With the table ``kept``.
        unique_places: int64, places whose truth is that of one image only.
        order: SQL, of the rows.
    """
    db.register("single", pa.table({"truth_row": unique_places}))
    given = db.sql(
        f"SELECT {_JUDGED} FROM kept SEMI JOIN single USING (truth_row) WHERE truth > {NOT_KNOWN} ORDER BY {order}"
    ).to_arrow_table()
    db.unregister("single")
    return given


def promise_scores(db: duckdb.DuckDBPyConnection, test: PrecisionTest, certifying: pa.Table) -> Promise:
    """The lowest score at which the labels have a precision.

    Args:
        db: With the table ``kept``.
        test: The precision and its risk.
        certifying: Of :func:`read_judged`, the rows that certify.
    """
    total = _number(db)
    return choose_and_certify(test, _judged(certifying), _count_scores(db), total, _judged(_fitted(db)))


def promise_names(
    db: duckdb.DuckDBPyConnection, test: PrecisionTest, certifying: pa.Table, nodes: Nodes
) -> tuple[Promise, float]:
    """The lowest probability of names at which they have a precision, and what they tell then: bits an image.

    Args:
        db: With the table ``kept``, and the names that each image may get in it.
        test: The precision and its risk.
        certifying: Of :func:`read_judged`, the rows that certify.
        nodes: Of the tree.
    """
    levels = BackOffLevels(nodes)
    for batch in db.sql("SELECT names, sums FROM kept").to_arrow_reader(_BATCH_ROWS):
        levels.add(_paths(pa.table(batch)))
    judged, known = (
        JudgedNames.judge(nodes, _paths(table), table["truth"].to_numpy()) for table in (certifying, _fitted(db))
    )
    promise = certify_or_estimate(test, judged, levels.choose(len(judged), test), known)
    return promise, 0.0 if promise.threshold is None else levels.mean_bits(promise.threshold)


def give_names(db: duckdb.DuckDBPyConnection, threshold: float) -> None:
    """Label each image with the finest name that has at least so much probability; each has one that does.

    Args:
        db: With the table ``kept``, from which images without such a name are gone.
        threshold: Of the promise.
    """
    place = "list_position(list_transform(sums, lambda share: share >= $1::FLOAT), true)"
    db.execute(f"UPDATE kept SET label = names[{place}], score = sums[{place}]", [threshold])


def _fitted(db: duckdb.DuckDBPyConnection) -> pa.Table:
    return db.sql(f"SELECT {_FITTED} FROM kept WHERE fitted <> {NOT_FITTED}").to_arrow_table()


def _number(db: duckdb.DuckDBPyConnection) -> int:
    ((number,),) = db.sql("SELECT count(*) FROM kept").fetchall()
    return int(number)


def _count_scores(db: duckdb.DuckDBPyConnection) -> Iterator[tuple[Array, Array]]:
    """Distinct scores of what is left, from high to low, and the images of each; sorted on disk."""
    counts = db.sql("SELECT score, count(*) AS images FROM kept GROUP BY score ORDER BY score DESC")
    for batch in counts.to_arrow_reader(_BATCH_ROWS):
        yield batch["score"].to_numpy(), batch["images"].to_numpy()


def _judged(table: pa.Table) -> Judged:
    return Judged(table["score"].to_numpy(), table["is_right"].to_numpy())


def _paths(table: pa.Table) -> NamePaths:
    """Lists of names and sums as arrays."""
    names = table["names"].combine_chunks()
    lengths_B = names.value_lengths().fill_null(0).to_numpy().astype(np.int64)
    shape = len(table), max(1, int(lengths_B.max(initial=0)))
    nodes_BD, sums_BD = np.full(shape, NO_NAME, np.int32), np.zeros(shape, np.float32)
    is_name_BD = np.arange(shape[1]) < lengths_B[:, None]
    nodes_BD[is_name_BD] = names.flatten().to_numpy()
    sums_BD[is_name_BD] = table["sums"].combine_chunks().flatten().to_numpy()
    return NamePaths(nodes_BD, sums_BD)
