#!/usr/bin/env bash
# Pillow shows noise instead of a big-endian grey TIFF of floats or signed numbers, if it is compressed.
#
# Versions: pillow 13.0.0, tifffile 2026.3.3, imagecodecs 2026.3.6, numpy 2.4.6, Python 3.11.2. Date: 2026-11.
# libtiff, which decodes what is compressed, returns numbers in the order of the machine. Pillow knows that for unsigned
# numbers of 16 bits alone, and turns the bytes of floats and of signed numbers of 16 and 32 bits around once more.
# Elevation models and scientific pictures are of these kinds, and big-endian files come from ImageJ.
# Seen: for float32, int16 and int32 little-endian and uncompressed are right, big-endian with Deflate or LZW is not.
# Upstream: not found.
# Depends on it: pipeline/stages/tiff.py, which tells Pillow the right order.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet 'pillow==13.0.0' 'tifffile==2026.3.3' 'imagecodecs==2026.3.6' 'numpy==2.4.6'
HOME=$work "$work/venv/bin/python" - "$work" <<'PY'
import sys

import numpy as np
import tifffile
from PIL import Image

path = f"{sys.argv[1]}/picture.tif"
y, x = np.mgrid[0:60, 0:80]
wrong = []
for dtype in (np.float32, np.int16, np.int32, np.uint16):
    picture = (x * 300 + y - 12_000 * (dtype != np.uint16)).astype(dtype)
    for order, name in (("<", "little-endian"), (">", "big-endian")):
        for compression in (None, "zlib", "lzw"):
            tifffile.imwrite(path, picture, byteorder=order, compression=compression, photometric="minisblack")
            if not np.array_equal(tifffile.imread(path), picture):
                sys.exit("tifffile itself reads another picture: nothing can be said of Pillow")
            with Image.open(path) as image:
                same = np.array_equal(np.asarray(image).astype(np.int64), picture.astype(np.int64))
            print(f"{np.dtype(dtype)}, {name}, compression {compression}: {'right' if same else 'another picture'}")
            if not same:
                wrong.append((np.dtype(dtype).name, order, compression))
wanted = [(name, ">", how) for name in ("float32", "int16", "int32") for how in ("zlib", "lzw")]
if wrong != wanted:
    sys.exit(f"CHANGED: wrong are {wrong}")
print("still so: a wrong picture without an error")
PY
