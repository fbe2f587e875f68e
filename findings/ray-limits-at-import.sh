#!/usr/bin/env bash
# Ray's limits of time in RAY_* variables count as they were when Ray was imported, not when it is started.
#
# Versions: ray 2.60.0, Python 3.11.2. Date: 2026-11.
# Ray's C++ core reads its RAY_name variables once, when its library is loaded. A program that imports ray and then sets
# RAY_raylet_start_wait_time_s, to be patient on a busy machine, changes what the processes that it starts wait for, and
# not what it waits for itself: it gives up as early as before. Variables that Ray's Python part reads, such as
# RAY_gcs_server_port_wait_time_s, count at the start, so that one of two that are set together has an effect.
# Seen: worker_register_timeout_seconds in the process: 60 where the variable is set after the import, 301 before.
# Upstream: none found.
# Depends on it: pipeline/engines/on_ray.py, pipeline/engines/ray_start.py: they are set before the import.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet 'ray==2.60.0'
seen() { HOME=$work "$work/venv/bin/python" -W ignore -c "
import os
$1
from ray._raylet import Config
print(Config.worker_register_timeout_seconds())"; }
usual=$(seen 'import ray')
after=$(seen 'import ray; os.environ["RAY_worker_register_timeout_seconds"] = "301"')
before=$(seen 'os.environ["RAY_worker_register_timeout_seconds"] = "301"; import ray')
echo "not set: $usual s; set after the import: $after s; before it: $before s"
[ "$before" = 301 ] || { echo "CHANGED: the variable set before the import has no effect"; exit 1; }
[ "$after" = "$usual" ] || { echo "CHANGED: the variable is read after the import"; exit 1; }
echo "still so: the limits are those of the import"
