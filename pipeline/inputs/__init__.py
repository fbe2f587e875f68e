"""From INPUT arguments to units, and from units back to the original images.

:mod:`pipeline.stages.read` reads one unit.
"""
