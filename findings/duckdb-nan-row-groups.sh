#!/usr/bin/env bash
# How many rows DuckDB finds above a score depends on how the rows lie in row groups.
#
# Versions: duckdb 2.0.0, polars 2.1.0, pandas 3.1.1, pyarrow 26.0.1, Python 3.11.2. Date: 2026-11.
# NaN is greater than all numbers in DuckDB and Polars, not in pandas and pyarrow: that is documented. But Parquet's
# statistics leave NaN out. DuckDB skips row groups by them, and a NaN is lost there, unless its whole row group is NaN
# and has no statistics. So the same four rows and one query have two answers, by the writer's row_group_size.
# Seen: scores .1 NaN .3 .95, "score > 0.9": DuckDB 2, 1, 2 rows for row groups of 4, 3, 1; Polars always 2, pandas 1.
# Upstream: duckdb#25521 (open); ClickHouse#118110 is the like.
# Depends on it: pipeline/exporting/selection.py, which filters scores with NumPy and rejects NaN by itself.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet \
    'duckdb==2.0.0' 'polars==2.1.0' 'pandas==3.1.1' 'pyarrow==26.0.1'
HOME=$work "$work/venv/bin/python" - "$work" <<'PY'
import sys

import duckdb
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq

path = f"{sys.argv[1]}/scores.parquet"
table = pa.table({"score": pa.array([0.1, float("nan"), 0.3, 0.95], pa.float32())})
expected = {4: (2, 2, 1), 3: (1, 2, 1), 1: (2, 2, 1)}
for size, counts in expected.items():
    pq.write_table(table, path, row_group_size=size)
    ((in_duckdb,),) = duckdb.sql(f"select count(*) from '{path}' where score > 0.9").fetchall()
    in_polars = polars.scan_parquet(path).filter(polars.col("score") > 0.9).collect().height
    in_pandas = int((pandas.read_parquet(path)["score"] > 0.9).sum())
    print(f"row groups of {size}: DuckDB {in_duckdb}, Polars {in_polars}, pandas {in_pandas}")
    if (in_duckdb, in_polars, in_pandas) != counts:
        sys.exit(f"CHANGED: expected {counts}")
print("still so: DuckDB's answer follows the row groups")
PY
