#!/usr/bin/env bash
# One Parquet file without rows makes datasets refuse all the others, depending on who wrote it.
#
# Versions: datasets 5.2.0, pyarrow 26.0.1, pandas 3.1.1, polars 2.1.0, duckdb 2.0.0, Python 3.11.2. Date: 2026-11.
# A table of no rows is written by pyarrow and pandas as one row group of 0 rows, by Polars and DuckDB as no row group.
# datasets takes the length of the first row group for its batch size, so the former fails with "BatchSize must be
# greater than 0, got 0" and takes full files beside it along, while the latter is passed over. The same file with rows
# in a later row group fails, too. DuckDB, Polars and pandas read all of them.
# Seen: full + empty from pyarrow or pandas: DatasetGenerationError. Full + empty from Polars or DuckDB: 2 rows.
# Upstream: datasets#6701 brought the batch size; that it may be 0 was not found. ClickHouse#107746 is the like.
# Depends on it: pipeline/stages/write.py, whose parts may be of no rows; README.md and examples/load_datasets.py.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet \
    'datasets==5.2.0' 'pyarrow==26.0.1' 'pandas==3.1.1' 'polars==2.1.0' 'duckdb==2.0.0'
HOME=$work HF_HUB_OFFLINE=1 "$work/venv/bin/python" - "$work" <<'PY'
import sys
import tempfile

import datasets
import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq

work = sys.argv[1]
datasets.disable_progress_bars()
datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)


def rows(*names):
    """What datasets makes of the files: a number of rows, or the cause of its error."""
    files = [f"{work}/{name}.parquet" for name in names]
    cache = tempfile.mkdtemp(dir=work)
    try:
        return len(datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache))
    except datasets.exceptions.DatasetGenerationError as error:
        return str(error.__cause__)


full = pa.table({"key": ["a", "b"]})
pq.write_table(full, f"{work}/full.parquet")
pq.write_table(full.schema.empty_table(), f"{work}/pyarrow.parquet")
full.to_pandas().iloc[:0].to_parquet(f"{work}/pandas.parquet")
polars.from_arrow(full).clear().write_parquet(f"{work}/polars.parquet")
duckdb.sql(f"copy (from '{work}/full.parquet' where false) to '{work}/duckdb.parquet'")
with pq.ParquetWriter(f"{work}/later.parquet", full.schema) as writer:
    writer.write_table(full.schema.empty_table())
    writer.write_table(full)

refused = "BatchSize must be greater than 0, got 0"
expected = {"pyarrow": (1, refused), "pandas": (1, refused), "polars": (0, 2), "duckdb": (0, 2)}
for name, (groups, outcome) in expected.items():
    seen = pq.read_metadata(f"{work}/{name}.parquet").num_row_groups, rows("full", name)
    print(f"full + empty from {name}: {seen[0]} row groups, datasets: {seen[1]}")
    if seen != (groups, outcome):
        sys.exit(f"CHANGED: expected {groups} row groups and {outcome}")
later = rows("later")
others = len(pq.read_table(f"{work}/later.parquet")), polars.read_parquet(f"{work}/later.parquet").height
print(f"rows in a later group: datasets: {later}; pyarrow and Polars: {others}")
if later != refused or others != (2, 2):
    sys.exit("CHANGED: a file whose first row group is empty")
print("still so: a row group of 0 rows ends the load")
PY
