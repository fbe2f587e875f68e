"""The rows of an output that a query wants: SQL conditions and order, one pass, bounded memory.

Conditions and order are SQL expressions over the columns of the predictions, in DuckDB's dialect. They are run on one
part after the other, which is read from any store; only the columns that they name are read. Of images with the same
bytes only the first is kept.
"""

# ruff: noqa: S608 - the SQL is the user's own, and reaches no file

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.errors import RequestError
from pipeline.output.ledger import PREDICTIONS, Ledger
from pipeline.page.row_choice import RowRef
from pipeline.trust.truth import Truth

_NAME = re.compile(r"[A-Za-z_]\w*")
_PRUNE_AT = 20  # times the number of rows wanted
# One row for each content; rows without a hash (made by older versions) stand for themselves
_FIRST = """QUALIFY row_number() OVER (
    PARTITION BY coalesce(sha256, concat(__part, ':', __row)) ORDER BY {order}, __part, __row) = 1
    ORDER BY {order}, __part, __row LIMIT {num}"""


@dataclass(frozen=True, slots=True)
class Query:
    """Which rows are wanted.

    Attributes:
        labels: Classes, by index; empty for all.
        where: An SQL condition; empty for none.
        order: An SQL order, such as ``score DESC``; empty for a random one.
        num: Number of rows.
        seed: Of the random order.
    """

    labels: tuple[int, ...] = ()
    where: str = ""
    order: str = ""
    num: int = 200
    seed: int = 0

    @property
    def condition(self) -> str:
        """The whole condition, in SQL."""
        of_classes = f"label IN ({', '.join(map(str, self.labels))})" if self.labels else "true"
        return f"{of_classes} AND ({self.where or 'true'}\n)"  # the line ends a comment, if the condition ends in one

    @property
    def sort(self) -> str:
        """The order, in SQL."""
        return self.order or f"md5(concat(sha256, {self.seed}))"


@dataclass(frozen=True, slots=True)
class QueryResult:
    """What a query found.

    Attributes:
        row_refs: The rows, in order, each content once.
        matching: Number of rows that the condition is true of, images with the same bytes included.
        truths: Truths of these rows in a truth file, by row; empty without a file.
    """

    row_refs: tuple[RowRef, ...]
    matching: int
    truths: dict[RowRef, int | None]


def run_query(ledger: Ledger, fingerprint: str, query: Query, given: Truth | None = None) -> QueryResult:
    """Find the rows that a query wants.

    Args:
        ledger: The output.
        fingerprint: Of its job.
        query: Which rows.
        given: Truth of a file, which takes the place of the column ``truth``.

    Raises:
        RequestError: The condition or the order is not valid SQL over these columns.
        StorageError: A part cannot be read.
    """
    names = [str(name) for name in ledger.prediction_parts(fingerprint)]
    if not names:
        return QueryResult((), 0, {})
    first = ledger.read_part(PREDICTIONS, names[0])
    database = duckdb.connect(config={"enable_external_access": "false"})
    with database:
        _check(database, query, first.slice(0, 0))
        columns = _columns(query, first.column_names, given)
        matching = 0
        for number, name in enumerate(names):
            table = _prepare(ledger.read_part(PREDICTIONS, name, columns), number, given)
            matching += _keep(database, query, table, begin=not number)
        found = _run(database, f"SELECT __part, __row, {'truth' if given else 'NULL'} FROM kept {_first(query)}")
    row_refs = tuple(RowRef(names[part], row) for part, row, _ in found)
    truths = dict(zip(row_refs, (truth for *_, truth in found), strict=True)) if given else {}
    return QueryResult(row_refs, matching, truths)


def _check(database: duckdb.DuckDBPyConnection, query: Query, empty: pa.Table) -> None:
    """Try condition and order apart on a table without rows, so that a message names the one that is wrong."""
    database.register("rows", _prepare(empty, 0, None))
    checks = (("--where", query.where, f"SELECT 1 FROM rows WHERE {query.condition}"),)
    for option, text, sql in (*checks, ("--order", query.order, f"SELECT 1 FROM rows ORDER BY {query.sort}\n, __row")):
        try:
            if len(database.extract_statements(sql)) != 1:
                raise RequestError(f"{option} {text}: one expression is expected")
            _run(database, sql)
        except duckdb.Error as error:
            raise RequestError(f"{option} {text}: {_reason(error)}") from error
    database.unregister("rows")


def _reason(error: duckdb.Error) -> str:
    """DuckDB's message without the statement that it quotes, which the user did not write."""
    return " ".join(str(error).partition("\n\nLINE")[0].split())


def _columns(query: Query, existing: list[str], given: Truth | None) -> list[str]:
    named = {name.lower() for name in _NAME.findall(f"{query.where} {query.order}")}
    named |= {"sha256", "label", *(("shard", "key", "truth") if given else ())}
    return [name for name in existing if name.lower() in named]


def _prepare(table: pa.Table, number: int, given: Truth | None) -> pa.Table:
    """A part as the query sees it: plain types, its truth, and where each row is."""
    for at, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(at, field.name, table[field.name].cast(field.type.value_type))
    if given is not None:
        truths = given.labels_of(table["shard"], table["key"])
        table = table.set_column(table.column_names.index("truth"), "truth", pa.array(truths, pa.int32()))
    table = table.append_column("__part", pa.array(np.full(len(table), number, np.int32)))
    return table.append_column("__row", pa.array(np.arange(len(table), dtype=np.int32)))


def _keep(database: duckdb.DuckDBPyConnection, query: Query, table: pa.Table, *, begin: bool) -> int:
    """Keep the rows of a part that may be wanted; how many match."""
    database.register("rows", table)
    try:
        if begin:
            _run(database, "CREATE TEMP TABLE kept AS SELECT * FROM rows LIMIT 0")
        _run(database, f"CREATE OR REPLACE TEMP TABLE matching AS SELECT * FROM rows WHERE {query.condition}")
        _run(database, f"INSERT INTO kept SELECT * FROM matching {_first(query)}")
        if _run(database, "SELECT count(*) FROM kept")[0][0] > _PRUNE_AT * query.num:
            _run(database, f"CREATE OR REPLACE TEMP TABLE kept AS SELECT * FROM kept {_first(query)}")
        matching: int = _run(database, "SELECT count(*) FROM matching")[0][0]
    except duckdb.Error as error:  # of single values: a cast, a regular expression
        raise RequestError(f"--where {query.where}: {_reason(error)}") from error
    database.unregister("rows")
    return matching


def _run(database: duckdb.DuckDBPyConnection, sql: str) -> list[Any]:
    """Run a statement to its end: a connection with rows left to fetch takes no other one."""
    return database.execute(sql).fetchall()


def _first(query: Query) -> str:
    return _FIRST.format(order=query.sort, num=query.num)
