#!/usr/bin/env bash
# TorchCodec decodes a HEIC's pictures by number, whichever of them is the primary one, and refuses pictures of two sizes.
#
# Versions: torchcodec 0.17.0, torch 2.15.0, pillow-heif 1.8.1, libheif 1.15.1, Python 3.11.2. Date: 2026-11.
# A HEIC names one of its pictures as the primary one, which viewers show. decode_heic() returns all that stand for
# themselves, as frames, ordered by number, and has no word for the primary one: the first frame may be another picture.
# A file whose pictures differ in size or depth is an error. RGB mode drops transparency, so that hidden colours show.
# Seen: of two pictures, red and blue, blue the primary one: frame 0 is red. Of two sizes: RuntimeError.
# Upstream: not found.
# Depends on it: pipeline/stages/heif.py, which hides the other pictures.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet 'torch==2.15.0' 'torchcodec==0.17.0' 'pillow-heif==1.8.1' 'numpy==2.4.6'
HOME=$work "$work/venv/bin/python" - "$work" <<'PY'
import sys

import pillow_heif
from PIL import Image
from torchcodec.decoders import decode_heic

path = f"{sys.argv[1]}/picture.heic"


def write(*pictures, primary):
    file = pillow_heif.HeifFile()
    for picture in pictures:
        file.add_from_pillow(picture)
    file.save(path, quality=90, primary_index=primary)


red, blue = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")
write(red, blue, primary=1)
shown = pillow_heif.open_heif(path).to_pillow().getpixel((32, 32))
frames = decode_heic(path, mode="RGB")
first = frames[0, :, 32, 32].tolist() if frames.ndim == 4 else frames[:, 32, 32].tolist()
print(f"the primary picture is {shown}, the first of {frames.shape} is {first}")
if not (shown[2] > 200 > shown[0]):
    sys.exit("libheif shows another picture: nothing can be said of TorchCodec")
if first[0] < 200:
    sys.exit("CHANGED: the primary picture comes first")
write(red, blue.resize((128, 64)), primary=0)
try:
    print(decode_heic(path).shape)
except RuntimeError as error:
    print("of two sizes:", str(error).split(". ")[0][-120:])
    print("still so: the first frame is not the primary picture, and two sizes are an error")
else:
    sys.exit("CHANGED: pictures of two sizes are decoded")
PY
