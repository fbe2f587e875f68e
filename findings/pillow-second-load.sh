#!/usr/bin/env bash
# A damaged image that Pillow has just refused is accepted by the same object when asked again.
#
# Versions: pillow 13.0.0, numpy 2.4.6, Python 3.11.2. Date: 2026-11.
# Since Pillow 6.2 a PNG that was cut off raises at each load(), so that the matter is believed to be settled. It holds
# where bytes run out. Where a decoder reports an error ("broken data stream": damage inside a PNG, and any JPEG 2000,
# cut ones included) the first load() raises and the second returns; convert() and np.asarray() give what had been
# decoded over black. A retry, or a check by load() whose error is only logged, lets it through.
# Seen: PNG cut: OSError twice. PNG damaged: OSError, then a picture, half black. JPEG 2000 cut: the same, all black.
# Upstream: pillow#3965 made cut files raise twice; the rest was not found.
# Depends on it: pipeline/stages/decode.py, which opens an image anew from its bytes and never asks twice.
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

y, x = np.mgrid[0:120, 0:160]
picture_HWC = np.stack([x + 1, y + 1, x // 2 + y // 2 + 1], -1).astype(np.uint8)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def damaged_png():
    """A PNG of which half the rows are sound; there is no deflate block of the type that follows."""
    deflate = zlib.compressobj()
    rows = b"".join(b"\0" + row.tobytes() for row in picture_HWC[:60])
    stream = deflate.compress(rows) + deflate.flush(zlib.Z_FULL_FLUSH) + b"\xff" * 40
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 160, 120, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", stream) + chunk(b"IEND", b"")


def half(kind):
    file = io.BytesIO()
    Image.fromarray(picture_HWC).save(file, kind)
    return file.getvalue()[: file.tell() // 2]


def loads(data):
    """What load() does the first and the second time, and how much of the picture is black then."""
    image, outcomes = Image.open(io.BytesIO(data)), []
    for _ in range(2):
        try:
            image.load()
            outcomes.append("loads")
        except OSError:
            outcomes.append("OSError")
    if outcomes[1] != "loads":
        return outcomes, None
    return outcomes, round(float((np.asarray(image.convert("RGB")) == 0).all(axis=-1).mean()), 1)


once = ["OSError", "loads"]
for name, data, expected in (
    ("PNG, cut", half("PNG"), (["OSError", "OSError"], None)),
    ("PNG, damaged", damaged_png(), (once, 0.5)),
    ("JPEG 2000, cut", half("JPEG2000"), (once, 1.0)),
):
    seen = loads(data)
    print(f"{name}: {seen[0]}, black: {seen[1]}")
    if seen != expected:
        sys.exit(f"CHANGED: expected {expected}")
print("still so: the second load() of a damaged image returns")
PY
