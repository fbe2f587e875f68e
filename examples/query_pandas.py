"""Read an output with pandas (pip install pandas).

    python examples/query_pandas.py labels

`labels` is the OUT of any job, for example that of label_folder.py.
"""

import argparse

import pandas as pd


def main() -> None:
    """Describe the classes, and list what should be looked at."""
    parser = argparse.ArgumentParser(description="Query an output with pandas.")
    parser.add_argument("out", nargs="?", default="labels", help="output of a job (default: %(default)s)")
    out = parser.parse_args().out

    # A column list saves memory: `members`, `labels` and `scores` are the large ones.
    columns = ["key", "class_name", "score", "agreement", "entropy"]
    predictions = pd.read_parquet(f"{out}/predictions", columns=columns)
    print(predictions.groupby("class_name", observed=True)["score"].describe()[["count", "mean", "min"]])
    doubtful = predictions[predictions["agreement"] < 1].nsmallest(5, "score")
    print(f"\n{(predictions['agreement'] < 1).sum()} images on which the members disagree, the least certain first:")
    print(doubtful.to_string(index=False))


if __name__ == "__main__":
    main()
