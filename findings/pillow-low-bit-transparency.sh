#!/usr/bin/env bash
# The transparent grey of a PNG of 2 or 4 bits is another grey in Pillow.
#
# Versions: pillow 13.0.0, numpy 2.4.6, Python 3.11.2. Date: 2026-11.
# tRNS names one grey of a PNG without alpha as transparent, in the depth of the file. Pillow multiplies the pixels of 2
# and 4 bits by 85 and 17, to have 8, but not that grey: 1 of 4 bits is sought as 1 where pixels are 17. 0 alone is right.
# Seen: for 1 and 8 bits each grey that is named is transparent; for 2 and 4 bits only 0.
# Upstream: not found.
# Depends on it: pipeline/stages/colours.py, which scales that grey.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet 'pillow==13.0.0' 'numpy==2.4.6'
HOME=$work "$work/venv/bin/python" - <<'PY'
import io
import struct
import sys
import zlib

import numpy as np
from PIL import Image


def png(depth, clear):
    """A row of all greys of a depth, one of them transparent."""
    greys = range(2**depth)
    bits = "".join(f"{grey:0{depth}b}" for grey in greys).ljust(8, "0")
    row = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", len(greys), 1, depth, 0, 0, 0, 0)),
        (b"tRNS", struct.pack(">H", clear)),
        (b"IDAT", zlib.compress(b"\0" + row)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


right = {}
for depth in (1, 2, 4, 8):
    right[depth] = []
    for clear in range(2**depth):
        alpha = np.asarray(Image.open(io.BytesIO(png(depth, clear))).convert("RGBA"))[0, :, 3]
        if alpha.tolist() == [0 if grey == clear else 255 for grey in range(2**depth)]:
            right[depth].append(clear)
    print(f"{depth} bits: {len(right[depth])} of {2**depth} greys can be transparent")
if (len(right[1]), right[2], right[4], len(right[8])) != (2, [0], [0], 256):
    sys.exit(f"CHANGED: {right[2]} of 2 bits, {right[4]} of 4")
print("still so: another grey is sought than the one that is named")
PY
