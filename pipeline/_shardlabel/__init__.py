"""shardlabel's Python API under the name of its command: the functions of :mod:`pipeline`, and its errors.

The build puts this folder beside ``pipeline``, as ``shardlabel``.

>>> import shardlabel
>>> shardlabel.label("photos/", out="labels", model="resnet50,densenet121")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pipeline
from pipeline import errors

if TYPE_CHECKING:
    from pipeline import *  # noqa: F403 - what __all__ names, for editors

__all__ = [*pipeline.__all__, "errors"]


def __getattr__(name: str) -> object:
    if name in pipeline.__all__:
        return getattr(pipeline, name)
    raise AttributeError(f"module 'shardlabel' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
