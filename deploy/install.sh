#!/usr/bin/env bash
# Installs shardlabel from this checkout, every package as pinned and hashed, with what machines of a Ray cluster need
# besides. Python 3.11 or later, with its venv module.  Usage: deploy/install.sh VENV
set -euo pipefail
venv=${1:?usage: deploy/install.sh VENV}
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
test -x "$venv/bin/python" || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet "uv==0.13.9"
uv=("$venv/bin/uv" --quiet pip)
"${uv[@]}" sync --python "$venv/bin/python" --require-hashes "$checkout/deploy/requirements.lock"
"${uv[@]}" install --python "$venv/bin/python" --no-deps --reinstall --build-constraints "$checkout/requirements.lock" \
    "$checkout"
"$venv/bin/shardlabel" --version
"$venv/bin/python" -c 'import ctypes.util, sys; sys.exit(ctypes.util.find_library("heif") is None)' || echo \
    "HEIC images need libheif on every machine: apt install libheif1 libheif-plugin-libde265; others do not" >&2
