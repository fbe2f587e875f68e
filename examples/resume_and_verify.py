"""Kill a job in the middle, go on with the same words, and prove that nothing is lost or doubled.

    python examples/resume_and_verify.py

does it to the sample shards; to your own:

    python examples/resume_and_verify.py photos/ --out resumed --models resnet50
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from pipeline import label, status, verify

DATA = Path(__file__).parent / "data"
SAMPLE_MODELS = {
    "model": "shufflenet_v2_x0_5",
    "weights_dir": str(DATA / "weights"),  # ImageNet's networks need neither weights_dir
    "labels": str(DATA / "classes.txt"),  # nor labels
}


def main() -> None:
    """Start a job, kill it, go on, verify."""
    parser = argparse.ArgumentParser(description="Kill a job, go on, and verify what came of it.")
    parser.add_argument("input", nargs="?", default=str(DATA), help="shards or a folder; default: the sample shards")
    parser.add_argument("--out", default="resumed", help="default: %(default)s")
    parser.add_argument("--models", help="for example resnet50,densenet121; default: a sample network")
    args = parser.parse_args()

    words = {"model": args.models} if args.models else SAMPLE_MODELS
    words |= {"engine": "inline", "rows_per_part": "20"}  # small parts, so that there is a middle

    # The command takes the same words, with dashes.
    command = [sys.executable, "-m", "pipeline", "label", args.input, "--out", args.out, "--progress", "none"]
    for word, value in words.items():
        command += [f"--{word.replace('_', '-')}", value]
    job = subprocess.Popen(command)
    while job.poll() is None and len(list(Path(args.out).glob("predictions/*.parquet"))) < 2:
        time.sleep(0.02)
    job.kill()  # SIGKILL: it has no time to tidy up
    job.wait()
    there = status(args.out)
    print(f"Killed when {there.images} images were done; finished: {there.finished}")

    summary = label(args.input, out=args.out, **words)
    print(f"The same words again did the other {summary.images}; finished: {status(args.out).finished}")

    found = verify(args.out, deep=True)  # deep: hash every image again
    print(f"{found.samples} samples = {found.predictions} labelled + {found.quarantined} quarantined")
    print("\n".join(found.discrepancies) or "Nothing is missing, doubled, foreign or altered.")
    raise SystemExit(found.exit_code)


if __name__ == "__main__":
    main()
