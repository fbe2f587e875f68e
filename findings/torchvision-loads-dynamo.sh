#!/usr/bin/env bash
# Importing torchvision loads torch's compiler, and so does a network's first shape on the meta device.
#
# Versions: torchvision 0.29.2, torch 2.15.0, numpy 2.4.6, Python 3.11.2. Some 3 GB. Date: 2026-11.
# torch loads torch._dynamo and sympy only when somebody compiles; its decorators are written to wait for that. In
# torchvision, ops/roi_align imports a function of torch._dynamo.utils beside a comment that says it avoids just that,
# and tv_tensors wraps one function in torch.compiler.disable, which loads the compiler at once. It is half of the CPU
# time of the import, in every worker. Without torchvision, the meta device does the same: a parameter's normal_(), or a
# convolution's shape, runs through Python references that load sympy and, for some, torch._dynamo.
# Seen: modules of torch._dynamo after importing torch: 0; after torchvision.models: 96; sympy after
# torch.empty(2, device="meta").normal_(): loaded. CPU of the import: 1.4 s of torch, 2.6 s with torchvision.
# Upstream: none found.
# Depends on it: pipeline/vision.py, pipeline/models/weights.py, pipeline/models/cost.py.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet 'torchvision==0.29.2' 'torch==2.15.0' 'numpy==2.4.6'
seen() { HOME=$work "$work/venv/bin/python" -W ignore -c "
import sys, time
$1
compiler = [name for name in sys.modules if name.startswith('torch._dynamo.')]
print(len(compiler), 'sympy' in sys.modules, round(time.process_time(), 1))"; }
read -r modules sympy seconds < <(seen 'import torch')
echo "torch: $modules modules of its compiler, sympy: $sympy, $seconds CPU-s"
[ "$modules $sympy" = "0 False" ] || { echo "CHANGED: torch alone loads its compiler"; exit 1; }
read -r modules sympy seconds < <(seen 'import torchvision.models')
echo "torchvision.models: $modules modules of torch's compiler, sympy: $sympy, $seconds CPU-s"
[ "$modules" -gt 50 ] || { echo "CHANGED: torchvision no longer loads the compiler"; exit 1; }
read -r modules sympy seconds < <(seen 'import torch; torch.empty(2, device="meta").normal_()')
echo "normal_ on the meta device: $modules modules of the compiler, sympy: $sympy, $seconds CPU-s"
[ "$sympy" = True ] || { echo "CHANGED: normal_ on the meta device no longer loads sympy"; exit 1; }
echo "still so: the compiler is loaded for nothing"
