"""Command lines that the tests of many modules run."""

from __future__ import annotations

from pathlib import Path

AT_THE_END = """
import atexit, sys, pipeline.cli
atexit.register(lambda: print(sorted({"torch", "ray"} & {*sys.modules})))
pipeline.cli.main()
"""


def label_words(sample_data: Path, *more: str) -> list[str]:
    weights = ["--weights-dir", str(sample_data / "weights"), "--labels", str(sample_data / "classes.txt")]
    return ["-m", "shufflenet_v2_x0_5", *weights, "--engine", "inline", "--precision", "fp32", *more]
