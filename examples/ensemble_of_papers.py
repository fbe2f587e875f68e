"""Let networks of three papers vote: what each says, where they disagree, and what that is worth.

    python examples/ensemble_of_papers.py

uses the sample shards; on your own shards or folder:

    python examples/ensemble_of_papers.py photos/ --out papers --models res:resnet50*2,dense:densenet121,vit:vit_b_16

A member is written ALIAS:ARCH*FACTOR. The consensus is the geometric mean of the members' probabilities, each to the
power of its factor: a class that one member holds for impossible has no chance.
"""

import argparse
import json
from itertools import combinations
from pathlib import Path

import pyarrow.dataset as ds

from pipeline import evaluate, label

DATA = Path(__file__).parent / "data"
SAMPLE_MODELS = {
    "model": (
        "shuffle:shufflenet_v2_x0_5*2,"  # Ma et al. 2018, ShuffleNet V2; counts twice
        "squeeze:squeezenet1_1,"  # Iandola et al. 2016, SqueezeNet
        "mobile:mobilenet_v3_small"  # Howard et al. 2019, Searching for MobileNetV3
    ),
    "weights_dir": DATA / "weights",  # ImageNet's networks need neither weights_dir
    "labels": DATA / "classes.txt",  # nor labels
}


def main() -> None:
    """Label with an ensemble and show its members side by side."""
    parser = argparse.ArgumentParser(description="Label with networks of three papers.")
    parser.add_argument("input", nargs="?", default=str(DATA), help="shards or a folder; default: the sample shards")
    parser.add_argument("--out", default="papers", help="default: %(default)s")
    parser.add_argument("--models", help="ALIAS:ARCH*FACTOR,...; default: the sample networks")
    args = parser.parse_args()

    words = {"model": args.models} if args.models else SAMPLE_MODELS
    label(args.input, out=args.out, combine="geometric", engine="inline", **words)

    names = json.loads((Path(args.out) / "job.json").read_text())["class_names"]
    rows = ds.dataset(f"{args.out}/predictions").to_table().sort_by([("disagreement", "descending")]).to_pylist()
    first = {alias: [row["members"][alias]["labels"][0] for row in rows] for alias in rows[0]["members"]}
    for one, other in combinations(first, 2):
        same = sum(map(int.__eq__, first[one], first[other]))
        print(f"{one} and {other} say the same of {same / len(rows):.0%} of {len(rows)} images")

    print("\nWhere they disagree most:")
    for row in rows[:5]:
        print(f"  {row['key']}: {row['class_name']} {row['score']:.2f}")
        for alias, said in row["members"].items():
            print(f"    {alias:<10} {names[said['labels'][0]]} {said['scores'][0]:.2f}")

    if any(row["truth"] is not None for row in rows):  # from the samples' .cls
        found = evaluate(args.out)
        print(f"\nRight of {found.images} images whose truth is known:")
        for alias, accuracy in {**found.members, "consensus": found.consensus}.items():
            print(f"  {alias:<10} {accuracy.top1:.1%}")


if __name__ == "__main__":
    main()
