#!/usr/bin/env bash
# In a JPEG 2000 of more than 8 bits in colour, Pillow shows white as black, and opaque as transparent.
#
# Versions: pillow 13.0.0, imagecodecs 2026.3.6, numpy 2.4.6, Python 3.11.2. Date: 2026-11.
# Samples are rounded when they are shifted to 8 bits. The largest ones round to 256, which is stored as 0: 65408 and
# above of 16 bits, 4088 and above of 12. Grey pictures keep their 16 bits and are right. Highlights of a photograph
# become holes, and RGBA whose alpha is 65535 throughout is wholly transparent.
# Seen: white of 10, 12 and 16 bits is 0 in RGB, 254 of 255 is as it should be; alpha 65535 is 0; grey is right.
# Upstream: not found.
# Depends on it: pipeline/stages/colours.py, which refuses such pictures where a 0 may be either.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet 'pillow==13.0.0' 'imagecodecs==2026.3.6' 'numpy==2.4.6'
HOME=$work "$work/venv/bin/python" - <<'PY'
import io
import sys

import imagecodecs
import numpy as np
from PIL import Image


def seen(samples_HWC, bits):
    """What Pillow reads, as 8 bits; the file is right, because imagecodecs reads what was written."""
    data = imagecodecs.jpeg2k_encode(samples_HWC, level=0, bitspersample=bits)
    if not np.array_equal(imagecodecs.jpeg2k_decode(data), samples_HWC):
        sys.exit("imagecodecs reads another picture: nothing can be said of Pillow")
    return np.asarray(Image.open(io.BytesIO(data)))


wrong = 0
for bits in (8, 10, 12, 16):
    most = 2**bits - 1
    dtype = np.uint8 if bits == 8 else np.uint16
    white = int(seen(np.full((8, 8, 3), most, dtype), bits)[0, 0, 0])
    light = int(seen(np.full((8, 8, 3), most - most // 255, dtype), bits)[0, 0, 0])
    print(f"{bits} bits, RGB: white is {white}, the grey below it {light}")
    if abs(light - 254) > 1 or (bits == 8 and white != 255):
        sys.exit("CHANGED: this was right")
    wrong += white == 0
alpha = int(seen(np.full((8, 8, 4), 65535 // 2 + 1, np.uint16) | np.array([0, 0, 0, 65535], np.uint16), 16)[0, 0, 3])
grey = int(seen(np.full((8, 8), 65535, np.uint16), 16)[0, 0])
print(f"16 bits: opaque is {alpha}, white in grey is {grey}")
if wrong != 3 or alpha != 0:
    sys.exit("CHANGED: white stays white")
if grey != 65535:
    sys.exit("CHANGED: grey was right")
print("still so: white and black of more than 8 bits are one")
PY
