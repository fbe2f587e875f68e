"""Label millions of images offline with an ensemble of ImageNet classifiers.

>>> from pipeline import label
>>> label("photos/", out="labels", model="resnet50,densenet121")  # doctest: +SKIP

Options have the names of the command line. Every function raises :class:`pipeline.errors.ShardlabelError`
where the command prints one line and exits with a code above 0.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.commands.annotate import annotate
    from pipeline.commands.bench import bench
    from pipeline.commands.calibrate import calibrate
    from pipeline.commands.classes import classes
    from pipeline.commands.combine import combine
    from pipeline.commands.evaluate import evaluate
    from pipeline.commands.export import export
    from pipeline.commands.gallery import gallery
    from pipeline.commands.label import label
    from pipeline.commands.plan import plan
    from pipeline.commands.relocate import relocate
    from pipeline.commands.report import report
    from pipeline.commands.review import review
    from pipeline.commands.sample import sample
    from pipeline.commands.status import status
    from pipeline.commands.verify import verify

__all__ = [
    "annotate",
    "bench",
    "calibrate",
    "classes",
    "combine",
    "evaluate",
    "export",
    "gallery",
    "label",
    "plan",
    "relocate",
    "report",
    "review",
    "sample",
    "status",
    "verify",
]

_MODULES = {
    "annotate": "pipeline.commands.annotate",
    "bench": "pipeline.commands.bench",
    "calibrate": "pipeline.commands.calibrate",
    "classes": "pipeline.commands.classes",
    "combine": "pipeline.commands.combine",
    "evaluate": "pipeline.commands.evaluate",
    "export": "pipeline.commands.export",
    "gallery": "pipeline.commands.gallery",
    "label": "pipeline.commands.label",
    "plan": "pipeline.commands.plan",
    "relocate": "pipeline.commands.relocate",
    "report": "pipeline.commands.report",
    "review": "pipeline.commands.review",
    "sample": "pipeline.commands.sample",
    "status": "pipeline.commands.status",
    "verify": "pipeline.commands.verify",
}


def __getattr__(name: str) -> object:
    # Looked up on first use: torch and Ray take seconds to import, and --help needs neither.
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
