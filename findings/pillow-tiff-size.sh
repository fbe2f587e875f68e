#!/usr/bin/env bash
# An opened TIFF has the size of the upright picture and the orientation of the one that still lies on its side.
#
# Versions: pillow 13.0.0, Python 3.11.2. Date: 2026-11.
# Pillow turns a TIFF by itself when its pixels are loaded. Since Pillow 11 its size is the turned one as soon as it is
# opened, but getexif() goes on to say orientation 6 until load(). JPEG, PNG, WebP and AVIF have the stored size and
# keep the tag. Whoever works out the upright size from size and tag, as is right for all others, turns a TIFF twice.
# The tag is gone after load(), so that order decides what a program believes. The stored size is tag_v2[256], [257].
# Seen: stored 160x120, orientation 6: TIFF 120x160 and 6, after load() 120x160 and none; the others 160x120 and 6.
# Upstream: pillow#7383, #8390 (meant so).
# Depends on it: pipeline/stages/decode.py (_stored_size).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet 'pillow==13.0.0'
HOME=$work "$work/venv/bin/python" - <<'PY'
import io
import sys

from PIL import ExifTags, Image

ORIENTATION = ExifTags.Base.Orientation
for kind in ("TIFF", "JPEG", "PNG", "WEBP", "AVIF"):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    file = io.BytesIO()
    Image.new("RGB", (160, 120), "red").save(file, kind, exif=exif)
    image = Image.open(file)
    opened = image.size, image.getexif().get(ORIENTATION)
    image.load()
    loaded = image.size, image.getexif().get(ORIENTATION)
    print(f"{kind}: opened {opened}, loaded {loaded}")
    expected = (((120, 160), 6), ((120, 160), None)) if kind == "TIFF" else (((160, 120), 6),) * 2
    if (opened, loaded) != expected:
        sys.exit(f"CHANGED: expected {expected}")
print("still so: a TIFF's size and orientation contradict each other until it is loaded")
PY
