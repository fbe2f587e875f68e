#!/usr/bin/env bash
# `cudnn.allow_tf32 = False` leaves TF32 on for whoever has used torch's newer switch before.
#
# Versions: torch 2.15.0, Python 3.11.2. No GPU is needed; installs some 3 GB. Date: 2026-11.
# torch has two families of switches for TF32. That reading the older one raises once they are mixed is documented.
# Setting it does not raise: after `torch.backends.fp32_precision = "tf32"` (in a library, say) the line
# `torch.backends.cudnn.allow_tf32 = False` returns, and convolutions stay at TF32. The same line for matrix products,
# `torch.backends.cuda.matmul.allow_tf32 = False`, does work. So a program that switches both off has one left on, and
# float32 convolutions have 10 bits of mantissa, as float16 has.
# Seen: after both lines cudnn.conv "tf32", cuda.matmul "ieee"; without the newer switch before, cudnn.conv "none".
# Upstream: pytorch#179445 (closed): the newer switch that did not reach cudnn.conv, and the getter that raises.
# Depends on it: pipeline/models/full_fp32.py, which wants float32 where near ties are computed again.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet 'torch==2.15.0' 'numpy==2.4.6'
cat > "$work/switch_off.py" <<'PY'
import sys

import torch

backends = torch.backends
if sys.argv[1] == "newer-before":
    backends.fp32_precision = "tf32"
backends.cudnn.allow_tf32 = False
backends.cuda.matmul.allow_tf32 = False
try:
    older = str(backends.cudnn.allow_tf32)
except RuntimeError:
    older = "RuntimeError"
print(backends.cudnn.conv.fp32_precision, backends.cuda.matmul.fp32_precision, older)
PY
check() {
    local seen
    seen=$(HOME=$work "$work/venv/bin/python" -W ignore "$work/switch_off.py" "$1")
    echo "$1: cudnn.conv, cuda.matmul, older getter: $seen"
    [ "$seen" = "$2" ] || { echo "CHANGED: expected $2" >&2; exit 1; }
}
check alone "none ieee False"
check newer-before "tf32 ieee RuntimeError"
echo "still so: convolutions stay at TF32 after it was switched off"
