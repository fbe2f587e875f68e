#!/usr/bin/env bash
# A gauge of ray.util.metrics that is not set again is gone from /metrics after 20 seconds; a counter stays.
#
# Versions: ray 2.60.0, Python 3.11.2. Date: 2026-11.
# In Prometheus' own client a gauge keeps its value until somebody changes it. Ray's agent exports gauges by
# observation: each holds for the next collections only. So a queue's depth that is set when it changes vanishes from
# dashboards just when nothing moves, and an alert on it resolves itself, while the process lives.
# Seen: gauge and counter are set once; both are there after 10 s, the gauge is gone at 30 s, the counter is not.
# Upstream: not found.
# Depends on it: pipeline/engines/ray_meter.py, which sets all gauges once a second; pipeline/ARCHITECTURE.md.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet 'ray[default]==2.60.0'
export RAY_USAGE_STATS_ENABLED=0 RAY_BACKEND_LOG_LEVEL=fatal
HOME=$work timeout 300 "$work/venv/bin/python" - "$work" <<'PY'
import sys
import time
import urllib.request

import ray
from ray.util.metrics import Counter, Gauge

ray.init(
    address="local",
    num_cpus=1,
    include_dashboard=False,
    log_to_driver=False,
    _node_ip_address="127.0.0.1",
    _temp_dir=f"{sys.argv[1]}/ray",
)
gauge = Gauge("queue_depth", description="Set once")
counter = Counter("images", description="Counted once")
gauge.set(7)
counter.inc(3)
began = time.monotonic()


def served():
    """Whether the gauge and the counter are there."""
    (node,) = ray.nodes()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:  # the agent is not up yet
        return False, False
    return tuple(any(line.startswith(name) for line in lines) for name in ("ray_queue_depth", "ray_images"))


changes = []
while time.monotonic() - began < 90:
    seen = served()
    if not changes or changes[-1] != seen:
        changes.append(seen)
        print(f"{time.monotonic() - began:4.0f} s: gauge {seen[0]}, counter {seen[1]}", flush=True)
    if changes[-2:] == [(True, True), (False, True)]:
        break
    time.sleep(0.5)
ray.shutdown()
if (True, True) not in changes:
    sys.exit("no metrics were served: nothing can be said")
if changes[-1] != (False, True):
    sys.exit("CHANGED: the gauge is still there after 90 s")
print("still so: the gauge is forgotten, the counter is not")
PY
