"""What jobs begin with, done before they fork: imported by what forks them, in a process of its own."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import torch
from built_once import networks_built_once
from small_jobs import ONE

import pipeline.models.ensemble as ensemble_module
from pipeline.config.settings import parse_members
from pipeline.machine import cache_folder
from pipeline.models.tuning import Tuning
from pipeline.models.weights import resolve
from pipeline.storage import Storage

_WEIGHTS = Path(__file__).parent.parent / "examples" / "data" / "weights"

torch.set_num_threads(1)  # threads do not survive a fork
_until_the_end = ExitStack()
_until_the_end.enter_context(networks_built_once())
_member = resolve(parse_members((ONE,))[0], str(_WEIGHTS), Storage())
ensemble_module.Classifier(
    _member.spec,
    _member.blob,
    torch.device("cpu"),
    "fp32",
    tuning=Tuning(1, cache_file=cache_folder() / "forward_sizes.json"),
)
