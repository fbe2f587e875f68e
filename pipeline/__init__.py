"""Label millions of images offline with an ensemble of ImageNet classifiers.

>>> from pipeline import label
>>> label("photos/", out="labels", model="resnet50,densenet121")  # doctest: +SKIP

Words are those of the command line. Every function raises :class:`pipeline.errors.ShardlabelError`
where the command would print one line and exit with a code.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.accuracy import evaluate
    from pipeline.audit import verify
    from pipeline.benchmark import bench
    from pipeline.calibrating import calibrate
    from pipeline.exporting.job import export
    from pipeline.forecast import plan
    from pipeline.job import label
    from pipeline.survey import status

__all__ = ["bench", "calibrate", "evaluate", "export", "label", "plan", "status", "verify"]

_HOMES = {
    "bench": "pipeline.benchmark",
    "calibrate": "pipeline.calibrating",
    "evaluate": "pipeline.accuracy",
    "export": "pipeline.exporting.job",
    "label": "pipeline.job",
    "plan": "pipeline.forecast",
    "status": "pipeline.survey",
    "verify": "pipeline.audit",
}


def __getattr__(name: str) -> object:
    # Looked up on first use: torch and Ray take seconds to import, and --help needs neither.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
