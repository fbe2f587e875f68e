"""Files as trainers lay them out, with a network of five tensors in the place of a real one.

Where the layout is a tool's own, the tool and the version whose files were looked at are named.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import enum
import io
import pathlib
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pipeline.checkpoints.choosing import ChosenState, choose_state
from pipeline.checkpoints.reading import read_checkpoint

BODY = ("conv1.weight", "bn1.running_mean")


def network(seed: int = 0, classes: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"conv1.weight": (8, 3, 3, 3), "bn1.weight": (8,), "bn1.running_mean": (8,), "fc.weight": (classes, 8)}
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {**state, "bn1.num_batches_tracked": torch.tensor(seed)}


def fits(state: Mapping[str, object]) -> bool:
    return all(name in state for name in BODY) and "fc.weight" in state


def saved(content: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def choose(content: object, name: str = "x.pth", **options: Any) -> ChosenState:
    """Save, read, and choose as a member of the network's architecture would."""
    data = content if isinstance(content, bytes) else saved(content)
    return choose_state(read_checkpoint(name, data), fits, **options)


class Colour(enum.Enum):
    RED = 1


class Settings(dict):
    """A kind of dict, as configurations are (easydict, omegaconf, Lightning's AttributeDict)."""


class Names(list):
    pass


class Hostile:
    """Would run code where a pickle is loaded as Python loads it; harmless here."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path(self.path),)


def bystanders() -> dict[str, Any]:
    """What lies beside the weights in people's files."""
    return {
        "epoch": 3,
        "best_acc": np.float64(71.5),
        "history": np.arange(3),
        "args": argparse.Namespace(lr=0.1, output_dir=pathlib.Path("runs"), model="resnet18"),
        "when": datetime.datetime(2026, 11, 28, tzinfo=datetime.UTC),
        "path": pathlib.PosixPath("/data"),
        "counts": collections.Counter("aab"),
        "logs": collections.defaultdict(list, a=[1]),
        "classes": range(4),
        "lr": decimal.Decimal("0.1"),
        "colour": Colour.RED,
        "more": types.SimpleNamespace(a=1),
        "settings": Settings(a=Settings(b=1)),
        "names": Names(["a", "b"]),
        "seen": {1, 2},
        "fixed": frozenset({1}),
        "complex": 1j,
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "optimizer": {"state": {0: {"momentum": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
    }


def timm_train() -> dict[str, Any]:
    """timm 1.0.28, train.py --model-ema: raw weights, averaged ones beside them."""
    return {"arch": "x", "state_dict": network(0), "state_dict_ema": network(1), **bystanders()}


def torchvision_train() -> dict[str, Any]:
    """torchvision 0.29, references/classification --model-ema: the average as ``AveragedModel`` has it."""
    averaged = {f"module.{name}": value for name, value in network(1).items()}
    return {"model": network(0), "model_ema": {"n_averaged": torch.tensor(5), **averaged}, **bystanders()}


def lightning(seed: int = 0) -> dict[str, Any]:
    """Lightning 2.6.6: names begin with the attribute; buffers of losses lie among them."""
    state = {f"net.{name}": value for name, value in network(seed).items()}
    return {
        "state_dict": {**state, "criterion.weight": torch.ones(4)},
        "hyper_parameters": Settings(path=pathlib.PosixPath("x"), lr=np.float32(0.1)),
        "pytorch-lightning_version": "2.6.6",
    }


def lightning_averaged() -> dict[str, Any]:
    """Lightning 2.6.6, EMAWeightAveraging: ``state_dict`` is the average, the raw weights have another key."""
    return {**lightning(1), "current_model_state": lightning(0)["state_dict"], "averaging_state": {"n_averaged": 3}}


def ema_pytorch() -> dict[str, Any]:
    """ema_pytorch 0.8.3: both under one key."""
    both = {f"online_model.{name}": value for name, value in network(0).items()}
    both |= {f"ema_model.{name}": value for name, value in network(1).items()}
    return {"model": network(0), "ema": {"initted": torch.tensor(True), "step": torch.tensor(1), **both}}


def mmengine_averaged() -> dict[str, Any]:
    """MMEngine 0.10.7, EMAHook: it swaps the two, so that ``ema_state_dict`` has the raw weights."""
    raw = {f"module.{name}": value for name, value in network(0).items()}
    return {
        "meta": {},
        "state_dict": network(1),
        "message_hub": {},
        "ema_state_dict": {"steps": torch.tensor(9), **raw},
    }


def averaged_model() -> dict[str, Any]:
    """torch 2.15, ``AveragedModel.state_dict()`` alone, without the raw weights."""
    return {"n_averaged": torch.tensor(5), **{f"module.{name}": value for name, value in network(1).items()}}


def parameters(seed: int, prefix: str = "") -> dict[str, torch.Tensor]:
    """What training changes, in the order of ``network.parameters()``."""
    buffers = ("running_mean", "num_batches_tracked")
    return {f"{prefix}{name}": value for name, value in network(seed).items() if not name.endswith(buffers)}


class Averager:
    """A class for averaging of one's own, saved as an object."""

    def __init__(self) -> None:
        self.decay, self.shadow, self.backup = 0.99, parameters(1), {}


def lit_ema() -> dict[str, torch.Tensor]:
    """latent-diffusion's ``LitEma``: buffers of the module, whose names lack their full stops."""
    named = {f"model_ema.{name.replace('.', '')}": value for name, value in parameters(1).items()}
    raw = {f"model.{name}": value for name, value in network(0).items()}
    return {"model_ema.decay": torch.tensor(0.9), "model_ema.num_updates": torch.tensor(7), **named, **raw}


def averages_of_parameters() -> dict[str, Any]:
    """Files whose average is of the parameters alone, by the place where that lies."""
    raw = {"state_dict": network(0), **bystanders()}
    in_order = list(parameters(1).values())
    return {
        "ema": {**raw, "ema": parameters(1)},
        "state_dict_ema.module": {**raw, "state_dict_ema": parameters(1, "module.")},
        "ema.shadow": {**raw, "ema": {"decay": 0.9, "shadow": parameters(1), "backup": parameters(0)}},
        # torch_ema 0.3
        "ema.shadow_params": {**raw, "ema": {"decay": 0.9, "shadow_params": in_order, "collected_params": in_order}},
        "callbacks.EMA.ema_state_dict": {**raw, "callbacks": {"EMA": {"ema_state_dict": parameters(1)}}},
        "state.algorithms.0.1.ema_params": {**raw, "state": {"algorithms": [("EMA", {"ema_params": parameters(1)})]}},
        "averager.shadow": {**raw, "averager": Averager()},
        "state_dict.model_ema": {"state_dict": lit_ema()},
    }


def own_averaged() -> dict[str, Any]:
    """A class of one's own with MMEngine's key for the average, and a counter of that name."""
    averaged = {f"module.{name}": value for name, value in network(1).items()}
    return {"state_dict": network(0), "ema_state_dict": {"steps": torch.tensor(3), **averaged}}
