"""Pseudo-label, export, fine-tune: a small student learns from what an ensemble is sure of.

    python examples/pseudo_label.py

labels two sample shards, exports the images on which most members agree as WebDataset, and trains the last layer of a
small network on them. Nobody's truth is used for that. The third shard is held out: nothing of it is exported, and its
truth judges the student and the members. On shards of your own, once MODELS names your networks and the student starts
from weights that know such pictures (the held-out shards need `.cls`):

    python examples/pseudo_label.py 'pool-{000..099}.tar' held-out.tar --out pseudo

The student beat the weakest member by 4 to 13 points, whichever of the three shards was held out, in all of five seeds
each. About 80 images judge, so 4 points are 3 of them. The student has the body of one member, and was not always
better than that one. Expect less elsewhere: the held-out images are other crops of the photographs that it learns from.
"""

import argparse
from pathlib import Path

import torch
import webdataset as wds
from safetensors.torch import load_file
from torch import nn
from torchvision.models import get_model, get_model_weights

from pipeline import evaluate, export, label

STUDENT = "shufflenet_v2_x0_5"
DATA = Path(__file__).parent / "data"
MODELS = {
    "model": "shufflenet_v2_x0_5,squeezenet1_1,mobilenet_v3_small",
    "weights_dir": DATA / "weights",
    "labels": DATA / "classes.txt",
}


def features_and_labels(body: nn.Module, shards: str | list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """What a network without its last layer makes of the images of shards, (N, F) float32, and (N,) their `.cls`."""
    preprocess = get_model_weights(STUDENT).DEFAULT.transforms()
    batches = (
        wds.WebDataset(shards, shardshuffle=False)
        .decode("pilrgb", handler=wds.ignore_and_continue)  # unreadable images are left out
        .to_tuple("jpg;jpeg;png;webp", "cls", handler=wds.ignore_and_continue)
        .map_tuple(preprocess)
        .batched(32)
    )
    features, labels = [], []
    with torch.no_grad():
        for images, indices in batches:
            features.append(body(images))
            labels.append(torch.as_tensor(indices))
    return torch.cat(features), torch.cat(labels)


def train(features: torch.Tensor, labels: torch.Tensor, num_classes: int) -> nn.Linear:
    """Train a last layer for some seconds."""
    layer = nn.Linear(features.shape[1], num_classes)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2)
    for _ in range(200):
        chosen = torch.randint(len(labels), (64,))
        loss = nn.functional.cross_entropy(layer(features[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return layer


def main() -> None:
    """Label, export, train, and judge on what was held out."""
    parser = argparse.ArgumentParser(description="Train a student on pseudo-labels.")
    parser.add_argument("pool", nargs="?", default=str(DATA / "shard-{000..001}.tar"), help="shards to learn from")
    parser.add_argument("held_out", nargs="?", default=str(DATA / "shard-002.tar"), help="a shard with .cls")
    parser.add_argument("--out", default="pseudo", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    args = parser.parse_args()
    out = Path(args.out)

    label(args.pool, out=out / "labels", engine="inline", **MODELS)
    # With a few hundred truths, target_precision=0.98 chooses the score for you, and promises it.
    chosen = export(out / "labels", to=out / "dataset", format="webdataset", min_agreement=0.6, engine="inline")
    print(f"Exported {chosen.exported} of {chosen.labelled} images to {chosen.to}")

    torch.manual_seed(args.seed)
    start = load_file(DATA / "weights" / f"{STUDENT}.safetensors")
    num_classes = len(start["fc.bias"])
    body = get_model(STUDENT, num_classes=num_classes).eval()
    body.load_state_dict(start)
    body.fc = nn.Identity()
    shards = sorted(map(str, (out / "dataset" / "data").glob("*.tar")))
    last_layer = train(*features_and_labels(body, shards), num_classes)

    label(args.held_out, out=out / "held-out", engine="inline", **MODELS)  # to judge the members, nothing else
    members = {alias: accuracy.top1 for alias, accuracy in evaluate(out / "held-out").members.items()}
    features, truth = features_and_labels(body, args.held_out)
    student = (last_layer(features).argmax(1) == truth).float().mean().item()
    print(f"Right of {len(truth)} images that were held out:")
    for alias, accuracy in sorted(members.items(), key=lambda item: item[1]):
        print(f"  member  {alias:<20} {accuracy:.1%}")
    gain = 100 * (student - min(members.values()))
    print(f"  student {STUDENT:<20} {student:.1%}, {gain:+.1f} points on the weakest")


if __name__ == "__main__":
    main()
