#!/usr/bin/env bash
# In DuckDB 2 the count that fetchone() returned keeps register() and unregister() from working.
#
# Versions: duckdb 2.0.0, before that 1.4.4, pyarrow 26.0.1, Python 3.11.2. Date: 2026-11.
# execute("SELECT count(*) ...").fetchone() is how one number is read everywhere. The result counts as unfinished until
# a fetch has returned nothing, though it has one row: register() and unregister() raise ResourceInUseException. Another
# execute() is fine, and so is register() after fetchall(), or after a second fetchone(), which returns None. 1.4 does
# not mind.
# Seen: 2.0.0: register after fetchone: ResourceInUseException; after fetchall: fine. 1.4.4: fine, fine.
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
python3 -m venv "$work/2.0.0"
"$work/2.0.0/bin/python" -m pip install --quiet 'duckdb==2.0.0' 'pyarrow==26.0.1'
python3 -m venv "$work/1.4.4"
"$work/1.4.4/bin/python" -m pip install --quiet 'duckdb==1.4.4' 'pyarrow==26.0.1'
for version in 2.0.0 1.4.4; do
    seen=$("$work/$version/bin/python" "$work/look.py")
    echo "duckdb $version: register after fetchone, after fetchall: $seen"
    expected='fine, fine'
    [ "$version" = 1.4.4 ] || expected='ResourceInUseException, fine'
    if [ "$seen" != "$expected" ]; then
        echo "CHANGED: expected $expected"
        exit 1
    fi
done
echo "still so: one row that was fetched is no finished result"
