#!/usr/bin/env bash
# Pillow shows noise instead of an uncompressed 16-bit RGB TIFF in planes, and says nothing.
#
# Versions: pillow 13.0.0, tifffile 2026.3.3, numpy 2.4.6, Python 3.11.2. Date: 2026-11.
# PlanarConfiguration 2 stores all of red, then green, then blue. Without compression Pillow reads each plane as 8 bits
# a pixel whatever BitsPerSample says: low and high bytes become neighbours, and half of each plane is left out. 8 bits
# in planes, 16 bits interleaved, and the same picture with Deflate (which libtiff decodes) are right. Mode and size are
# as they should be, so that only somebody who looks at the picture can tell.
# Seen: largest difference to the picture 0, 0, 0, and more than 200 grey levels for 16-bit planes without compression.
# Upstream: not found. pillow#4641 and #5178 brought compressed planes.
# Depends on it: pipeline/stages/tiff.py, which has libtiff read them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet 'pillow==13.0.0' 'tifffile==2026.3.3' 'numpy==2.4.6'
HOME=$work "$work/venv/bin/python" - "$work" <<'PY'
import sys

import numpy as np
import tifffile
from PIL import Image

path = f"{sys.argv[1]}/picture.tif"
y, x = np.mgrid[0:120, 0:160]
picture_HWC = np.stack([x * 400, y * 500, (x + y) * 230], -1).astype(np.uint16)


def difference(bits, planar, compression):
    """Largest difference between what Pillow reads and the picture, in levels of 8 bits."""
    stored_HWC = picture_HWC if bits == 16 else (picture_HWC >> 8).astype(np.uint8)
    stored = np.moveaxis(stored_HWC, -1, 0) if planar == "separate" else stored_HWC
    tifffile.imwrite(path, stored, photometric="rgb", planarconfig=planar, compression=compression)
    if not np.array_equal(tifffile.imread(path), stored):
        sys.exit("tifffile itself reads another picture: nothing can be said of Pillow")
    with Image.open(path) as image:
        if (image.mode, image.size) != ("RGB", (160, 120)):
            sys.exit(f"CHANGED: {image.mode} {image.size}")
        seen_HWC = np.asarray(image).astype(int)
    return int(np.abs(seen_HWC - (picture_HWC >> 8)).max())


for bits, planar, compression in ((8, "separate", None), (16, "contig", None), (16, "separate", "zlib")):
    off = difference(bits, planar, compression)
    print(f"{bits} bits, {planar}, compression {compression}: {off} levels off at most")
    if off > 1:
        sys.exit("CHANGED: this was right")
off = difference(16, "separate", None)
print(f"16 bits, separate, compression None: {off} levels off at most")
if off < 100:
    sys.exit("CHANGED: 16-bit planes are read now")
print("still so: a wrong picture without an error")
PY
