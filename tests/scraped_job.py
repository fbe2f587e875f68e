"""A labelling job that is scraped while it runs, as Prometheus would do it: python scraped_job.py INPUT OUT SCRAPES."""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
import time
import urllib.request
from pathlib import Path

from conftest import SAMPLE_DATA

from pipeline import label
from pipeline.engines.on_ray import RayEngine

_LAST_REPORT_S = 2.5  # Ray's processes report once a second at most


def scrape(folder: Path) -> None:
    import ray

    for number in itertools.count():
        time.sleep(0.7)
        if not ray.is_initialized():
            continue
        with contextlib.suppress(OSError, ConnectionError, RuntimeError):
            (node,) = ray.nodes()
            url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
            with urllib.request.urlopen(url, timeout=5) as answer:
                (folder / f"{number:04d}.txt").write_bytes(answer.read())


def main(given: str, out: str, folder: str) -> None:
    close = RayEngine.close

    def late(engine: RayEngine) -> None:
        time.sleep(_LAST_REPORT_S)
        close(engine)

    RayEngine.close = late
    threading.Thread(target=scrape, args=(Path(folder),), daemon=True).start()
    label(
        [str(SAMPLE_DATA), given],
        out,
        model="shufflenet_v2_x0_5",
        weights_dir=str(SAMPLE_DATA / "weights"),
        labels=str(SAMPLE_DATA / "classes.txt"),
        rows_per_part=30,
        precision="fp32",
        engine="ray",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
