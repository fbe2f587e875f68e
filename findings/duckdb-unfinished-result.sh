#!/usr/bin/env bash
# In DuckDB 2 the count that fetchone() returned keeps register() and unregister() from working.
#
# Versions: duckdb 2.0.0, pyarrow 26.0.1, Python 3.11.2. Date: 2026-11.
# execute("SELECT count(*) ...").fetchone() is how one number is read everywhere. The result counts as unfinished until
# a fetch has returned nothing, though it has one row: register() and unregister() raise ResourceInUseException. Another
# execute() is fine, and so is register() after fetchall(), or after a second fetchone(), which returns None. 1.4.4 did
# not mind.
# Seen: register after fetchone: ResourceInUseException; after fetchall: fine.
# Upstream: not found.
# Depends on it: pipeline/page/query.py, which registers a part after the other and fetches every result to its end.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/look.py" <<'PY'
import duckdb
import pyarrow as pa

rows = pa.table({"a": [1, 2, 3]})


def register_after(fetch):
    connection = duckdb.connect()
    connection.register("rows", rows)
    fetch(connection.execute("SELECT count(*) FROM rows"))
    try:
        connection.register("rows", rows)
    except duckdb.Error as error:
        return type(error).__name__
    return "fine"


print(register_after(lambda found: found.fetchone()), register_after(lambda found: found.fetchall()), sep=", ")
PY
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet 'duckdb==2.0.0' 'pyarrow==26.0.1'
seen=$("$work/venv/bin/python" "$work/look.py")
echo "register after fetchone, after fetchall: $seen"
if [ "$seen" != 'ResourceInUseException, fine' ]; then
    echo 'CHANGED: expected ResourceInUseException, fine'
    exit 1
fi
echo "still so: one row that was fetched is no finished result"
