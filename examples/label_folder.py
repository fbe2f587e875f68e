"""Label a folder of images.

    python examples/label_folder.py

labels sample photographs with three small networks that ship with shardlabel; your own, with ImageNet's classes:

    python examples/label_folder.py photos/ --out labels --models resnet50,densenet121

The same line again labels only what is new or has changed.
"""

import argparse
import tarfile
from pathlib import Path

import pyarrow.dataset as ds

from pipeline import label

DATA = Path(__file__).parent / "data"
SAMPLE_MODELS = {
    "model": "shufflenet_v2_x0_5,squeezenet1_1,mobilenet_v3_small",
    "weights_dir": DATA / "weights",  # ImageNet's networks need neither weights_dir
    "labels": DATA / "classes.txt",  # nor labels
}


def main() -> None:
    """Label a folder and show what came out."""
    parser = argparse.ArgumentParser(description="Label a folder of images.")
    parser.add_argument("folder", nargs="?", help="default: photos/, unpacked from a sample shard")
    parser.add_argument("--out", default="labels", help="default: %(default)s")
    parser.add_argument("--models", help="for example resnet50,densenet121; default: the sample networks")
    args = parser.parse_args()

    if args.folder is None:
        with tarfile.open(DATA / "shard-000.tar") as shard:
            shard.extractall("photos", filter="data")
    words = {"model": args.models} if args.models else SAMPLE_MODELS

    # inline: in this process. Leave it out, and Ray uses several GPUs, or the cluster of ray_address=.
    summary = label(args.folder or "photos", out=args.out, engine="inline", **words)

    print(f"{summary.images} images in this run, {summary.labelled} labelled")
    for reason, count in summary.quarantined_by_reason.items():
        print(f"  not labelled: {count} {reason}, see {args.out}/quarantine/*.parquet")
    rows = ds.dataset(f"{args.out}/predictions").to_table(columns=["key", "class_name", "score", "agreement"])
    print("The least certain ones:")
    for row in rows.sort_by("score").slice(0, 5).to_pylist():
        print(f"  {row['key']:<28} {row['class_name']:<20} score {row['score']:.2f} agreement {row['agreement']:.2f}")


if __name__ == "__main__":
    main()
