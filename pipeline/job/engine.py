"""The engine of a job: the one that the options name, or the one that suits it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pipeline.config.settings import EngineConfig, OpenEngineConfig
from pipeline.engines.choice import choose_engine
from pipeline.engines.inline import InlineEngine
from pipeline.engines.on_ray import RayEngine
from pipeline.engines.workload import Engine
from pipeline.machine import num_local_gpus

Settled = TypeVar("Settled", bound=OpenEngineConfig)


def make_engine(config: EngineConfig, note: Callable[[str], None] = lambda line: None) -> Engine:
    """The engine that the options name, after :func:`settle_engine`.

    Args:
        config: The options.
        note: Called with a line where something takes long.
    """
    if config.engine == "inline":
        return InlineEngine()
    return RayEngine(config.ray_address, verbose=config.verbose, note=note)


def settle_engine(
    config: Settled,
    note: Callable[[str], None],
    *,
    on_gpus: bool = False,
    is_small: Callable[[], bool] = lambda: False,
) -> Settled:
    """Choose an engine where the options leave it open, and say which and why.

    Args:
        config: The options.
        note: Called with the choice, in one line.
        on_gpus: Whether GPUs would be used.
        is_small: Whether the job is done before Ray would have started.

    Returns:
        The options with the choice.
    """
    if config.engine != "auto":
        return config
    choice = choose_engine(
        config.ray_address,
        None if config.workers == "auto" else config.workers,
        num_gpus=num_local_gpus if on_gpus else lambda: 0,
        is_small=is_small,
    )
    note(choice.describe())
    chosen: dict[str, object] = {"engine": choice.engine, "ray_address": choice.address}
    if choice.num_workers is not None:
        chosen["workers"] = choice.num_workers
    return config.model_copy(update=chosen)
