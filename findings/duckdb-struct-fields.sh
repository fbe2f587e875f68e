#!/usr/bin/env bash
# Over several Parquet files DuckDB refuses a missing column, but fills and drops fields of a struct in silence.
#
# Versions: duckdb 2.0.0, polars 2.1.0, pyarrow 26.0.1, Python 3.11.2. Date: 2026-11.
# Without union_by_name a file that lacks a column of the first one is an error. A struct column is read with the first
# file's fields: what a later file lacks is NULL, what it has besides is dropped, and nothing is said. pyarrow does the
# same; Polars raises. DuckDB 1.0 raised, too, so one may remember that this cannot happen.
# Seen: structs {x, y} and {x, z}: two rows, the second {x: .7, y: NULL}, z gone; with the files in the other order y.
# Upstream: duckdb#13245 and #15375 are about the error of DuckDB 1.0.
# Depends on it: pipeline/records.py, whose column members is a struct with a field for each network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet 'duckdb==2.0.0' 'polars==2.1.0' 'pyarrow==26.0.1'
HOME=$work "$work/venv/bin/python" - "$work" <<'PY'
import sys

import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq

work = sys.argv[1]
pq.write_table(pa.table({"key": ["a"], "members": [{"x": 0.5, "y": 0.6}]}), f"{work}/1.parquet")
pq.write_table(pa.table({"key": ["b"], "members": [{"x": 0.7, "z": 0.8}]}), f"{work}/2.parquet")
pq.write_table(pa.table({"key": ["c"]}), f"{work}/3.parquet")


def files(*numbers):
    return [f"{work}/{number}.parquet" for number in numbers]


def in_duckdb(*numbers):
    return duckdb.sql(f"select members from read_parquet({files(*numbers)})").fetchall()


forward, backward = in_duckdb(1, 2), in_duckdb(2, 1)
print("DuckDB, 1 then 2:", forward)
print("DuckDB, 2 then 1:", backward)
if forward != [({"x": 0.5, "y": 0.6},), ({"x": 0.7, "y": None},)]:
    sys.exit("CHANGED: DuckDB, fields of the first file")
if backward != [({"x": 0.7, "z": 0.8},), ({"x": 0.5, "z": None},)]:
    sys.exit("CHANGED: DuckDB, files in the other order")
try:
    in_duckdb(1, 3)
except duckdb.Error as error:
    print("DuckDB, column missing:", str(error).splitlines()[0][-90:])
else:
    sys.exit("CHANGED: DuckDB accepts a file that lacks a column")

in_pyarrow = pq.ParquetDataset(files(1, 2)).read()["members"].to_pylist()
print("pyarrow:", in_pyarrow)
if in_pyarrow != [{"x": 0.5, "y": 0.6}, {"x": 0.7, "y": None}]:
    sys.exit("CHANGED: pyarrow")
try:
    polars.scan_parquet(files(1, 2)).collect()
except polars.exceptions.SchemaError:
    print("Polars: SchemaError")
else:
    sys.exit("CHANGED: Polars accepts structs of other fields")
print("still so: which fields there are depends on the order of the files")
PY
