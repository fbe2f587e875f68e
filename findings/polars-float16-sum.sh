#!/usr/bin/env bash
# Polars adds float16 in float16: probabilities that sum to 1 in DuckDB and NumPy sum to a half.
#
# Versions: polars 2.1.0, duckdb 2.0.0, numpy 2.4.6, pyarrow 26.0.1, Python 3.11.2. Date: 2026-11.
# A list of float16 is read by all of them. Sums differ: DuckDB reads it as FLOAT[], NumPy adds in pairs, and Polars'
# list.sum and arr.sum add one after the other in float16, so that the sum stops growing where the next value is half a
# unit in its last place. Polars does not agree with itself: arr.mean of the same values is right, and so is the sum of
# them as a column. pyarrow has no kernel for sum, mean or max of halffloat.
# Seen: 4,096 times 1/4096: list.sum and arr.sum 0.5, all others 1.0; pyarrow not implemented.
# Upstream: polars#27662 and #27732 (cum_sum, which now adds in float64); sums of lists were not found.
# Depends on it: pipeline/output/probabilities.py, which stores a float16 for each class.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet \
    'polars==2.1.0' 'duckdb==2.0.0' 'numpy==2.4.6' 'pyarrow==26.0.1'
HOME=$work "$work/venv/bin/python" - "$work" <<'PY'
import sys

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

path = f"{sys.argv[1]}/probabilities.parquet"
num_classes = 4096
probs_K = np.full(num_classes, 1 / num_classes, np.float16)
values = pa.array(probs_K)
fixed = pa.FixedSizeListArray.from_arrays(values, num_classes)
varying = pa.ListArray.from_arrays([0, num_classes], values)
pq.write_table(pa.table({"fixed": fixed, "varying": varying}), path)

frame = polars.read_parquet(path)
fixed, varying = polars.col("fixed"), polars.col("varying")
seen = {
    "Polars arr.sum": frame.select(fixed.arr.sum()).item(),
    "Polars list.sum": frame.select(varying.list.sum()).item(),
    "Polars arr.mean * K": frame.select(fixed.arr.mean()).item() * num_classes,
    "Polars sum of a column": frame.select(varying.explode().sum()).item(),
    "DuckDB": duckdb.sql(f"select list_sum(varying) from '{path}'").fetchall()[0][0],
    "NumPy": float(probs_K.sum()),
}
try:
    seen["pyarrow"] = pc.sum(values).as_py()
except pa.ArrowNotImplementedError:
    seen["pyarrow"] = "not implemented"
print(seen)
expected = {
    "Polars arr.sum": 0.5,
    "Polars list.sum": 0.5,
    "Polars arr.mean * K": 1.0,
    "Polars sum of a column": 1.0,
    "DuckDB": 1.0,
    "NumPy": 1.0,
    "pyarrow": "not implemented",
}
for name, value in expected.items():
    if seen[name] != value:
        sys.exit(f"CHANGED: {name} was {value}")
print("still so: half of the probability is gone in Polars")
PY
