"""A labelling job that is scraped as Prometheus would do it: python scraped_job.py OUT SCRAPES INPUT..."""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
import time
import urllib.request
from pathlib import Path

from conftest import SAMPLE_DATA
from small_jobs import options

from pipeline import label
from pipeline.engines.on_ray import RayEngine

MEMBERS = "shufflenet_v2_x0_5,mobilenet_v3_small"
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


def main(out: str, folder: str, *given: str) -> None:
    close = RayEngine.close

    def late(engine: RayEngine) -> None:
        time.sleep(_LAST_REPORT_S)
        close(engine)

    RayEngine.close = late
    threading.Thread(target=scrape, args=(Path(folder),), daemon=True).start()
    words = options(SAMPLE_DATA, model=MEMBERS, rows_per_part=30, max_bad_rate=0.5)
    label(given, out, **words | {"engine": "ray"})


if __name__ == "__main__":
    main(*sys.argv[1:])
