"""torchvision is imported without torch's compiler, and compiles all the same."""

import json
import subprocess
import sys

LOADED = """
import json, sys
from pipeline.commands.label import label
from pipeline.models.catalog import find
from pipeline.models.networks import NetworkShape, empty_network
for arch in ("squeezenet1_1", "timm/vit_tiny_patch16_224"):
    empty_network(NetworkShape(find(arch), 10, 224))
before = [name for name in sys.modules if name.startswith("torch._dynamo") or name == "sympy"]
import torch
from torchvision import tv_tensors
from torchvision.ops import roi_align
from torchvision.transforms.v2 import functional
boxes = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]])
pooled = roi_align(torch.ones(1, 3, 8, 8), boxes, 2)
small = [functional.resize(tv_tensors.Image(torch.ones(3, 8, 8)), [4])]
doubled = torch.compile(lambda x: x * 2, backend="eager")(torch.ones(2)).tolist()
small.append(functional.resize(tv_tensors.Image(torch.ones(3, 8, 8)), [4]))
print(json.dumps([before, pooled.shape, [type(image).__name__ for image in small], doubled]))
"""


def test_nothing_loads_the_compiler_before_somebody_compiles():
    ran = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout) == [[], [1, 3, 2, 2], ["Image", "Image"], [2.0, 2.0]]
