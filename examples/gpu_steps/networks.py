"""Networks that were never trained, but behave like trained ones where that costs time.

Activations keep their size, and most photographs are no near ties. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import nn

from pipeline.machine import num_local_cpus
from pipeline.models.catalog import find
from pipeline.models.preprocessing import Recipe, crop
from pipeline.stages.decode import decode

NUM_CLASSES = 1000
_TOP_LOGIT = 15.0  # of a photograph that a network knows


def save_random(arch: str, images: Sequence[bytes], device: torch.device, path: Path) -> None:
    """Save a checkpoint of a network that knows some images from each other."""
    architecture = find(arch)
    recipe = architecture.choose(None).recipe
    torch.manual_seed(0)
    network = architecture.build(NUM_CLASSES, recipe.geometry.crop_px).to(device)
    with ThreadPoolExecutor(num_local_cpus()) as pool:
        crops = list(pool.map(lambda image: crop(decode(image).pixels_CHW, recipe.geometry), images))
    _settle(network, normalised(torch.stack(crops).to(device), recipe))
    unfinished = path.with_suffix(".unfinished")
    torch.save(network.cpu().state_dict(), unfinished)
    unfinished.rename(path)


def normalised(crops_BCHW: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """What a network sees of some crops: float32, (B, 3, S, S), with channels last."""
    mean, std = (
        torch.tensor(values, device=crops_BCHW.device).view(1, 3, 1, 1) for values in (recipe.mean, recipe.std)
    )
    return ((crops_BCHW / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def _settle(network: nn.Module, inputs: torch.Tensor) -> None:
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
