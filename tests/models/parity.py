"""Networks with seeded weights: predictions by the published preprocessing, and by a job.

The reference uses nothing of the project: the plain network of torchvision or timm, built as its published weights
are used, on ``weights.transforms()`` (timm: its data config) of the picture as Pillow decodes it, in fp32. The other
side is the whole job: a tar of pictures, checkpoints in ``--weights-dir``, Parquet.

As a script it prints a table: ``python tests/models/parity.py --help``.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import itertools
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import skimage.data
import timm
import torch
from models.on_meta import on_meta
from PIL import Image, ImageOps
from timm.data import create_transform, resolve_data_config
from torch import nn
from torchvision import models as tv
from torchvision.transforms import InterpolationMode

from pipeline import label
from pipeline.errors import ShardlabelError

TABLE = """
    alexnet vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn
    googlenet inception_v3 timm/legacy_xception timm/xception41
    resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d resnext101_64x4d
    squeezenet1_0 squeezenet1_1 densenet121 densenet161 densenet169 densenet201
    shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0
    mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_small mobilenet_v3_large
    efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5 efficientnet_b6
    efficientnet_b7 efficientnet_v2_s efficientnet_v2_m efficientnet_v2_l
""".split()
# How torchvision builds them for their published weights, auxiliary heads included.
_BUILD_OPTIONS = {
    "googlenet": {"transform_input": True, "aux_logits": True, "init_weights": False},
    "inception_v3": {"transform_input": True, "aux_logits": True, "init_weights": False},
}
NUM_CLASSES = 1000
MAX_ERROR, MEDIAN_ERROR = 1e-2, 1e-3
_SPREAD = 2.5  # standard deviation of logits: the best of 1,000 classes then gets 10 to 40 %
_SPREAD_OF_EFFICIENTNETS = 1.8  # the deepest of all, they amplify single grey levels most
_SMOOTHNESS = 1.5  # of kernels: the common part beside what is each position's own
_GATE_SCALE = 0.3  # of squeeze-and-excitation's weights
_NUM_TO_SETTLE = 16  # pictures that batch norms and heads are fitted to
_AT_ONCE = 4

Transform = Callable[[Image.Image], torch.Tensor]


# -- pictures ---------------------------------------------------------------------------------------------


@functools.cache
def photographs() -> dict[str, bytes]:
    """Encoded photographs by file name, of many shapes, sizes, modes and formats; they come with scikit-image."""
    astronaut, hubble = _picture("astronaut.png"), _picture("hubble_deep_field.jpg")
    lying = Image.Exif()
    lying[0x0112] = 6
    return {
        "landscape.jpg": _encoded(_picture("coffee.png"), "JPEG", quality=92),
        "portrait.jpg": _encoded(astronaut.crop((100, 0, 400, 500)), "JPEG", quality=92),
        "grey.jpg": _encoded(_picture("camera.png"), "JPEG", quality=92),
        "tiny.jpg": _encoded(_picture("chelsea.png").resize((40, 30), Image.Resampling.LANCZOS), "JPEG", quality=95),
        "panorama.jpg": _encoded(hubble.crop((0, 300, 1000, 425)), "JPEG", quality=92),
        "lying.jpg": _encoded(_picture("rocket.jpg"), "JPEG", quality=92, exif=lying),
        "palette.png": _encoded(_picture("ihc.png").quantize(64), "PNG"),
        "cmyk.jpg": _encoded(_picture("motorcycle_left.png").convert("CMYK"), "JPEG", quality=92),
        "large.jpg": _encoded(_picture("retina.jpg"), "JPEG", quality=90, progressive=True),
        "slender.jpg": _encoded(astronaut.crop((200, 0, 290, 512)), "JPEG", quality=92, subsampling=0),
        "grey.png": _encoded(_picture("coins.png"), "PNG"),
        "photo.webp": _encoded(_picture("motorcycle_right.png"), "WEBP", quality=85),
    }


def photographs_in(shard: Path) -> list[bytes]:
    """The JPEGs of a tar, in its order."""
    with tarfile.open(shard) as tar:
        return [tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg")]


def _picture(name: str) -> Image.Image:
    return Image.open(Path(skimage.data.__file__).parent / name)


def _encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


# -- the reference ----------------------------------------------------------------------------------------


def published_transform(arch: str, weights: str | None = None, **changes: object) -> Transform:
    """The published preprocessing, or, with changes to it, a wrong one."""
    if arch.startswith("timm/"):
        with on_meta():
            network = timm.create_model(arch.removeprefix("timm/"), pretrained=False)
        return create_transform(**resolve_data_config({}, model=network) | changes)
    entries = tv.get_model_weights(arch)
    return (entries[weights] if weights else entries.DEFAULT).transforms(**changes)


def inputs_of(images: Iterable[bytes], transform: Transform) -> torch.Tensor:
    """What the network is given: float32, (B, 3, S, S)."""
    inputs_BCHW = torch.stack([transform(_upright(data)) for data in images])
    return inputs_BCHW.contiguous(memory_format=torch.channels_last)  # convolutions take a quarter less time


@functools.lru_cache(maxsize=16)
def _upright(data: bytes) -> Image.Image:
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")


def seeded_network(arch: str, inputs_BCHW: torch.Tensor) -> nn.Module:
    """A network with random weights whose predictions differ between these inputs, as those of trained networks do.

    Plain random weights predict nearly the same for every picture, so that no check could fail.
    """
    with on_meta():
        if arch.startswith("timm/"):
            network = timm.create_model(arch.removeprefix("timm/"), pretrained=False)
        else:
            network = tv.get_model(arch, weights=None, **_BUILD_OPTIONS.get(arch, {}))
    network = network.to_empty(device="cpu").eval().requires_grad_(False)
    _fill(network, torch.Generator().manual_seed(TABLE.index(arch)))
    with torch.inference_mode():
        outputs = _measure_statistics(network, inputs_BCHW[:_NUM_TO_SETTLE])
        _spread_logits(network, outputs, _SPREAD_OF_EFFICIENTNETS if arch.startswith("efficientnet_b") else _SPREAD)
    return network


def _fill(network: nn.Module, generator: torch.Generator) -> None:
    """Random tensors for everything.

    Plain random kernels and batch norms around zero are chaotic: each layer amplifies what little two pictures
    differ in, until one grey level decides. Trained networks look at shapes. So kernels get a common part over their
    positions, which averages pixel noise out, batch norms leave most units above zero, and gates stay half open.
    """
    has_norms = any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0, generator=generator)
            nn.init.normal_(module.bias, 0.5, 0.2, generator=generator)
            module.reset_running_stats()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if has_norms and isinstance(module, nn.Conv2d):
                side = module.weight[0, 0].numel() ** 0.5
                module.weight += _SMOOTHNESS * side * module.weight.mean(dim=(2, 3), keepdim=True)
                if module.bias is not None:  # no batch norm follows: it is part of a squeeze-and-excitation gate
                    module.weight *= _GATE_SCALE
        elif next(module.parameters(recurse=False), None) is not None:
            raise TypeError(f"no random weights are known for {type(module).__name__}")


def _measure_statistics(network: nn.Module, inputs_BCHW: torch.Tensor) -> torch.Tensor:
    """Let batch norms hold the means and variances that they see on these inputs; what the head gives for them."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = None  # a plain average
    seen: list[torch.Tensor] = []
    with _head(network).register_forward_hook(lambda _module, _inputs, output: seen.append(output)):
        network(inputs_BCHW)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.eval().momentum = momentum
    return seen[0]


def _spread_logits(network: nn.Module, outputs: torch.Tensor, spread: float) -> None:
    """Centre the head's outputs for each class, and scale them to a standard deviation like a trained network's."""
    head = _head(network)
    mean_K = outputs.mean(dim=[at for at in range(outputs.ndim) if at != 1])
    head.bias -= mean_K
    logits = outputs - mean_K.view(1, -1, *[1] * (outputs.ndim - 2))
    if logits.ndim == 4:  # SqueezeNet's head is a convolution; ReLU and pooling follow
        logits = logits.relu().mean(dim=(2, 3))
    scale = spread / logits.std()
    head.weight *= scale
    head.bias *= scale


def _head(network: nn.Module) -> nn.Linear | nn.Conv2d:
    sizes = {
        name: getattr(module, "out_features", getattr(module, "out_channels", None))
        for name, module in network.named_modules()
        if not name.startswith(("aux", "Aux"))
    }
    return network.get_submodule([name for name, size in sizes.items() if size == NUM_CLASSES][-1])


def logits_of(network: nn.Module, inputs_BCHW: torch.Tensor) -> torch.Tensor:
    """float32, (B, K)."""
    with torch.inference_mode():
        return torch.cat([network(some) for some in inputs_BCHW.split(_AT_ONCE)])


class Seeded:
    """A seeded network on some pictures: the reference of one architecture.

    Args:
        arch: One of :data:`TABLE`.
        images: Encoded pictures, which the network is fitted to.
        num_predicted: How many of them are predicted, from the first.
    """

    def __init__(self, arch: str, images: Iterable[bytes], num_predicted: int | None = None) -> None:
        self.arch = arch
        self.short_name = arch.removeprefix("timm/")
        images = tuple(images)
        self._images = images[:num_predicted]
        inputs_BCHW = inputs_of(images, published_transform(arch))
        self.network = seeded_network(arch, inputs_BCHW)
        self._inputs_BCHW = inputs_BCHW[:num_predicted]

    def probabilities(self, weights: str | None = None, **changes: object) -> torch.Tensor:
        """Its predictions with a published recipe, or with a changed and so wrong one: float32, (B, K)."""
        inputs_BCHW = self._inputs_BCHW
        if weights or changes:
            inputs_BCHW = inputs_of(self._images, published_transform(self.arch, weights, **changes))
        return logits_of(self.network, inputs_BCHW).softmax(dim=1)

    def save(self, folder: Path) -> None:
        """Write a checkpoint for ``--weights-dir``, in one of the shapes that people save them in."""
        shape = TABLE.index(self.arch) % 4
        if shape == 0:
            safetensors.torch.save_file(self.network.state_dict(), folder / f"{self.short_name}.safetensors")
            return
        state: object = self.network.state_dict()
        if shape == 1:
            state = {"state_dict": state, "epoch": 90}
        elif shape == 2:
            state = nn.ModuleDict({"module": self.network}).state_dict()
        path = folder / f"{self.short_name}.pth"
        torch.save(state, path)
        if shape == 3:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            path.rename(folder / f"{self.short_name}-{digest[:8]}.pth")


def other_filter(arch: str) -> dict[str, object]:
    """The change that makes a recipe wrong by its resize filter alone."""
    if arch.startswith("timm/"):
        return {"interpolation": "bilinear"}  # both of the table's are bicubic
    bilinear, bicubic = InterpolationMode.BILINEAR, InterpolationMode.BICUBIC
    return {"interpolation": bicubic if published_transform(arch).interpolation == bilinear else bilinear}


# -- the job ----------------------------------------------------------------------------------------------


def write_shard(path: Path, images: Mapping[str, bytes]) -> Path:
    """A tar with one sample per picture, in order."""
    with tarfile.open(path, "w") as tar:
        for number, (name, data) in enumerate(images.items()):
            info = tarfile.TarInfo(f"{number:03d}_{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def job_probabilities(inputs: Path, out: Path, members: Sequence[str], **options: object) -> dict[str, torch.Tensor]:
    """Label shards, and read each member's probabilities (float32, (B, K)) in order from the Parquet files."""
    options = {"decode": "exact", "engine": "inline", "device": "cpu", "top_k": NUM_CLASSES, **options}
    summary = label(str(inputs), out, model=list(members), **options)
    if summary.exit_code != 0:
        raise RuntimeError(f"the job did not end well: {summary}")
    parts = [pq.read_table(path).unify_dictionaries() for path in sorted((out / "predictions").iterdir())]
    table = pa.concat_tables(parts).select(["shard", "index", "members"])
    table = table.set_column(0, "shard", table["shard"].cast(pa.string()))
    rows = table.sort_by([("shard", "ascending"), ("index", "ascending")])["members"].to_pylist()
    found = {}
    for alias in rows[0]:
        labels_BK = torch.tensor([row[alias]["labels"] for row in rows])
        scores_BK = torch.tensor([row[alias]["scores"] for row in rows])
        found[alias] = torch.zeros_like(scores_BK).scatter(1, labels_BK, scores_BK)
    return found


# -- the comparison ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parity:
    """How far a job's probabilities are from the reference's.

    Attributes:
        largest: Largest difference of a probability.
        median: Median over pictures of each one's largest difference.
        top1: Share of pictures with the same best class.
        best: Mean probability of the reference's best class.
        distinct: How many classes are somebody's best.
    """

    largest: float
    median: float
    top1: float
    best: float
    distinct: int

    @property
    def holds(self) -> bool:
        """Whether the bounds of the contract are kept."""
        return self.largest < MAX_ERROR and self.median < MEDIAN_ERROR


def compare(actual_BK: torch.Tensor, expected_BK: torch.Tensor) -> Parity:
    """Compare a job's probabilities with the reference's, both (B, K)."""
    worst_B = (actual_BK - expected_BK).abs().amax(dim=1)
    best = expected_BK.max(dim=1)
    same_B = actual_BK.argmax(dim=1) == best.indices
    return Parity(
        worst_B.max().item(),
        worst_B.quantile(0.5).item(),
        same_B.float().mean().item(),
        best.values.mean().item(),
        len(best.indices.unique()),
    )


# -- the table --------------------------------------------------------------------------------------------

_HEAD = """| architecture | loads | largest error | median | by a wrong filter | {low}: top-1 kept | seconds |
|---|---|---|---|---|---|---|"""


def table_row(arch: str, images: Mapping[str, bytes], low: str) -> str:
    """Everything about one architecture, as a row of the table."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shard = write_shard(folder / "shard.tar", images)
        seeded = Seeded(arch, images.values())
        seeded.save(folder)
        expected, wrong = seeded.probabilities(), seeded.probabilities(**other_filter(arch))
        alias = seeded.short_name
        del seeded
        options = {"weights_dir": str(folder), "batch_size": _AT_ONCE}
        try:
            actual = job_probabilities(shard, folder / "fp32", [arch], precision="fp32", **options)[alias]
        except ShardlabelError as error:
            return f"| {arch} | no: {error} | | | | | |"
        cheap = job_probabilities(shard, folder / "low", [arch], precision=low, **options)[alias]
    found, mistaken, kept = compare(actual, expected), compare(actual, wrong), compare(cheap, actual)
    return (
        f"| {arch} | yes | {found.largest:.5f} | {found.median:.5f}{'' if found.holds else ' **too much**'} "
        f"| {mistaken.largest:.3f}, {mistaken.median:.4f}{' **unnoticed**' if mistaken.holds else ''} "
        f"| {kept.top1:.1%} | {time.monotonic() - begun:.0f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("arch", nargs="*", default=TABLE, help="architectures (default: all)")
    parser.add_argument("--images", type=int, default=12, help="pictures (default: %(default)s)")
    parser.add_argument("--shards", type=Path, help="a folder of tars with more photographs than the twelve built in")
    parser.add_argument("--low", default="auto", help="precision whose top-1 is compared with that of fp32")
    asked = parser.parse_args()
    images = photographs()
    if asked.shards:
        more = [data for path in sorted(asked.shards.glob("*.tar")) for data in photographs_in(path)]
        more.sort(key=lambda data: hashlib.sha256(data).digest())  # so that neither class nor file order matters
        images |= {f"{number}.jpg": data for number, data in enumerate(more)}
    images = dict(itertools.islice(images.items(), asked.images))
    torch.set_num_threads(1)
    print(f"{len(images)} pictures\n\n{_HEAD.format(low=asked.low)}", flush=True)
    for arch in asked.arch:
        print(table_row(arch, images, asked.low), flush=True)


if __name__ == "__main__":
    main()
