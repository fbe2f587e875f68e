"""Check a GPU machine, and measure it: are the rows right, and how near does a job come to what the machine can do?

    python examples/measure_gpu.py --json rates.json

One run of at most eight minutes, without network, Ray or installation. It checks first: rows against those of the
CPU, twice, and after a kill; exact fp32; recorded forward passes under load; a lack of memory; nvJPEG's pixels. Then
it measures: each member in each form, upload, decoding on all cores, whole jobs, and where their time goes. Last
come compute-sanitizer, where it is on PATH, and torch.compile, because they are slow.

Each step runs within its time, in a process that may die or hang without harm to the others. The JSON file is written
after each finding, so that a run that is cut off still tells. The last lines are two ratios: a job with all members
over what its device computes, and a job with the first member over what all cores decode. It ends with 1 if a check
is wrong or a step fails.

The photographs are made from those that ship, and the networks are random, but behave like trained ones where that
costs time. Without a GPU the same steps run on the CPU with tiny sizes, as a rehearsal.

To bring it to a machine without network: copy this checkout. Beside torch, torchvision, timm, pyarrow and rich it needs
torchcodec (the release that belongs to the torch there), webdataset with braceexpand, pydantic with pydantic-core,
annotated-types and typing-inspection, and before Python 3.14 backports.zstd: wheels of these can be carried.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # an uninstalled checkout
sys.path.insert(0, str(Path(__file__).resolve().parents[0]))

from gpu_steps.record import Record
from gpu_steps.run import Run
from gpu_steps.summary import report
from gpu_steps.table import STEPS, Step
from pipeline.config.option_types import above_zero
from pipeline.config.settings import StorageConfig
from pipeline.errors import ShardlabelError
from pipeline.inputs.find import find_inputs
from pipeline.storage import Storage

_NAMES = [step.name for step in STEPS]


def main() -> int:
    """Run the steps, print, and write; returns the exit code."""
    options = parse_options()
    if options.images:
        find_inputs((options.images,), Storage(StorageConfig()))  # so that a wrong path is said at once
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # let go of processes and folders, as after Ctrl-C
    with tempfile.TemporaryDirectory(prefix="shardlabel-") as scratch:
        setting = {
            "scratch": scratch,
            "device": options.device,
            "members": options.members,
            "weights_dir": options.weights_dir,
            "images": options.images,
            "threads": options.threads,
        }
        record = Record(options.json, {**setting, "seconds": options.seconds})
        Run(record, setting, options.seconds).run(options.steps)
    print(report(record.found))
    return 0 if record.is_good else 1


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="a file for all that is found")
    parser.add_argument("--seconds", type=above_zero(float), default=470.0, help="at most (default: %(default)s)")
    parser.add_argument("--steps", type=choose_steps, default=STEPS, help=f"some of {', '.join(_NAMES)}; default: all")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU, if any")
    parser.add_argument("--members", help="the ensemble; the first is measured alone as well (default: by device)")
    parser.add_argument("--weights-dir", help="checkpoints, as for shardlabel label; default: random networks")
    parser.add_argument("--images", help="a directory of tars for the measured jobs; default: photographs are made")
    parser.add_argument("--threads", type=above_zero(int), help="threads that decode; default: one for each core")
    return parser.parse_args()


def choose_steps(text: str) -> list[Step]:
    """Steps by their names, in their own order."""
    wanted = text.split(",")
    for name in wanted:
        if name not in _NAMES:
            raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(_NAMES)}")
    return [step for step in STEPS if step.name in wanted]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ShardlabelError as error:
        sys.exit(f"measure_gpu.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
