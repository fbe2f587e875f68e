"""Open an output, and a dataset made of it, with Hugging Face `datasets` (pip install datasets).

    python examples/load_datasets.py labels

`labels` is the OUT of any job whose images are still where they were, for example that of label_folder.py. Nothing is
sent or downloaded.
"""

import argparse

from datasets import load_dataset

from pipeline import export


def main() -> None:
    """Open the predictions as a table, then the confident images as an image dataset."""
    parser = argparse.ArgumentParser(description="Open an output with Hugging Face datasets.")
    parser.add_argument("out", nargs="?", default="labels", help="output of a job (default: %(default)s)")
    parser.add_argument("--to", default="dataset", help="where the image dataset goes (default: %(default)s)")
    args = parser.parse_args()

    predictions = load_dataset("parquet", data_files=f"{args.out}/predictions/*.parquet", split="train")
    print(f"{predictions.num_rows} predictions with the columns {', '.join(predictions.column_names)}")

    chosen = export(args.out, to=args.to, format="parquet", min_agreement=0.6, engine="inline")
    images = load_dataset(args.to, split="train")
    names = images.features["label"].names
    print(f"{chosen.exported} of {chosen.labelled} images are in {args.to}, of {len(names)} classes")
    for row in images.select(range(min(3, len(images)))):
        width, height = row["image"].size  # decoded by Pillow, when it is asked for
        print(f"  {row['key']}: {names[row['label']]} {row['score']:.2f}, {width} x {height}")


if __name__ == "__main__":
    main()
