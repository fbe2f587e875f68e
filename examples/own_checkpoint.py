"""Bring your own checkpoint: train a network's last layer on a few labelled images, then label with it.

    python examples/own_checkpoint.py

learns from 5 images of each class of a sample shard and labels the two others; with shards and classes of your own:

    python examples/own_checkpoint.py train.tar 'rest-{000..099}.tar' --classes classes.txt --out own

Training shards are WebDataset tars with the class index in `.cls`. Any state dict of a torchvision or timm network will
do, as .safetensors or .pth: the number of classes is read from it.
"""

import argparse
from pathlib import Path

import torch
import webdataset as wds
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models import get_model, get_model_weights

from pipeline import evaluate, label

ARCH = "shufflenet_v2_x0_5"
DATA = Path(__file__).parent / "data"


def few_of_each(shard: str, per_class: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Read the first images of each class, as (N, 3, 224, 224) float32 and (N,) class indices."""
    preprocess = get_model_weights(ARCH).DEFAULT.transforms()  # what label will do as well
    pairs = (
        wds.WebDataset(shard, shardshuffle=False)
        .decode("pilrgb", handler=wds.ignore_and_continue)  # unreadable images are left out
        .to_tuple("jpg;jpeg;png;webp", "cls", handler=wds.ignore_and_continue)
    )
    images, labels = [], []
    for image, index in pairs:
        if labels.count(index) < per_class:
            images.append(preprocess(image))
            labels.append(index)
    return torch.stack(images), torch.tensor(labels)


def fine_tune(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, num_classes: int) -> None:
    """Give a network a new last layer, trained for some seconds; all else stays as it is."""
    model.eval()
    num_features = model.fc.in_features
    model.fc = nn.Identity()
    with torch.no_grad():
        features = torch.cat([model(part) for part in images.split(32)])
    model.fc = nn.Linear(num_features, num_classes)
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=1e-2)
    for _ in range(200):
        loss = nn.functional.cross_entropy(model.fc(features), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main() -> None:
    """Fine-tune, save, and label with what was saved."""
    parser = argparse.ArgumentParser(description="Label with a checkpoint of your own.")
    parser.add_argument("train", nargs="?", default=str(DATA / "shard-000.tar"), help="a tar with .cls")
    parser.add_argument("input", nargs="?", default=str(DATA / "shard-{001..002}.tar"), help="what is to be labelled")
    parser.add_argument("--classes", default=DATA / "classes.txt", help="class names, one a line")
    parser.add_argument("--per-class", type=int, default=5, help="images to learn from (default: %(default)s)")
    parser.add_argument("--out", default="own", help="default: %(default)s")
    args = parser.parse_args()

    torch.manual_seed(0)
    num_classes = len(Path(args.classes).read_text().splitlines())
    images, labels = few_of_each(args.train, args.per_class)

    # With internet: get_model(ARCH, weights="DEFAULT"), which knows ImageNet.
    start = load_file(DATA / "weights" / f"{ARCH}.safetensors")
    model = get_model(ARCH, num_classes=len(start["fc.bias"]))
    model.load_state_dict(start)
    fine_tune(model, images, labels, num_classes)
    checkpoint = Path(f"{args.out}.safetensors")
    save_file(model.state_dict(), checkpoint)
    print(f"Trained on {len(images)} images of {num_classes} classes: {checkpoint}")

    summary = label(args.input, out=args.out, model=f"mine:{ARCH}={checkpoint}", labels=args.classes, engine="inline")
    print(f"Labelled {summary.labelled} others: {args.out}/predictions/*.parquet")
    found = evaluate(args.out)
    low, high = found.consensus.top1_interval
    print(f"Right: {found.consensus.top1:.1%} of {found.images} (95% interval {low:.1%} to {high:.1%})")


if __name__ == "__main__":
    main()
