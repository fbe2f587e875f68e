"""Measure a GPU machine: what its cores decode, what its device computes, and how close a labeler comes to both.

    python examples/measure_gpu.py --json rates.json

No Ray, no network, and nothing is kept but the JSON file. Within ``--minutes`` it measures

- each member alone on pictures that lie on the device, in every precision, eager and compiled;
- the ensemble, and its first member alone: the rates of decoding and of the device, and between them, round by
  round, a whole labeler from tars to Parquet. Two ratios are the result: each job over what binds it.

To bring it to a GPU machine: copy this checkout there, or ``pipeline/`` and ``examples/`` of it. What the script
needs beside torch, torchvision, timm and pyarrow can travel as wheels: ``torchcodec`` (the release that belongs to
the torch there), ``webdataset`` with ``braceexpand``, and ``pydantic`` with ``pydantic-core``, ``annotated-types`` and
``typing-inspection``. It needs neither Ray nor boto3. timm brings ``safetensors``, ``pyyaml`` and ``tqdm``.

Without ``--images`` it makes photographs of ImageNet's usual size (500 x 375, about 100 kB) from the sample data.
Without ``--weights-dir`` the networks are random, but changed so that they behave like trained ones where that
costs time: activations keep their size, and most pictures are no near ties. The share of them that is computed
again in fp32 is printed.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # an uninstalled checkout

from pipeline.config.members import parse_members
from pipeline.config.option_types import above_zero
from pipeline.config.settings import StorageConfig
from pipeline.errors import ImageError, ShardlabelError
from pipeline.inputs.find import find_inputs
from pipeline.labeler.config import LabelerConfig
from pipeline.machine import num_local_cpus
from pipeline.models.catalog import find
from pipeline.models.classifier import Classifier
from pipeline.models.preprocessing import Recipe, crop
from pipeline.models.weights import ResolvedMember, resolve
from pipeline.sample_data import sample_data
from pipeline.speed.bottleneck import BottleneckAnalysis, find_bottleneck
from pipeline.speed.input_sample import InputSample, LooseCount, draw_sample
from pipeline.speed.measure import measure
from pipeline.speed.rates import Rates
from pipeline.speed.stage_bench import PRECISIONS
from pipeline.stages.decode import decode
from pipeline.storage import Storage

MEMBERS = "resnet50,densenet121,efficientnet_b0,mobilenet_v3_large,inception_v3"
TARGET = 0.9
NUM_CLASSES = 1000
_DISTINCT = 256  # photographs; tars hold them over and over
_KNOWN_IMAGES = {"cpu": 32, "cuda": _DISTINCT}  # by random networks, on a GPU all of those that are made
_TOP_LOGIT = 15.0  # of a picture that a network knows
_COMPILING_S = 60.0  # what one network is allowed for when there is time to compile it
_ROUNDS, _ROUND_S = 3, 0.4


def main() -> None:
    """Measure, print, and write."""
    options = parse_options()
    began = time.monotonic()
    deadline = began + 60 * options.minutes
    device = "cuda" if torch.cuda.is_available() else "cpu"
    device = options.device if options.device != "auto" else device
    with tempfile.TemporaryDirectory(prefix="shardlabel-") as name:
        scratch = Path(name)
        say("preparing photographs and networks")
        folder = options.images or make_tars(scratch / "tars", options.num_images, options.num_tars)
        drawn = drawn_from(str(folder), options.num_images)
        requests = parse_members((options.members,))
        weights = options.weights_dir or str(scratch / "weights")
        if not options.weights_dir:
            os.mkdir(weights)
            for request in requests:
                save_random(request.arch, drawn.images[: _KNOWN_IMAGES[device]], device, Path(weights))
        members = [resolve(request, weights, Storage(StorageConfig())) for request in requests]

        def config(some: Sequence[ResolvedMember], out: str) -> LabelerConfig:
            return LabelerConfig(
                out=str(scratch / out),
                fingerprint="0" * 64,
                run="trial",
                members=tuple(member.spec for member in some),
                class_names=tuple(f"class {number}" for number in range(some[0].spec.num_classes)),
                rule="mean",
                top_k=5,
                precision=options.precision,
                compiled=False,
                device=device,
                batch_size=options.batch_size,
                may_tune=False,
                decode=options.decode,
                rows_per_part=10_000,
                keep=(),
                num_threads=options.threads,
                storage=StorageConfig(),
            )

        jobs: dict[str, tuple[Rates, BottleneckAnalysis]] = {}
        left = deadline - time.monotonic()
        for title, some, share in (("ensemble", members, 0.35), (members[0].spec.alias, members[:1], 0.2)):
            say(f"the job: {title}")
            blobs = {member.spec.alias: member.blob for member in some}
            rates = measure(
                config(some, title), blobs, drawn, seconds=share * left, alternatives=False, on_step=lambda *_: None
            )
            jobs[title] = rates, find_bottleneck(rates)
            release(device)
        alone = forward_rates(members, drawn.images, device, options, deadline)
    found = report(jobs, alone, device, options, time.monotonic() - began)
    print(table(found))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", default=MEMBERS, help="the ensemble; the first is measured alone as well")
    parser.add_argument("--weights-dir", help="checkpoints, as for shardlabel label; default: random networks")
    parser.add_argument("--images", help="a directory of tars; default: photographs are made")
    parser.add_argument(
        "--num-images", type=above_zero(int), default=8192, help="samples held in memory, and in the tars made"
    )
    parser.add_argument("--num-tars", type=above_zero(int), default=8, help="how many tars are made")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--precision", choices=("mixed", "fp16", "bf16", "fp32"), default="mixed")
    parser.add_argument("--decode", choices=("exact", "fast", "gpu"), default="exact")
    parser.add_argument("--batch-size", type=above_zero(int), help="images in a batch; default: what suits the device")
    parser.add_argument("--threads", type=above_zero(int), default=num_local_cpus(), help="threads that decode")
    parser.add_argument("--minutes", type=above_zero(float), default=7.0, help="what it may take, about")
    parser.add_argument("--json", help="a file for the figures")
    return parser.parse_args()


def say(what: str) -> None:
    """What comes next, on stderr."""
    print(what, file=sys.stderr, flush=True)


def release(device: str) -> None:
    """Give memory that nothing uses back to the device."""
    if device == "cuda":
        torch.cuda.empty_cache()


# -- photographs ------------------------------------------------------------------------------------------


def make_tars(folder: Path, num_images: int, num_tars: int) -> Path:
    """Tars of photographs that differ, of ImageNet's usual size and weight."""
    folder.mkdir()
    sources = sample_pictures(min(num_images, _DISTINCT))
    with ThreadPoolExecutor(num_local_cpus()) as pool:
        photographs = list(pool.map(photograph, range(len(sources)), sources))
    each = -(-num_images // num_tars)
    for number in range(num_tars):
        with tarfile.open(folder / f"photographs-{number:03d}.tar", "w") as tar:
            for place in range(each):
                data = photographs[(number * each + place) % len(photographs)]
                member = tarfile.TarInfo(f"{place:06d}.jpg")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return folder


def sample_pictures(number: int) -> list[Image.Image]:
    """The photographs that ship with the project, from the start again where they do not suffice."""
    sound = []
    for data in drawn_from(str(sample_data()), number).images:
        try:
            sound.append(Image.fromarray(decode(data).pixels_CHW.permute(1, 2, 0).contiguous().numpy()))
        except ImageError:
            continue  # some of them are broken on purpose
    return [sound[place % len(sound)] for place in range(number)]


def photograph(seed: int, source: Image.Image) -> bytes:
    """One of them at 500 x 375, with the grain that it lost when it was made small."""
    picture = source.resize((500, 375), Image.Resampling.BICUBIC)
    grain = np.random.default_rng(seed).normal(0, 9, (375, 500, 1))
    pixels = np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def drawn_from(folder: str, number: int) -> InputSample:
    """Samples of the tars in a directory, held in memory."""
    storage = Storage(StorageConfig())
    tars = find_inputs((folder,), storage).tars.values()
    return draw_sample(list(tars), LooseCount(), storage, number, 1 << 30)


# -- networks ---------------------------------------------------------------------------------------------


def save_random(arch: str, images: Sequence[bytes], device: str, folder: Path) -> None:
    """A checkpoint of a network that was never trained."""
    architecture = find(arch)
    recipe = architecture.choose(None).recipe
    torch.manual_seed(0)
    network = architecture.build(NUM_CLASSES, recipe.geometry.crop_px).to(device)
    settle(network, normalised(images, recipe).to(device))
    torch.save(network.cpu().state_dict(), folder / f"{architecture.short_name}.pth")


def normalised(images: Iterable[bytes], recipe: Recipe) -> torch.Tensor:
    """What a network sees of some images: float32, (B, 3, S, S)."""
    crops = torch.stack([crop(decode(image).pixels_CHW, recipe.geometry) for image in images])
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (recipe.mean, recipe.std))
    return (crops / 255 - mean) / std


@torch.no_grad()
def settle(network: nn.Module, inputs: torch.Tensor) -> None:
    """Give batch norms the statistics of some images, and a head that knows each of these from the others."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of what comes
        norm.train()
    network(inputs)
    network.eval()
    head = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    seen: list[torch.Tensor] = []
    hook = head.register_forward_pre_hook(lambda _head, given: seen.append(given[0]))
    network(inputs)
    hook.remove()
    features_BD = seen[0] if seen[0].ndim == 2 else seen[0].mean(dim=(2, 3))
    centre_D = features_BD.mean(dim=0)
    away_BD = features_BD - centre_D
    weight_KD = torch.randn(len(head.weight), away_BD.shape[1], device=inputs.device) * away_BD.std() / away_BD.shape[1]
    weight_KD[: len(away_BD)] = _TOP_LOGIT * away_BD / away_BD.square().sum(dim=1, keepdim=True)
    head.weight.copy_(weight_KD.reshape(head.weight.shape))
    head.bias = nn.Parameter(-weight_KD @ centre_D)


# -- members alone ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Alone:
    """One member in one form.

    Attributes:
        images_per_s: Median of the rounds, pictures on the device.
        again: Share of the pictures that are computed again in fp32.
    """

    member: str
    precision: str
    compiled: bool
    images_per_s: float
    again: float


def forward_rates(
    members: Sequence[ResolvedMember],
    images: Sequence[bytes],
    device: str,
    options: argparse.Namespace,
    deadline: float,
) -> list[Alone]:
    """Each member in every precision, then compiled in the one that was asked for, while there is time."""
    threads = torch.get_num_threads()
    torch.backends.cudnn.allow_tf32 = False  # as an ensemble sets it
    found: list[Alone] = []
    wanted = [(member, precision, False) for member in members for precision in PRECISIONS[device]]
    wanted += [(member, options.precision, True) for member in members]
    for member, precision, compiled in wanted:
        if time.monotonic() > deadline - (_COMPILING_S if compiled else 0):
            say(f"no time left for {member.spec.alias} {precision}{' compiled' if compiled else ''}")
            continue
        say(f"{member.spec.alias} {precision}{' compiled' if compiled else ''}")
        found.append(forward_rate(member, images, torch.device(device), precision, compiled, options.batch_size))
        release(device)
    torch.set_num_threads(threads)
    return found


def forward_rate(
    member: ResolvedMember,
    images: Sequence[bytes],
    device: torch.device,
    precision: str,
    compiled: bool,
    batch_size: int | None,
) -> Alone:
    """One member in one form, on pictures that lie on the device."""
    spec = member.spec
    classifier = Classifier(spec, member.blob, device, precision, compiled=compiled, batch_size=batch_size)
    size = classifier.batch_size
    crops = torch.stack([crop(decode(image).pixels_CHW, spec.recipe.geometry) for image in images[:size]])
    batch = torch.cat([crops] * -(-size // len(crops)))[:size].to(device)
    recompute_B = classifier.first_pass(batch)[1]
    where_b = None if recompute_B is None else recompute_B.nonzero()[:, 0]

    def once() -> None:
        logits_BK, _ = classifier.first_pass(batch)
        if where_b is not None and len(where_b):
            classifier.second_pass(logits_BK, batch, where_b)

    rate = timed(once, size, device)
    again = 0.0 if where_b is None else len(where_b) / size
    return Alone(spec.alias, precision, compiled, rate, again)


def timed(call: Callable[[], object], size: int, device: torch.device) -> float:
    """Images per second: the median of a few rounds, after a first call that does not count."""

    def run(number: int) -> float:
        began = time.perf_counter()
        for _ in range(number):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    run(1)
    number = max(1, int(_ROUND_S / max(run(1), 1e-4)))
    return size * number / float(np.median([run(number) for _ in range(_ROUNDS)]))


# -- the report -------------------------------------------------------------------------------------------


def report(
    jobs: Mapping[str, tuple[Rates, BottleneckAnalysis]],
    alone: Sequence[Alone],
    device: str,
    options: argparse.Namespace,
    seconds: float,
) -> dict[str, object]:
    """Everything that was found, as JSON takes it."""
    return {
        "machine": {
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "cpus": num_local_cpus(),
            "threads": options.threads,
            "torch": torch.__version__,
        },
        "precision": options.precision,
        "seconds": round(seconds, 1),
        "jobs": {
            title: {
                "job": verdict.job_images_per_s,
                "limit": verdict.limit_images_per_s,
                "limit_by": verdict.limit_by,
                "bottleneck": verdict.bottleneck,
                "share": verdict.share,
                "target": TARGET,
                "stages": [dataclasses.asdict(stage) for stage in rates.stages],
            }
            for title, (rates, verdict) in jobs.items()
        },
        "alone": [dataclasses.asdict(one) for one in alone],
    }


def table(found: Mapping[str, object]) -> str:
    """The report, for people."""
    machine, jobs, alone = found["machine"], found["jobs"], found["alone"]
    lines = [
        f"{machine['device']}, {machine['threads']} of {machine['cpus']} CPUs, torch {machine['torch']}, "
        f"{found['precision']}, {found['seconds']:.0f} s",
        "",
        f"{'member alone':<36}{'images/s':>12}{'again in fp32':>15}",
    ]
    for one in alone:
        form = f"{one['member']} {one['precision']}{' compiled' if one['compiled'] else ''}"
        lines.append(f"{form:<36}{one['images_per_s']:>12,.1f}{one['again']:>15.1%}")
    for title, job in jobs.items():
        lines += ["", f"{'job: ' + title:<36}{'images/s':>12}{'spread':>15}"]
        for stage in job["stages"]:
            name = " ".join(word for word in (stage["stage"], stage["member"], stage["what"]) if word)
            lines.append(f"{name:<36}{stage['images_per_s']:>12,.1f}{stage['spread']:>14.1%} ")
        reached = "reached" if job["share"] >= job["target"] else "missed"
        lines += [
            f"limit: {job['limit']:,.1f} images/s, {job['limit_by']}",
            f"job over limit: {job['share']:.3f} (median of the rounds); the target of {job['target']} is {reached}",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except ShardlabelError as error:
        sys.exit(f"measure_gpu.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
