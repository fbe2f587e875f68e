"""Networks that are built once in a test process: folding, packing and trying one takes longer than most small jobs."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

_MOST = 40  # networks that are kept
_USERS = ("pipeline.models.ensemble.Classifier", "pipeline.speed.stage_bench.Classifier")


@contextlib.contextmanager
def networks_built_once() -> Iterator[None]:
    """Give each job the weights that an earlier one has checked, and the network that it has built for the same use.

    It is the real one, shared as the units of a job share it; tests of networks themselves do without.
    """
    from pipeline.models.classifier import Classifier
    from pipeline.models.weights import open_weights

    def opened(architecture, known, file, requested):
        about = (file.name, file.sha256, file.is_named, tuple(file.companions.items()))
        key = (architecture.name, known, about, requested)
        return _kept(_opened, key, lambda: open_weights(architecture, known, file, requested))

    def classifier(spec, blob, device, precision, *, compiled=False, batch_size=None, tuning=None):
        def build() -> Classifier:
            return Classifier(spec, blob, device, precision, compiled=compiled, batch_size=batch_size, tuning=tuning)

        if compiled or device.type != "cpu" or (tuning is not None and tuning.may_measure):
            return build()
        lanes = None if tuning is None else (tuning.num_threads, tuning.cache_file)
        key = (replace(spec, alias="", factor=1.0), hashlib.sha256(blob).digest(), precision, batch_size, lanes)
        found = copy.copy(_kept(_built, key, build))
        found.spec = spec
        return found

    with pytest.MonkeyPatch.context() as patch:
        for user in _USERS:
            patch.setattr(user, classifier)
        patch.setattr("pipeline.models.weights.open_weights", opened)
        yield


def _kept(store: dict[tuple, Any], key: tuple, make: Callable[[], Any]) -> Any:
    if key not in store:
        while len(store) >= _MOST:
            del store[next(iter(store))]
        store[key] = make()
    return store[key]


_built: dict[tuple, Any] = {}
_opened: dict[tuple, Any] = {}
