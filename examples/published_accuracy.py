"""Reproduce the published ImageNet top-1 of every family, or of some, and print both side by side.

On a networked machine with ImageNet's validation set as WebDataset tars (``.jpg`` and ``.cls``, classes in
torchvision's order), this labels the 50,000 images once per family and compares:

    python examples/published_accuracy.py 's3://bucket/imagenet-val-{000..049}.tar' --out accuracy

Weights are downloaded, or found in ``--weights-dir``. ``--family`` and ``-m`` choose some; a member may be a
checkpoint of your own. One job per family keeps the memory small and lets a stopped run go on where it was.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from pipeline import evaluate, label
from pipeline.commands.models import list_architectures
from pipeline.config.members import parse_members
from pipeline.models.families import families

Z_95 = 1.96


def main() -> None:
    """Label, evaluate, compare."""
    options = parse_options()
    jobs = (
        {"chosen": tuple(options.model)}
        if options.model
        else {
            family.name: family.architectures
            for family in families()
            if not options.family or family.name.casefold() in options.family
        }
    )
    if not jobs:
        raise SystemExit(f"no such family; there are {', '.join(family.name for family in families())}")
    heading = f"{'member':<24}{'images':>8}{'top-1':>8}{'+-':>6}{'published':>11}{'difference':>12}"
    print(f"{heading}{'top-5':>8}{'published':>11}")
    for name, specs in jobs.items():
        out = str(Path(options.out) / name.replace(" ", "-").lower())
        label(
            options.inputs,
            out=out,
            model=specs,
            weights_dir=options.weights_dir,
            engine=options.engine,
            precision=options.precision,
            limit=options.limit,
            progress="auto",
        )
        print_rows(out, specs)


def print_rows(out: str, specs: tuple[str, ...]) -> None:
    """Print measured and published accuracy of each member."""
    found = evaluate(out)
    for member in parse_members(specs):
        (card,) = list_architectures(member.arch)
        published = next((entry for entry in card.published if entry.weights == member.weights), card.published[0])
        measured = found.members[member.alias]
        top1, top5 = 100 * measured.top1, 100 * measured.top5
        spread = 100 * Z_95 * math.sqrt(measured.top1 * (1 - measured.top1) / max(1, found.images))
        said1, said5 = (math.nan if value is None else value for value in (published.top1, published.top5))
        row = f"{member.alias:<24}{found.images:>8,}{top1:>8.2f}{spread:>6.2f}{said1:>11.2f}{top1 - said1:>+12.2f}"
        print(f"{row}{top5:>8.2f}{said5:>11.2f}", flush=True)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="the validation set, as shardlabel label takes it")
    parser.add_argument("--out", required=True, help="directory for one job per family")
    parser.add_argument("--family", action="append", default=[], type=str.casefold, help="only this family (repeat)")
    parser.add_argument("-m", "--model", action="append", default=[], help="only these members, in one job")
    parser.add_argument("--weights-dir", help="where to look for weights first")
    parser.add_argument("--engine", choices=["auto", "ray", "inline"], default="auto")
    parser.add_argument("--precision", choices=["auto", "fp32", "mixed", "bf16", "fp16"], default="fp32")
    parser.add_argument("--limit", type=int, help="only the first images")
    return parser.parse_args()


if __name__ == "__main__":
    main()
