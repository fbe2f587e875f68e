#!/usr/bin/env bash
# `cudnn.allow_tf32 = False` leaves TF32 on for whoever has used torch's newer switch before.
#
# Versions: torch 2.15.0, Python 3.11.2; no GPU needed. Installs some 3 GB. Date: 2026-11.
# torch has two families of switches for TF32. That they must not be mixed is documented, and reading the older one
# after mixing raises. But setting it does not: after `torch.backends.fp32_precision = "tf32"` (a script, a library) the
# line `torch.backends.cudnn.allow_tf32 = False` returns without a word, and convolutions stay at TF32. Alone, it works.
# Then results that are believed to be float32 have 10 bits of mantissa, as float16 has.
# Seen: alone cudnn.conv.fp32_precision becomes "none" or "ieee"; after the newer switch it stays "tf32"; the older
# getters raise RuntimeError.
# Upstream: pytorch#179445 (closed) is about the newer switch that does not reach cudnn.conv, and the getter that raises.
# Depends on it: pipeline/models/ensemble.py, which wants float32 where near ties are computed again.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet 'torch==2.15.0' 'numpy==2.4.6'
HOME=$work "$work/venv/bin/python" - first <<'PY'
PY
