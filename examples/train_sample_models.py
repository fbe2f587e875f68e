"""Train the three small classifiers in ``examples/data/weights`` and measure them on the sample shards.

The models never see a pixel of the shards: they are trained from scratch on random crops of the train regions
(see ``make_sample_data.py``) and measured on the shards with torchvision's reference preprocessing.

Usage: ``python examples/train_sample_models.py [--data DIR] [--threads N] [--evaluate-only]``
"""

import argparse
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset as wds
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights
from torchvision.transforms import ColorJitter, Normalize
from torchvision.transforms.functional import hflip, to_tensor

from make_sample_data import HERE, PICTURES, load_region

# Optimiser steps and learning rate of each model; squeezenet has no batch norm and wants a lower rate.
ARCHS = {"shufflenet_v2_x0_5": (300, 3e-3), "squeezenet1_1": (400, 5e-4), "mobilenet_v3_small": (300, 3e-3)}
FINE_STEPS, LOW_SIZE, FULL_SIZE, BATCH = 40, 128, 224, 32  # the last FINE_STEPS are at the reference size
SIDES = 75, 210  # source pixels that the network sees: 224/256 of the sides of the crops in the shards

normalize = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
jitter = ColorJitter(brightness=0.35, contrast=0.35, saturation=0.2)


class TrainCrops:
    """Endless random crops of the train regions."""

    def __init__(self, seed: int) -> None:
        """Load the train regions of every class."""
        self.rng = np.random.default_rng(seed)
        self.regions = [
            [load_region(name, region)[0].convert("RGB") for region in picture.train]
            for name, picture in PICTURES.items()
        ]

    def crop(self, label: int, size: int) -> Tensor:
        """Cut one augmented square crop of a class and resize it."""
        regions = self.regions[label]
        region = regions[self.rng.integers(len(regions))]
        side = min(round(self.rng.uniform(*SIDES)), region.width, region.height)
        x, y = self.rng.integers(region.width - side + 1), self.rng.integers(region.height - side + 1)
        box = (int(x), int(y), int(x) + side, int(y) + side)
        crop = jitter(region.resize((size, size), Image.Resampling.BILINEAR, box=box))
        return normalize(to_tensor(hflip(crop) if self.rng.random() < 0.5 else crop))

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Make one batch of random classes."""
        labels = self.rng.integers(len(self.regions), size=BATCH)
        return torch.stack([self.crop(int(label), size) for label in labels]), torch.from_numpy(labels)


def train(arch: str, steps: int, rate: float, seed: int) -> nn.Module:
    """Train one architecture from scratch."""
    torch.manual_seed(seed)
    crops = TrainCrops(seed)
    model = get_model(arch, weights=None, num_classes=len(PICTURES)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps, pct_start=0.2)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    for step in range(steps):
        images, labels = crops.batch(LOW_SIZE if step < steps - FINE_STEPS else FULL_SIZE)
        loss = loss_of(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 50 == 0:
            print(f"  {arch} step {step + 1}/{steps} loss {loss.item():.3f}", flush=True)
    refresh_batch_norm(model, crops)
    return model.eval()


@torch.no_grad()
def refresh_batch_norm(model: nn.Module, crops: TrainCrops, batches: int = 20) -> None:
    """Estimate the batch-norm statistics anew: the moving averages are too slow for so short a training."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a plain average over the batches
    for _ in range(batches):
        model(crops.batch(FULL_SIZE)[0])


def save(model: nn.Module, arch: str, path: Path) -> None:
    """Save a model as half-precision safetensors."""
    state = {name: t.half() if t.is_floating_point() else t for name, t in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, metadata={"arch": arch, "num_classes": str(len(PICTURES))})
    path.chmod(0o644)  # safetensors makes it readable by its owner only


def readable_samples(data: Path) -> tuple[list[Image.Image], Tensor]:
    """Decode the readable samples of the shards, with their labels."""
    shards = [str(path) for path in sorted(data.glob("shard-*.tar"))]
    images, labels = [], []
    for sample in wds.WebDataset(shards, shardshuffle=False):
        if not sample["__key__"].startswith("broken_"):
            images.append(decode(sample))
            labels.append(int(sample["cls"]))
    return images, torch.tensor(labels)


def decode(sample: dict[str, Any]) -> Image.Image:
    """Decode a sample's image to upright RGB."""
    data = next(sample[field] for field in ("jpg", "png", "webp") if field in sample)
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    return image.convert("RGB")


@torch.no_grad()
def predict(arch: str, path: Path, images: list[Image.Image]) -> Tensor:
    """Load a saved model and return its class probabilities."""
    model = get_model(arch, weights=None, num_classes=len(PICTURES)).eval()
    model.load_state_dict(load_file(path))
    preprocess = get_model_weights(arch).DEFAULT.transforms()
    inputs = torch.stack([preprocess(image) for image in images])
    return torch.cat([model(part).softmax(1) for part in inputs.split(32)])


def main() -> None:
    """Train, save and measure the three models."""
    parser = argparse.ArgumentParser(description="Train the sample models and measure them on the shards.")
    parser.add_argument("--data", type=Path, default=HERE / "data", help="default: examples/data")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    parser.add_argument("--evaluate-only", action="store_true", help="only measure the models on disk")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    images, labels = readable_samples(args.data)
    votes = []
    for arch, (steps, rate) in ARCHS.items():
        path = args.data / "weights" / f"{arch}.safetensors"
        start = time.monotonic()
        if not args.evaluate_only:
            save(train(arch, steps, rate, args.seed), arch, path)
        votes.append(predict(arch, path, images))
        right = (votes[-1].argmax(1) == labels).sum().item()
        took = f"{(time.monotonic() - start) / 60:.1f} min, {path.stat().st_size / 1e6:.2f} MB"
        print(f"{arch}: {right} of {len(labels)} right, {right / len(labels):.1%} ({took})", flush=True)
    right = (torch.stack(votes).mean(0).argmax(1) == labels).sum().item()
    print(f"mean of the {len(votes)}: {right} of {len(labels)} right, {right / len(labels):.1%}")


if __name__ == "__main__":
    main()
