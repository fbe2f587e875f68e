"""Networks that are built once in a test process: folding, packing and trying one takes longer than most small jobs."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

_MOST = 40  # networks that are kept
_USERS = ("pipeline.models.ensemble.Classifier", "pipeline.speed.stage_bench.Classifier")


@contextlib.contextmanager
def networks_built_once() -> Iterator[None]:
    """Give each job a network that an earlier one has built of the same tensors for the same use.

    It is the real one, shared as the units of a job share it; tests of networks themselves do without.
    """
    from pipeline.models.classifier import Classifier

    def classifier(spec, blob, device, precision, *, compiled=False, batch_size=None, tuning=None):
        def build() -> Classifier:
            return Classifier(spec, blob, device, precision, compiled=compiled, batch_size=batch_size, tuning=tuning)

        if compiled or device.type != "cpu" or (tuning is not None and tuning.may_measure):
            return build()
        lanes = None if tuning is None else (tuning.num_threads, tuning.cache_file)
        key = (replace(spec, alias="", factor=1.0), hashlib.sha256(blob).digest(), precision, batch_size, lanes)
        if key not in _built:
            while len(_built) >= _MOST:
                del _built[next(iter(_built))]
            _built[key] = build()
        found = copy.copy(_built[key])
        found.spec = spec
        return found

    with pytest.MonkeyPatch.context() as patch:
        for user in _USERS:
            patch.setattr(user, classifier)
        yield


_built: dict[tuple, Any] = {}
