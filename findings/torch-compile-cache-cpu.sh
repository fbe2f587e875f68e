#!/usr/bin/env bash
# What torch.compile cached for one kind of CPU is used on another one, and half of the numbers are wrong.
#
# Versions: torch 2.15.0, Python 3.11.2; g++ and a CPU with AVX-512 are needed. Installs some 3 GB. Date: 2026-11.
# The key of the cache of compiled graphs has the device, if it is a GPU, and nothing of the CPU. What is cached is C++
# source whose loops go in steps of 16 floats; a CPU that has AVX2 alone compiles it anew, for registers of 8, and so
# computes 8 of each 16 values. Nothing is said. It takes a cache that machines share, as TORCHINDUCTOR_CACHE_DIR on a
# network file system, in a container image or a home directory. Here ATEN_CPU_CAPABILITY=avx2, which stands for the
# other machine: it makes torch and its compiler use AVX2. With `cpp.simdlen` among the options, which are part of the
# key, each kind of CPU has entries of its own. (The other way round, the code writes beyond its buffers.)
# Seen: wrong values 0 of 4096 with AVX-512, 2048 of 4096 with AVX2 afterwards; 0 and 0 with the option.
# Upstream: pytorch#185049: the number of threads was added to this key, for the like reason.
# Depends on it: pipeline/models/forward.py, whose option is this one.
set -euo pipefail
grep -qm1 avx512f /proc/cpuinfo || { echo "cannot be seen on a CPU without AVX-512"; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet 'torch==2.15.0' 'numpy==2.4.6' 'setuptools==80.9.0'
cat > "$work/compute.py" <<'PY'
import sys

import torch

options = {}
if sys.argv[1] == "own-entries":
    options["cpp.simdlen"] = {"AVX512": 512, "AVX2": 256}[torch.backends.cpu.get_cpu_capability()]
values = torch.arange(4096, dtype=torch.float32)
found = torch.compile(lambda values: torch.relu(values) * 2 + 1, options=options)(values)
print(int((found != values * 2 + 1).sum()))
PY
compute() {
    HOME=$work OMP_NUM_THREADS=1 TORCHINDUCTOR_CACHE_DIR=$work/cache-$1 ATEN_CPU_CAPABILITY=$2 \
        "$work/venv/bin/python" -W ignore "$work/compute.py" "$1" 2> "$work/stderr" || { cat "$work/stderr" >&2; exit 1; }
}
check() {
    local first second
    first=$(compute "$1" avx512)
    second=$(compute "$1" avx2)
    echo "$1: wrong values of 4096: $first with AVX-512, then $second with AVX2"
    [ "$first $second" = "$2" ] || { echo "CHANGED: expected $2" >&2; exit 1; }
}
check usual "0 2048"
check own-entries "0 0"
echo "still so: one kind of CPU uses what was compiled for another"
