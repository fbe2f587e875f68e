#!/usr/bin/env bash
# The two ways to read a Parquet file with pyarrow mean different things by one columns= list.
#
# Versions: pyarrow 26.0.1, pandas 3.1.1, Python 3.11.2. Date: 2026-11.
# For read_table (and pandas) a dot always goes down into a struct, and the leaf comes out as a column of its own, named
# by its last part: two networks' energies are two columns called "energy", and to_pandas gives both the same name. A
# field whose own name holds a dot, as timm's names do, cannot be asked for at all; no quoting is known.
# ParquetFile.read looks for the whole path: it keeps the struct, finds the field with a dot, and what it does not find
# it leaves out without an error.
# Seen: see the output. ArrowInvalid: No match for FieldRef.Nested(... Name(resnet18) ... Name(a1_in1k) ...).
# Upstream: arrow#46329 describes the dots; that the two differ, or names with dots, was not found.
# Depends on it: pipeline/records.py (members.ALIAS.energy, and ALIAS may be resnet18.a1_in1k) and README.md.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet 'pyarrow==26.0.1' 'pandas==3.1.1'
HOME=$work "$work/venv/bin/python" - "$work" <<'PY'
import sys

import pandas
import pyarrow as pa
import pyarrow.parquet as pq

path = f"{sys.argv[1]}/predictions.parquet"
row = {"vgg11": {"energy": 1.0}, "vgg13": {"energy": 2.0}, "resnet18.a1_in1k": {"energy": 3.0}}
pq.write_table(pa.table({"members": [row]}), path)

two = ["members.vgg11.energy", "members.vgg13.energy"]
flat = pq.read_table(path, columns=two).column_names
nested = pq.ParquetFile(path).read(columns=two).to_pylist()
names = list(pandas.read_parquet(path, columns=two).columns)
print("two fields: read_table", flat, "| pandas", names, "| ParquetFile", nested)
if flat != ["energy", "energy"] or names != flat:
    sys.exit("CHANGED: read_table and pandas name leaves in another way")
if nested != [{"members": {"vgg11": {"energy": 1.0}, "vgg13": {"energy": 2.0}}}]:
    sys.exit("CHANGED: ParquetFile.read")

dotted = ["members.resnet18.a1_in1k.energy"]
found = pq.ParquetFile(path).read(columns=dotted).to_pylist()
print("name with a dot: ParquetFile", found)
if found != [{"members": {"resnet18.a1_in1k": {"energy": 3.0}}}]:
    sys.exit("CHANGED: ParquetFile.read and names with a dot")
try:
    pq.read_table(path, columns=dotted)
except pa.ArrowInvalid as error:
    print("name with a dot: read_table", str(error)[:60], "...")
else:
    sys.exit("CHANGED: read_table finds names with a dot")

unknown = pq.ParquetFile(path).read(columns=["members.vgg99.energy"])
print("unknown name: ParquetFile", unknown.column_names)
if unknown.column_names:
    sys.exit("CHANGED: ParquetFile.read and unknown names")
print("still so: one list, two meanings")
PY
