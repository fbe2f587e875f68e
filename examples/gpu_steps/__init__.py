"""The steps of ``measure_gpu.py``: what each checks or measures, and the process that runs them.

``table`` lists them; ``run``, ``process`` and ``record`` use Python's own library alone, so that the script starts at
once and outlives a step that dies. The steps are in the other modules, which only the process beside it loads.
"""
