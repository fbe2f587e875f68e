"""Read an output with Polars (pip install polars).

    python examples/query_polars.py labels

`labels` is the OUT of any job, for example that of label_folder.py.
"""

import argparse

import polars as pl


def main() -> None:
    """Count classes, and say where each member stands alone."""
    parser = argparse.ArgumentParser(description="Query an output with Polars.")
    parser.add_argument("out", nargs="?", default="labels", help="output of a job (default: %(default)s)")
    predictions = pl.scan_parquet(f"{parser.parse_args().out}/predictions/*.parquet")  # lazy: reads what is asked for

    by_class = predictions.group_by("class_name").agg(pl.len().alias("images"), pl.col("score").mean())
    print(by_class.sort("images", "class_name", descending=[True, False]).collect())

    members = predictions.select("label", pl.col("members").struct.unnest())
    first = members.select(pl.exclude("label").struct.field("labels").list.first().name.keep() == pl.col("label"))
    print("Share of images where a member says what the consensus says:")
    print(first.mean().collect())


if __name__ == "__main__":
    main()
