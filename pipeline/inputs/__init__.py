"""INPUT arguments to units, and units back to the original images.

How one unit is read is a stage.
"""
