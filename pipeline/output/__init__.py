"""Files of OUT: names and footers of parts, listings, stored probabilities.

:mod:`pipeline.stages.write` writes the rows.
"""
