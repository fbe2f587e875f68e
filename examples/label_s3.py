"""Label WebDataset shards on S3, with Ray on this machine or on a cluster, and prove that no sample is missing.

    python examples/label_s3.py 's3://bucket/train-{000..127}.tar' --out s3://bucket/labels

A store of your own (MinIO, Ceph, ...) is named with `--s3-endpoint http://HOST:PORT`. Credentials come from AWS's
usual variables, files or roles, never from the URI.
"""

import argparse

from pipeline import label, verify


def main() -> None:
    """Label shards on S3 and verify the output."""
    parser = argparse.ArgumentParser(description="Label WebDataset shards on S3.")
    parser.add_argument("shards", nargs="+", help="s3:// URIs, globs, brace ranges or prefixes")
    parser.add_argument("--out", required=True, help="an s3:// prefix")
    parser.add_argument("--models", default="resnet50,densenet121,efficientnet_b0", help="default: %(default)s")
    parser.add_argument(
        "--weights-dir", help="a directory or s3:// prefix; default: torchvision's cache, or a download"
    )
    parser.add_argument("--labels", help="class names, one a line; default: ImageNet's")
    parser.add_argument("--s3-endpoint", help="URL of a store of your own")
    parser.add_argument("--engine", default="auto", choices=("auto", "ray", "inline"), help="inline: in this process")
    args = parser.parse_args()

    summary = label(
        args.shards,
        out=args.out,
        model=args.models,
        weights_dir=args.weights_dir,
        labels=args.labels,
        s3_endpoint=args.s3_endpoint,
        engine=args.engine,
    )
    print(f"{summary.units_done} of {summary.units_total} shards, {summary.images} images in this run")
    for failure in summary.failures:
        print(f"  not read: {failure.uri}: {failure.reason}; the same line again tries once more")

    found = verify(args.out, s3_endpoint=args.s3_endpoint)
    print(f"{found.samples} samples in the shards = {found.predictions} labelled + {found.quarantined} quarantined")
    for line in found.discrepancies:
        print(f"  {line}")
    raise SystemExit(summary.exit_code or found.exit_code)


if __name__ == "__main__":
    main()
