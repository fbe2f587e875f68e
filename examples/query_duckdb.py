"""Ask an output questions in SQL, with DuckDB (pip install duckdb).

    python examples/query_duckdb.py labels

`labels` is the OUT of any job, for example that of label_folder.py.
"""

import argparse

import duckdb


def main() -> None:
    """Count classes, list doubtful images, and count what could not be labelled."""
    parser = argparse.ArgumentParser(description="Query an output with DuckDB.")
    parser.add_argument("out", nargs="?", default="labels", help="output of a job (default: %(default)s)")
    out = parser.parse_args().out

    predictions = duckdb.read_parquet(f"{out}/predictions/*.parquet")
    print(f"{len(predictions)} images labelled")
    duckdb.sql("""
        SELECT class_name, count(*) AS images, round(avg(score), 3) AS score, round(avg(agreement), 3) AS agreement
        FROM predictions GROUP BY class_name ORDER BY images DESC, class_name
    """).show()
    print("The members disagree most about these:")
    duckdb.sql("""
        SELECT key, class_name, round(score, 3) AS score, agreement, round(disagreement, 3) AS disagreement
        FROM predictions ORDER BY disagreement DESC LIMIT 5
    """).show()
    print("Share of images where a member says what the consensus says:")
    duckdb.sql("""
        SELECT round(avg((struct_extract(COLUMNS(* EXCLUDE label), 'labels')[1] = label)::INT), 3)
        FROM (SELECT label, unnest(members) FROM predictions)
    """).show()
    print("The same image twice, whatever it is called:")
    duckdb.sql("SELECT sha256, list(key) AS keys FROM predictions GROUP BY sha256 HAVING count(*) > 1").show()
    if duckdb.sql(f"SELECT * FROM glob('{out}/quarantine/*.parquet')").fetchall():  # there is none if all went well
        quarantine = duckdb.read_parquet(f"{out}/quarantine/*.parquet")
        print(f"{len(quarantine)} could not be labelled")
        duckdb.sql("SELECT stage, reason, key, message FROM quarantine ORDER BY reason, key LIMIT 10").show()


if __name__ == "__main__":
    main()
