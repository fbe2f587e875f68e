#!/usr/bin/env bash
# torchvision's two resize() give other pixels for one uint8 tensor: bicubic differs by ten grey levels.
#
# Versions: torchvision 0.29.2, torch 2.15.0, pillow 13.0.0, numpy 2.4.6, Python 3.11.2. Some 3 GB. Date: 2026-11.
# transforms.v2 is called a drop-in replacement. On a CPU it resizes uint8 by a kernel that rounds and clips to 8 bits
# between the two directions, as Pillow does; the older functional.resize goes through float32, where an overshoot at an
# edge lives on into the second direction. So does v2 itself, once the tensor is float: ToDtype before Resize is another
# recipe than after it. Bilinear has no overshoot and agrees to a level. Photographs show less than the noise used here;
# it decides images that are near ties.
# Seen: levels from Pillow at most, bilinear, bicubic: v2 on uint8 1, 1; v1 on uint8 1, 10; v2 on float 1, 10.
# Upstream: vision#7668 brought the kernel; that the older function is left behind was not found.
# Depends on it: pipeline/models/preprocessing.py, which resizes uint8 with v2.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet \
    'torchvision==0.29.2' 'torch==2.15.0' 'pillow==13.0.0' 'numpy==2.4.6'
HOME=$work "$work/venv/bin/python" -W ignore - <<'PY'
import sys

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, functional
from torchvision.transforms.v2 import functional as functional_v2

noise_HWC = np.random.default_rng(0).integers(0, 256, (375, 500, 3), dtype=np.uint8)
pixels_CHW = torch.from_numpy(noise_HWC).permute(2, 0, 1).contiguous()
off = {name: [] for name in ("v2 on uint8", "v1 on uint8", "v2 on float")}
for mode in (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC):
    reference = functional_v2.pil_to_tensor(functional_v2.resize(Image.fromarray(noise_HWC), [256], mode)).int()
    resized = {
        "v2 on uint8": functional_v2.resize(pixels_CHW, [256], mode),
        "v1 on uint8": functional.resize(pixels_CHW, [256], mode, antialias=True),
        "v2 on float": functional_v2.resize(pixels_CHW.float(), [256], mode).round().clamp(0, 255),
    }
    for name, each in resized.items():
        off[name].append(int((each.int() - reference).abs().max()))
print("levels from Pillow at most, bilinear and bicubic:", off)
if any(most > 1 for most in (off["v2 on uint8"] + [off["v1 on uint8"][0], off["v2 on float"][0]])):
    sys.exit("CHANGED: what was within a level of Pillow is no longer")
if min(off["v1 on uint8"][1], off["v2 on float"][1]) < 5:
    sys.exit("CHANGED: bicubic agrees with Pillow everywhere")
print("still so: v1 and v2 differ")
PY
