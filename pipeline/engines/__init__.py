"""Engines run a worker over items and stream what it yields; they know nothing of images.

``inline`` calls the worker in this process; ``on_ray`` has Ray Data schedule it: the one module that imports Ray.
"""

from pipeline.engines.inline import InlineEngine
from pipeline.engines.on_ray import RayEngine

__all__ = ["InlineEngine", "RayEngine"]
